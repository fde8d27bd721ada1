"""What a speedup is: nominal (tokens per step), the bound on it, and measured (wall clock).

The paper's "3x" is nominal: it counts decoder steps. A step that says more tokens runs more layers, so there is a bound
to what it can gain over one token per step of the same backbone: by the layers that a step runs, or by the weights that
it reads, which is what decoding waits for. Both come from running one step of the head without data and counting, so
they hold for any head. Always show all three.

Letters: K tokens per step, G group size, M MTP modules, D talker width.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Block, Rows, Stack, rotation
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.heads.contract import Step
from vocalnet.events import TokenStat, acceptance


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one decoding step needs: layers run, and weights read (norms and vocabulary projections included)."""

    layers: int
    weights: int


@functools.cache
def step_cost(config: TalkerConfig, tokens_per_step: int) -> StepCost:
    """Counts one step of the backbone and its head; a weight that the step uses twice is read twice.

    Attention over the cache is left out: it depends on the length, and is small beside the weights.

    Raises:
        ValueError: this head cannot say so many tokens in a step.
    """
    with torch.device("meta"):  # shapes without data: a published size costs no more than nano's
        table = nn.Embedding(config.vocab_size, config.dim)
        decoder, head = Stack(config, config.n_layers).eval(), HEADS[config.head](config)
        if not head.stride <= tokens_per_step <= head.n_heads:
            raise ValueError(
                f"{config.head} says {head.stride} to {head.n_heads} tokens per step with this config; "
                f"there is no speedup at {tokens_per_step}"
            )
        counter = _Counter(decoder, head)
        fed = torch.zeros(1, head.stride, dtype=torch.long)
        inputs = head.embed(table, fed)  # (1, 1, D)
        cos, sin = rotation(torch.zeros(1, 1), config.dim // config.n_heads, config.rope_theta, inputs.dtype)
        rows = Rows(cos, sin)
        h = decoder(inputs, rows)
        head.step(h, Step(fed, inputs, lambda depth: rows, table), tokens_per_step, _First())
    return StepCost(counter.layers, counter.weights)


def bound_by_layers(config: TalkerConfig, tokens_per_step: int) -> float:
    """Returns the speedup over one token per step if time went with the layers run: K * 4 / (4 + K - 1) as published.

    Raises:
        ValueError: this head cannot say so many tokens in a step.
    """
    return tokens_per_step * _ntp_cost(config).layers / step_cost(config, tokens_per_step).layers


def bound_by_weights(config: TalkerConfig, tokens_per_step: int) -> float:
    """Returns the speedup over one token per step if time went with the weights read.

    Raises:
        ValueError: this head cannot say so many tokens in a step.
    """
    return tokens_per_step * _ntp_cost(config).weights / step_cost(config, tokens_per_step).weights


def bounds_of(config: TalkerConfig, stats: Sequence[TokenStat]) -> dict[str, float]:
    """Returns {"layers", "weights"}: the bounds of what was said, from how many heads each step ran and what was kept.

    For `fixed` these are the bounds above, but for the last step. A verifying step's extra vocabulary projection and
    the rows that `confidence` runs later are not counted: bounds stay bounds.

    Raises:
        ValueError: nothing was said, or another head than the config's said it.
    """
    if not stats:
        raise ValueError("No speech token was proposed: there is no speedup.")
    heads = [stat.head for stat in stats]
    n_runs = [heads.count(k) for k in range(max(heads) + 1)]  # steps that ran head k, or more
    exactly = [n - later for n, later in zip(n_runs, [*n_runs[1:], 0], strict=True)]
    costs = [(n, step_cost(config, k + 1)) for k, n in enumerate(exactly) if n > 0]
    n_kept, ntp = acceptance(stats).n_kept, _ntp_cost(config)
    return {
        "layers": n_kept * ntp.layers / sum(n * cost.layers for n, cost in costs),
        "weights": n_kept * ntp.weights / sum(n * cost.weights for n, cost in costs),
    }


def nominal(stats: Sequence[TokenStat]) -> float:
    """Returns the tokens kept per step: the paper's speedup ratio."""
    return acceptance(stats).tokens_per_step


def tokens_per_second(n_tokens: int, seconds: Sequence[float]) -> float:
    """Returns the speed of runs that said the same `n_tokens` tokens, by the median of their times in seconds.

    Raises:
        ValueError: nothing was measured.
    """
    if not len(seconds):
        raise ValueError("A speed needs at least one measured time.")
    return n_tokens / statistics.median(seconds)


def measured(tokens_per_s: float, baseline_tokens_per_s: float) -> float:
    """Returns the measured speedup over one token per step, timed in the same run on the same texts."""
    return tokens_per_s / baseline_tokens_per_s


def _ntp_cost(config: TalkerConfig) -> StepCost:
    """Returns the cost of one token per step of the same backbone."""
    return step_cost(replace(config, head="ntp"), 1)


class _Counter:
    """Counts what runs inside some modules."""

    def __init__(self, *parts: Any) -> None:
        self.layers = self.weights = 0
        for part in parts:
            for module in part.modules():
                module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.layers += isinstance(module, Block)
        self.weights += sum(weight.numel() for weight in module.parameters(recurse=False))


class _First:
    """A sample callback that wants every head and always picks the first token."""

    at_once = None

    def wants(self, k: int) -> bool:
        """Says that every head is to run."""
        return True

    def __call__(self, k: int, logits: Tensor) -> Tensor:
        """Returns token 0 (B,)."""
        return logits.new_zeros(len(logits), dtype=torch.long)
