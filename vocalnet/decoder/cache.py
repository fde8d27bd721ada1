"""Keys and values of a decoding pass: preallocated, written in place, described slot by slot.

Slots are filled in order of arrival, text and speech mixed, so nothing is ever moved when text arrives late. What a
row may see follows from two numbers per slot.

Letters: B batch, H heads, d head width, n rows of a pass, C capacity in slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

HIDDEN = torch.iinfo(torch.long).max  # in `opens` and `order`: no row sees this slot


class KVCache:
    """Keys and values of some layers, (layers, B, H, C, d); grows by doubling."""

    def __init__(self, shape: tuple[int, int, int, int], capacity: int, like: Tensor) -> None:
        """Allocates for `shape` = (layers, B, H, d); device and dtype come from `like`."""
        layers, B, H, d = shape
        self.keys = like.new_empty(layers, B, H, capacity, d)
        self.values = like.new_empty(layers, B, H, capacity, d)

    @property
    def capacity(self) -> int:
        """Slots that fit without growing."""
        return self.keys.shape[3]

    def write(self, layer: int, slot: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v (B, H, n, d) from `slot` on and returns views of all slots up to there, (B, H, slot + n, d)."""
        end = slot + k.shape[2]
        self.keys[layer, :, :, slot:end] = k
        self.values[layer, :, :, slot:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def grow(self, capacity: int) -> None:
        """Makes room for `capacity` slots and keeps what is stored."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(*old.shape[:3], capacity, old.shape[4])
            new[:, :, :, : old.shape[3]] = old
            setattr(self, name, new)


class Lane:
    """A cache and the meaning of its slots, shared by all layers that run the same rows.

    `order` is a text slot's position among the text (`HIDDEN` for speech), `opens` the first speech row that sees a
    slot (a speech slot's own row; `HIDDEN` for padding).
    """

    def __init__(self, cache: KVCache, batch: int) -> None:
        self.cache = cache
        device = cache.keys.device
        self.opens = torch.full((batch, cache.capacity), HIDDEN, device=device)  # (B, C)
        self.order = torch.full((batch, cache.capacity), HIDDEN, device=device)  # (B, C)
        self.n_slots = 0
        self.n_rows = 0  # speech rows written so far

    def add_text(self, order: Tensor, opens: Tensor, is_causal: bool) -> tuple[int, Tensor]:
        """Takes slots for text; returns the first and what each row sees, (B, 1, n, slots).

        Args:
            order: text positions, (B, n); `HIDDEN` for padding.
            opens: the first speech row that sees each, (B, n); `HIDDEN` for padding.
            is_causal: text sees earlier text only; otherwise all text so far.
        """
        start = self._take(order, opens)
        known = self.order[:, None, : self.n_slots]  # (B, 1, slots)
        limit = order.clamp(max=HIDDEN - 1) if is_causal else torch.full_like(order, HIDDEN - 1)
        return start, (known <= limit[:, :, None])[:, None]

    def add_speech(self, n: int) -> tuple[int, Tensor, Tensor]:
        """Takes slots for the next n speech rows; returns the first, the mask (B, 1, n, slots) and the rows (n,)."""
        rows = torch.arange(self.n_rows, self.n_rows + n, device=self.opens.device)
        opens = rows.expand(len(self.opens), n)
        self._take(torch.full_like(opens, HIDDEN), opens)
        self.n_rows += n
        return self.last_speech(n)

    def last_speech(self, n: int) -> tuple[int, Tensor, Tensor]:
        """Returns what `add_speech` did, for the last n rows; no text may have come after the first of them."""
        rows = torch.arange(self.n_rows - n, self.n_rows, device=self.opens.device)
        return self.n_slots - n, (self.opens[:, None, : self.n_slots] <= rows[:, None])[:, None], rows

    def rewind(self, n_rows: int) -> None:
        """Forgets the speech rows from `n_rows` on, if any; no text may have come after the first of them."""
        n_forgotten = max(0, self.n_rows - n_rows)
        self.n_slots -= n_forgotten
        self.n_rows -= n_forgotten

    def _take(self, order: Tensor, opens: Tensor) -> int:
        start, end = self.n_slots, self.n_slots + order.shape[1]
        if end > self.cache.capacity:
            capacity = max(end, 2 * self.cache.capacity)
            extra = (0, capacity - self.cache.capacity)
            self.cache.grow(capacity)
            self.order = torch.nn.functional.pad(self.order, extra, value=HIDDEN)
            self.opens = torch.nn.functional.pad(self.opens, extra, value=HIDDEN)
        self.order[:, start:end] = order
        self.opens[:, start:end] = opens
        self.n_slots = end
        return start
