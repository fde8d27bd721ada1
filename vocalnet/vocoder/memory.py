"""Memory of finished streams for those to come.

A page of memory costs more to get from the system than to write, and a stream of the released size takes 9 MB a token.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict

import torch
from torch import Tensor

KEPT_BYTES = 1 << 30  # at most
SMALLEST = 128 << 10  # bytes; smaller pieces, nano's, the allocator itself keeps at hand

Kind = tuple[tuple[int, ...], torch.dtype, torch.device, bool]


class SpareMemory:
    """Tensors that are not in use, by shape: streams of one model take the same shapes again and again.

    Safe to use from several threads. A copy starts empty.
    """

    def __init__(self) -> None:
        self._pieces: dict[Kind, list[Tensor]] = defaultdict(list)
        self._n_bytes = 0
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Returns an uninitialised tensor of a shape, of the dtype and device of another."""
        kind = (shape, like.dtype, like.device, torch.is_inference_mode_enabled())  # such tensors are of no use outside
        with self._lock:
            if self._pieces[kind]:
                self._n_bytes -= math.prod(shape) * like.element_size()
                return self._pieces[kind].pop()
        return like.new_empty(shape)

    def give(self, piece: Tensor) -> None:
        """Takes back what `take` returned and nobody uses any more; lets it go if there is enough."""
        with self._lock:
            if SMALLEST <= piece.nbytes <= KEPT_BYTES - self._n_bytes:
                self._pieces[tuple(piece.shape), piece.dtype, piece.device, piece.is_inference()].append(piece)
                self._n_bytes += piece.nbytes

    def __reduce__(self) -> tuple[type[SpareMemory], tuple[()]]:
        return SpareMemory, ()
