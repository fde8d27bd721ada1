"""Causal building blocks shared by the flow's encoder and estimator: left context, what a pass leaves behind, masks.

Letters: B batch, C channels, N frames of this pass, N_past frames of earlier passes.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.vocoder.memory import SpareMemory

ROOM_PASSES = 4  # a cache that is full makes room for so many passes like the one that filled it


class PassCache:
    """What one causal pass leaves for the next one over later frames of the same utterance.

    Convolutions leave the tail of their input, attention its keys and values; both are stored under the module that
    made them. The cache belongs to one stream: modules only write to the one they are given. What `append` returned is
    not to be used after the next pass or the cache's end: its memory goes back to `spare`.
    """

    def __init__(self, spare: SpareMemory | None = None) -> None:
        self.n_seen = 0  # frames (or tokens) of earlier passes; the outermost module adds to it
        self._tails: dict[nn.Module, Tensor] = {}
        self._rows: dict[nn.Module, tuple[Tensor, int]] = {}  # with room for later passes, and how many are in use
        self._spare = SpareMemory() if spare is None else spare
        weakref.finalize(self, _give_back, self._rows, self._spare).atexit = False

    def append(self, owner: nn.Module, x: Tensor) -> Tensor:
        """Returns everything `owner` appended so far, (B, N_past + N, C), and keeps it."""
        B, N, C = x.shape
        rows, n_past = self._rows.get(owner, (x[:, :0], 0))
        n = n_past + N
        if n > rows.shape[1]:
            larger = self._spare.take((B, ROOM_PASSES * N + n_past + n_past // 2, C), like=x)
            larger[:, :n_past] = rows[:, :n_past]
            self._spare.give(rows)
            rows = larger
        rows[:, n_past:n] = x
        self._rows[owner] = rows, n
        return rows[:, :n]

    def after_tail(self, owner: nn.Module, x: Tensor, n: int) -> Tensor:
        """Returns x (B, C, N) after the n frames before it, zeros at the start; keeps the last n for the next pass."""
        left = self._tails.get(owner)
        if left is None:
            left = x.new_zeros(*x.shape[:2], n)
        joined = torch.cat([left, x], dim=2)  # (B, C, n + N)
        self._tails[owner] = joined[..., -n:].clone()  # a view would keep all of it
        return joined


def _give_back(rows: dict[nn.Module, tuple[Tensor, int]], spare: SpareMemory) -> None:
    for piece, _ in rows.values():
        spare.give(piece)


def with_left_context(owner: nn.Module, x: Tensor, n: int, cache: PassCache | None) -> Tensor:
    """Puts n earlier frames before x: those of the cache, else zeros. (B, C, N) -> (B, C, n + N)."""
    return functional.pad(x, (n, 0)) if cache is None else cache.after_tail(owner, x, n)


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
    if chunk is not None and n_past + n > (n_past // chunk + 1) * chunk:  # else all is one chunk, and sees itself
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
