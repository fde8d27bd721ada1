"""How many of the proposed tokens are kept; `POLICIES` is the whole list.

`fixed` keeps all. `confidence` stops proposing where a head is unsure. The others verify: the step after a proposal
runs the decoder over the proposed tokens anyway, so the main head's word in each of their places costs one projection
and no layer, and a rule keeps the first of them, up to one that it does not accept; there the main head picks.

An end token from a module is never kept without the main head, which decides in its place. Deliberate difference from
the published code: there it ends the answer, so under `fixed` it does with behaviour "released", and in groups, which
have no main head.

Letters: m proposed tokens, V_s vocabulary. Adaptive steps are steps of one sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vocalnet.decoder.heads.contract import Head
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.sampling import probabilities


@dataclass(frozen=True, slots=True)
class Check:
    """Proposed tokens beside the main head's word in their places; log-weights are those of `sampling.weigh`."""

    tokens: Tensor  # (m,)
    drawn_by: Tensor  # (m, V_s) log-weights by which the modules picked them
    scores: Tensor  # (m, V_s) the main head's, each with the history up to its place
    coins: Tensor  # (m,) uniform draws from [0, 1)
    eos_id: int

    def of_tokens(self, values: Tensor) -> Tensor:
        """Returns the entries (m,) of `values` (m, V_s) at the proposed tokens."""
        return values.gather(-1, self.tokens[:, None])[:, 0]

    @property
    def is_end(self) -> Tensor:
        """Where the main head's first choice is the end token, (m,)."""
        return self.scores.argmax(-1) == self.eos_id


@dataclass(frozen=True, slots=True)
class Policy:
    """One way of keeping tokens; a policy with neither `accepts` nor `goes_on` keeps all."""

    accepts: Callable[[Check, DecodeOptions], Tensor] | None = None  # verdict (m,) of each on its own
    goes_on: Callable[[Tensor, DecodeOptions], bool] | None = None  # by raw logits (1, V_s): keep it and propose more
    resamples: bool = False  # a rejected token's place is drawn from `sampling.residual`
    is_greedy: bool = False  # compares with the greedy choice

    @property
    def is_adaptive(self) -> bool:
        """Whether steps differ in how many tokens they keep."""
        return self.accepts is not None or self.goes_on is not None


def greedy_verify(check: Check, options: DecodeOptions) -> Tensor:
    """Accepts what the main head would have picked: token for token the answer of one token per step."""
    return check.tokens == check.scores.argmax(-1)


def rejection(check: Check, options: DecodeOptions) -> Tensor:
    """Accepts with probability min(1, p / q): with the residual, the distribution of one token per step."""
    p = check.of_tokens(probabilities(check.scores, options))
    q = check.of_tokens(probabilities(check.drawn_by, options))
    return check.coins * q < p


def typical(check: Check, options: DecodeOptions) -> Tensor:
    """Accepts a probability above min(eps, alpha * exp(-entropy)) (Medusa); an end of the main head stands."""
    probs = check.scores.float().softmax(-1)  # (m, V_s)
    entropy = torch.special.entr(probs).sum(-1)
    least = (options.alpha * (-entropy).exp()).clamp(max=options.eps)
    return (check.of_tokens(probs) > least) & ~check.is_end


def top_n(check: Check, options: DecodeOptions) -> Tensor:
    """Accepts the main head's n most likely tokens, as far as it may pick them; an end of the main head stands."""
    own = check.of_tokens(check.scores)
    n_better = (check.scores > own[:, None]).sum(-1)
    return (n_better < options.top_n) & own.isfinite() & ~check.is_end


def is_confident(logits: Tensor, options: DecodeOptions) -> bool:
    """Says whether the maximum probability of raw logits (1, V_s) reaches tau."""
    return float(logits.float().softmax(-1).amax()) >= options.tau


POLICIES: dict[str, Policy] = {
    "fixed": Policy(),
    "greedy_verify": Policy(accepts=greedy_verify, is_greedy=True),
    "rejection": Policy(accepts=rejection, resamples=True),
    "typical": Policy(accepts=typical),
    "top_n": Policy(accepts=top_n),
    "confidence": Policy(goes_on=is_confident),
}


def find_policy(name: str) -> Policy:
    """Returns a policy by name.

    Raises:
        ValueError: there is none of that name; the message lists the available ones.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; available: {', '.join(POLICIES)}")
    return POLICIES[name]


def policy_for(head: Head, options: DecodeOptions) -> Policy:
    """Returns the policy of the options for a head.

    Raises:
        ValueError: there is no such policy, or it cannot work with this head or these options.
    """
    policy = find_policy(options.policy)
    if policy.is_adaptive and head.stride > 1:
        raise ValueError(
            f'policy "{options.policy}" keeps a part of a step, but this talker takes and gives tokens in groups of '
            f'{head.stride}, with no main head to speak in between; use policy="fixed"'
        )
    if policy.is_greedy and options.temperature > 0:
        raise ValueError(
            f'policy "{options.policy}" compares with the greedy choice; set temperature=0, '
            'or sample with policy="rejection"'
        )
    return policy


def count_accepted(policy: Policy, check: Check, options: DecodeOptions) -> int:
    """Returns how many of the first proposed tokens are kept, up to the first that is not accepted."""
    assert policy.accepts is not None
    is_accepted = policy.accepts(check, options) & (check.tokens != check.eos_id)
    return int(is_accepted.cumprod(0).sum())
