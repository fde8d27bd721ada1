"""Picking tokens from logits without leaving the device.

Letters: B batch, V_s speech vocabulary.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor

from vocalnet.decoder.options import DecodeOptions

NEVER = float("-inf")


def restrict(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Returns logits (B, V_s) with everything outside the top k and the top p at minus infinity."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, NEVER)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        mass = ordered.softmax(-1)
        is_outside = mass.cumsum(-1) - mass >= top_p  # the first token always stays
        logits = logits.masked_fill(torch.zeros_like(is_outside).scatter(-1, order, is_outside), NEVER)
    return logits


def weigh(logits: Tensor, history: Tensor, options: DecodeOptions) -> Tensor:
    """Returns the log-weights (B, V_s) that a token is picked by: logits (B, V_s) themselves when greedy.

    `history` (B, n): the tokens so far.
    """
    if options.temperature == 0:
        return logits
    full = logits.float() / options.temperature
    scores = restrict(full, options.top_k, options.top_p)
    aware = options.repetition_aware
    return scores if aware is None else aware.apply(scores, full, history)


def probabilities(scores: Tensor, options: DecodeOptions) -> Tensor:
    """Returns the distribution (B, V_s) that `pick` follows for log-weights (B, V_s)."""
    if options.temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).float()
    return scores.softmax(-1)


def residual(scores: Tensor, rejected: Tensor, options: DecodeOptions, eos_id: int) -> Tensor:
    """Returns the log-weights (B, V_s) of the draw that follows a rejected one (speculative sampling).

    What the main head's distribution holds beyond what accepted draws have taken from it. No end token is ever accepted
    from a module, so all of the end token's probability is left.

    Args:
        scores: the main head's log-weights, (B, V_s).
        rejected: those that the rejected token was drawn by, (B, V_s).
        options: of the decoding.
        eos_id: the end token.
    """
    taken = probabilities(rejected, options)
    taken[:, eos_id] = 0
    left = (probabilities(scores, options) - taken).clamp(min=0)
    return left.log().where(left.sum(-1, keepdim=True) > 0, scores)  # nothing is left only by rounding


class Noise(Protocol):
    """What drawn tokens are drawn with."""

    def gumbel(self, like: Tensor) -> Tensor:
        """Returns Gumbel noise of the shape (B, V_s) of `like`."""


def gumbel(uniform: Tensor) -> Tensor:
    """Returns the Gumbel noise of uniform draws from [0, 1), of any shape."""
    return -(-uniform.clamp(min=torch.finfo(torch.float32).tiny).log()).log()


class Draws:
    """The random draws of a batch, one generator per sample, so that a sample's draws do not depend on its batch."""

    def __init__(self, batch: int, seed: int | None, device: torch.device) -> None:
        self._generators = [torch.Generator(device) for _ in range(batch)]
        for generator in self._generators:
            if seed is None:
                generator.seed()
            else:
                generator.manual_seed(seed)

    def of(self, sample: int) -> Draws:
        """Returns the draws that one sample has left, without the others' and without touching them."""
        draws = copy.copy(self)
        draws._generators = [self._generators[sample].clone_state()]
        return draws

    def uniform(self, n: int) -> Tensor:
        """Returns n draws from [0, 1) per sample, (B, n)."""
        return torch.stack([torch.rand(n, generator=g, device=g.device) for g in self._generators])

    def gumbel(self, like: Tensor) -> Tensor:
        """Returns Gumbel noise of the shape (B, V_s) of `like`."""
        return gumbel(self.uniform(like.shape[-1]))

    def fill(self, uniform: Tensor) -> None:
        """Draws from [0, 1) into `uniform` (K, B, n) what K calls of `uniform(n)` would have drawn."""
        for rows in uniform:
            for row, generator in zip(rows, self._generators, strict=True):
                row.uniform_(generator=generator)


def pick(scores: Tensor, options: DecodeOptions, noise: Noise) -> Tensor:
    """Returns a token (B,) by log-weights (B, V_s) from `weigh`: the best one when greedy, otherwise a drawn one."""
    if options.temperature == 0:
        return scores.argmax(-1)
    return (scores + noise.gumbel(scores)).argmax(-1)


def measure(logits: Tensor, tokens: Tensor) -> Tensor:
    """Returns entropy, maximum probability and log-probability of the token (natural log), (n, 3), from raw logits.

    Args:
        logits: (n, V_s), before temperature and penalties.
        tokens: the picked tokens, (n,).
    """
    logprobs = logits.float().log_softmax(-1)  # (n, V_s)
    probs = logprobs.exp()
    entropy = -(probs * logprobs).sum(-1)
    return torch.stack([entropy, probs.amax(-1), logprobs.gather(-1, tokens[:, None])[:, 0]], -1)  # (n, 3)


def likeliest(logits: Tensor, n: int) -> list[tuple[tuple[int, float], ...]]:
    """Returns (token, probability) of the n most likely tokens of each row of raw logits (rows, V_s), in order."""
    top = logits.float().softmax(-1).topk(min(n, logits.shape[-1]))
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [tuple(zip(tokens, probs, strict=True)) for tokens, probs in rows]
