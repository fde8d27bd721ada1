"""Causal building blocks shared by the flow's encoder and estimator: left context, what a pass leaves behind, masks.

Letters: B batch, C channels, H heads, d head width, N frames of this pass, N_past frames of earlier passes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.vocoder.memory import SpareMemory

PRODUCT_SCORES = 1 << 22  # of all heads, 16 MB
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
        self._constants: dict[nn.Module, list[Tensor]] = {}
        self._rows: dict[nn.Module, tuple[Tensor, int]] = {}  # with room for later passes, and how many are in use
        self._spare = SpareMemory() if spare is None else spare
        weakref.finalize(self, _give_back, self._rows, self._spare).atexit = False

    def append(self, owner: nn.Module, x: Tensor) -> Tensor:
        """Returns everything `owner` appended so far, (..., N_past + N, C), and keeps it."""
        *outer, N, C = x.shape
        rows, n_past = self._rows.get(owner, (x[..., :0, :], 0))
        n = n_past + N
        if n > rows.shape[-2]:
            larger = self._spare.take((*outer, ROOM_PASSES * N + n_past + n_past // 2, C), like=x)
            larger[..., :n_past, :] = rows[..., :n_past, :]
            self._spare.give(rows)
            rows = larger
        rows[..., n_past:n, :] = x
        self._rows[owner] = rows, n
        return rows[..., :n, :]

    def once(self, owner: nn.Module, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Returns what `make` gave in the first pass: what is the same in all of them."""
        if owner not in self._constants:
            self._constants[owner] = make()
        return self._constants[owner]

    def after_tail(self, owner: nn.Module, x: Tensor, n: int) -> Tensor:
        """Returns x (B, N, C) after the n frames before it, zeros at the start; keeps the last n for the next pass."""
        left = self._tails.get(owner)
        if left is None:
            left = x.new_zeros(x.shape[0], n, x.shape[2])
        joined = torch.cat([left, x], dim=1)  # (B, n + N, C)
        self._tails[owner] = joined[:, -n:].clone()  # a view would keep all of it
        return joined


def _give_back(rows: dict[nn.Module, tuple[Tensor, int]], spare: SpareMemory) -> None:
    for piece, _ in rows.values():
        spare.give(piece)


def with_left_context(owner: nn.Module, x: Tensor, n: int, cache: PassCache | None) -> Tensor:
    """Puts n earlier frames before x: those of the cache, else zeros. (B, N, C) -> (B, n + N, C)."""
    if n == 0:
        return x
    return functional.pad(x, (0, 0, n, 0)) if cache is None else cache.after_tail(owner, x, n)


class RowConv1d(nn.Conv1d):
    """Convolution of kernel k over frames as rows: (B, k - 1 + N, C_in) -> (B, N, C_out).

    For inference, `unfold` makes one matrix product of it: one kernel then suits any number of frames, and a call over
    few of them costs no more per frame. It is saved as the convolution that it was.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__(in_channels, channels, kernel)
        self.unfolded: nn.Linear | None = None

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if self.unfolded is None:
            return super().forward(x.transpose(1, 2)).transpose(1, 2)  # (B, N, C_out)
        k = self.kernel_size[0]
        if k > 1:
            B, n, C = x.shape
            x = x.contiguous().as_strided((B, n - k + 1, k * C), (n * C, C, 1))  # row i: frames i..i + k
        return self.unfolded(x)  # (B, N, C_out)

    def unfolding(self) -> nn.Linear:
        """Returns the linear layer from k frames side by side (..., k * C_in) to one (..., C_out)."""
        weight = self.weight.detach().transpose(1, 2).flatten(1)  # (C_out, k * C_in)
        linear = nn.utils.skip_init(nn.Linear, *weight.shape[::-1], bias=self.bias is not None)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = None if self.bias is None else nn.Parameter(self.bias.detach(), requires_grad=False)
        return linear

    def unfold(self) -> None:
        """Replaces the weight by its `unfolding`, in place: for inference."""
        self.unfolded = self.unfolding()
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        self.register_state_dict_post_hook(_save_folded)


def _save_folded(conv: RowConv1d, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Puts the convolution's weight and bias in the place of the linear layer's."""
    weight = state.pop(f"{prefix}unfolded.weight")  # (C_out, k * C_in)
    state[f"{prefix}weight"] = weight.unflatten(1, (conv.kernel_size[0], -1)).transpose(1, 2).contiguous()
    bias = state.pop(f"{prefix}unfolded.bias", None)
    if bias is not None:
        state[f"{prefix}bias"] = bias


class CausalConv1d(RowConv1d):
    """Convolution that sees no later frame: (B, N, C_in) -> (B, N, C_out)."""

    def forward(self, x: Tensor, cache: PassCache | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(with_left_context(self, x, self.kernel_size[0] - 1, cache))  # (B, N, C_out)


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


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention: (B, H, N, d), twice (B, H, N_k, d) -> (B, H, N, d).

    On a CPU, batched products take two thirds of the time of torch's fused kernel, as long as the scores fit its cache.

    Args:
        query, key, value: of all heads.
        bias: added to the scores, (B or 1, 1, N or 1, N_k); None: all keys are seen alike.
    """
    B, H, N, d = query.shape
    is_small = B * H * N * key.shape[2] <= PRODUCT_SCORES
    if query.device.type != "cpu" or torch.is_grad_enabled() or not is_small:
        return functional.scaled_dot_product_attention(query, key, value, bias)
    scaled = torch.mul(query, d**-0.5, out=query.new_empty(query.shape)).flatten(0, 1)  # (B * H, N, d)
    keys = key.flatten(0, 1).transpose(1, 2)  # (B * H, d, N_k)
    if bias is None:
        scores = torch.bmm(scaled, keys)  # (B * H, N, N_k)
    else:
        scores = torch.baddbmm(bias.expand(B, H, N, -1).flatten(0, 1), scaled, keys)
    return torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(query.shape)
