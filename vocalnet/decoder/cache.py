"""Keys and values of a decoding pass: preallocated, written in place, described slot by slot.

Slots are filled in order of arrival, text and speech mixed, so nothing is ever moved when text arrives late. What a
row may see follows from two numbers per slot.

Letters: B batch, H heads, d head width, n rows of a pass, C capacity in slots.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

HIDDEN = torch.iinfo(torch.long).max  # in `opens` and `order`: no row sees this slot


class Cache(Protocol):
    """Where attention keeps keys and values."""

    def write(self, layer: int, slot: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v (B, H, n, d) from `slot` on; returns what is attended to, (B, H, T, d)."""


class KVCache:
    """Keys and values of some layers, (B, H, C, d) each; grows by doubling."""

    def __init__(self, shape: tuple[int, int, int, int], capacity: int, like: Tensor) -> None:
        """Allocates for `shape` = (layers, B, H, d); device and dtype come from `like`."""
        layers, B, H, d = shape
        self.capacity = capacity  # slots that fit without growing
        self.keys = [like.new_empty(B, H, capacity, d) for _ in range(layers)]
        self.values = [like.new_empty(B, H, capacity, d) for _ in range(layers)]

    def write(self, layer: int, slot: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v (B, H, n, d) from `slot` on and returns views of all slots up to there, (B, H, slot + n, d)."""
        n = k.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys.narrow(2, slot, n).copy_(k)
        values.narrow(2, slot, n).copy_(v)
        return keys.narrow(2, 0, slot + n), values.narrow(2, 0, slot + n)

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` slots and keeps what is stored."""
        extra = (0, 0, 0, capacity - self.capacity)
        self.keys = [torch.nn.functional.pad(old, extra) for old in self.keys]
        self.values = [torch.nn.functional.pad(old, extra) for old in self.values]
        self.capacity = capacity


class Lane:
    """A cache and the meaning of its slots, shared by all layers that run the same rows.

    `order` is a text slot's position among the text (`HIDDEN` for speech), `opens` the first speech row that sees a
    slot (a speech slot's own row; `HIDDEN` for padding).
    """

    def __init__(self, cache: KVCache, batch: int, device: torch.device) -> None:
        self.cache = cache
        self.opens = torch.full((batch, cache.capacity), HIDDEN, device=device)  # (B, C)
        self.order = torch.full((batch, cache.capacity), HIDDEN, device=device)  # (B, C)
        self.n_slots = 0
        self.n_rows = 0  # speech rows written so far
        self._settled = 0  # the first speech row that sees all text; no row does if some of it is padding

    def add_text(self, order: Tensor, opens: Tensor, is_causal: bool) -> tuple[int, Tensor]:
        """Takes slots for text; returns the first and what each row sees, (B, 1, n, slots).

        Args:
            order: text positions, (B, n); `HIDDEN` for padding.
            opens: the first speech row that sees each, (B, n); `HIDDEN` for padding.
            is_causal: text sees earlier text only; otherwise all text so far.
        """
        start = self._take(order.shape[1])
        self.order[:, start : self.n_slots] = order
        self.opens[:, start : self.n_slots] = opens
        self._settled = max(self._settled, int(opens.max()))
        known = self.order[:, None, : self.n_slots]  # (B, 1, slots)
        limit = order.clamp(max=HIDDEN - 1) if is_causal else torch.full_like(order, HIDDEN - 1)
        return start, (known <= limit[:, :, None])[:, None]

    def add_speech(self, n: int) -> None:
        """Takes slots for the next n speech rows."""
        start = self._take(n)
        self.opens[:, start : self.n_slots] = torch.arange(self.n_rows, self.n_rows + n, device=self.opens.device)
        self.n_rows += n

    def visible_to_speech(self, n: int) -> Tensor | None:
        """Returns what the newest n speech rows see, (B, 1, n, slots); None: all but the later ones among them.

        No text may have come after the first of them.
        """
        if self.n_rows - n >= self._settled:
            return None
        rows = torch.arange(self.n_rows - n, self.n_rows, device=self.opens.device)
        return (self.opens[:, None, : self.n_slots] <= rows[:, None])[:, None]

    def rewind(self, n_rows: int) -> None:
        """Forgets the speech rows from `n_rows` on, if any; no text may have come after the first of them."""
        n_forgotten = max(0, self.n_rows - n_rows)
        self.n_slots -= n_forgotten
        self.n_rows -= n_forgotten

    def advance(self, n: int) -> None:
        """Counts n speech rows that a static pass has written."""
        assert self.n_slots + n <= self.cache.capacity
        self.n_slots += n
        self.n_rows += n

    def reset(self) -> None:
        """Forgets everything, also in its memory: a static pass reads all slots, and weighs what is hidden by zero."""
        for stored in (*self.cache.keys, *self.cache.values):
            stored.zero_()
        self.opens.fill_(HIDDEN)
        self.order.fill_(HIDDEN)
        self.n_slots = self.n_rows = self._settled = 0

    def take_over(self, other: Lane) -> None:
        """Becomes what another lane is, which has no more slots than this one."""
        pairs = [*zip(self.cache.keys, other.cache.keys, strict=True)]
        pairs += zip(self.cache.values, other.cache.values, strict=True)
        for mine, theirs in pairs:
            mine[:, :, : other.n_slots] = theirs[:, :, : other.n_slots]
        self.opens[:, : other.n_slots] = other.opens[:, : other.n_slots]
        self.order[:, : other.n_slots] = other.order[:, : other.n_slots]
        self.n_slots, self.n_rows, self._settled = other.n_slots, other.n_rows, other._settled

    def _take(self, n: int) -> int:
        """Makes the next n slots part of the lane; returns the first."""
        start, end = self.n_slots, self.n_slots + n
        if end > self.cache.capacity:
            capacity = max(end, 2 * self.cache.capacity)
            more = self.order.new_full((len(self.order), capacity - self.cache.capacity), HIDDEN)  # `pad` rounds it
            self.cache.grow(capacity)
            self.order = torch.cat([self.order, more], 1)
            self.opens = torch.cat([self.opens, more], 1)
        self.n_slots = end
        return start
