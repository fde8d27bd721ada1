"""Causal building blocks shared by the flow's encoder and estimator: left context, what a pass leaves behind, masks.

Letters: B batch, C channels, N frames of this pass, N_past frames of earlier passes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PassCache:
    """What one causal pass leaves for the next one over later frames of the same utterance.

    Convolutions leave the tail of their input, attention its keys and values; both are stored under the module that
    owns them. The cache belongs to one stream: modules only write to the one they are given.
    """

    def __init__(self) -> None:
        self.n_seen = 0  # frames (or tokens) of earlier passes; the outermost module adds to it
        self._kept: dict[nn.Module, Tensor] = {}

    def append(self, owner: nn.Module, x: Tensor) -> Tensor:
        """Returns everything `owner` appended so far, (B, H, N_past + N, d), and keeps it."""
        if owner in self._kept:
            x = torch.cat([self._kept[owner], x], dim=2)  # (B, H, N_past + N, d)
        self._kept[owner] = x
        return x

    def tail(self, owner: nn.Module, x: Tensor, n: int) -> Tensor:
        """Returns the n frames before x (B, C, N), zeros at the start, and keeps the last n for the next pass."""
        left = self._kept.get(owner)
        if left is None:
            left = x.new_zeros(*x.shape[:2], n)
        self._kept[owner] = torch.cat([left, x], dim=2)[..., -n:]  # (B, C, n)
        return left


def with_left_context(owner: nn.Module, x: Tensor, n: int, cache: PassCache | None) -> Tensor:
    """Puts n earlier frames before x: those of the cache, else zeros. (B, C, N) -> (B, C, n + N)."""
    if cache is None:
        return functional.pad(x, (n, 0))
    return torch.cat([cache.tail(owner, x, n), x], dim=2)  # (B, C, n + N)


class CausalConv1d(nn.Conv1d):
    """Convolution that sees no later frame: (B, C_in, N) -> (B, C_out, N)."""

    def forward(self, x: Tensor, cache: PassCache | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(with_left_context(self, x, self.kernel_size[0] - 1, cache))  # (B, C_out, N)


def length_mask(lengths: Tensor, n: int) -> Tensor:
    """Returns True on the first `lengths` of n frames: (B,) -> (B, n)."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def attention_mask(
    n: int, n_past: int, chunk: int | None, lengths: Tensor | None, device: torch.device
) -> Tensor | None:
    """Returns which keys each query sees, bool (B or 1, 1, N, N_past + N), or None if it is all of them.

    Query i, at absolute position N_past + i, sees keys up to the end of its chunk and all earlier ones (chunk-aware
    flow matching, CosyVoice 2). `lengths` (B,) hides padding on the right; it has no meaning with a past.
    """
    mask = None
    if chunk is not None:
        queries = torch.arange(n_past, n_past + n, device=device)
        keys = torch.arange(n_past + n, device=device)
        mask = (keys < (queries[:, None] // chunk + 1) * chunk)[None, None]  # (1, 1, N, N_past + N)
    if lengths is not None:
        assert n_past == 0
        valid = length_mask(lengths, n)[:, None, None]  # (B, 1, 1, N)
        mask = valid if mask is None else mask & valid  # (B, 1, N or 1, N)
    return mask


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, N, H * d) -> (B, H, N, d)."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, d) -> (B, N, H * d)."""
    return x.transpose(1, 2).flatten(2)
