"""Picking tokens from logits without leaving the device.

Letters: B batch, V_s speech vocabulary.
"""

from __future__ import annotations

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


class Draws:
    """The random draws of a batch, one generator per sample, so that a sample's draws do not depend on its batch."""

    def __init__(self, batch: int, seed: int | None, device: torch.device) -> None:
        self._generators = [torch.Generator(device) for _ in range(batch)]
        for generator in self._generators:
            if seed is None:
                generator.seed()
            else:
                generator.manual_seed(seed)

    def gumbel(self, like: Tensor) -> Tensor:
        """Returns Gumbel noise of the shape (B, V_s) of `like`."""
        noise = [torch.rand(like.shape[-1], generator=g, device=like.device) for g in self._generators]
        uniform = torch.stack(noise).clamp(min=torch.finfo(torch.float32).tiny)
        return -(-uniform.log()).log()


def pick(logits: Tensor, options: DecodeOptions, draws: Draws) -> Tensor:
    """Returns a token (B,) from logits (B, V_s): the best one, or one drawn with temperature, top k and top p."""
    if options.temperature == 0:
        return logits.argmax(-1)
    scaled = restrict(logits.float() / options.temperature, options.top_k, options.top_p)
    return (scaled + draws.gumbel(scaled)).argmax(-1)


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
