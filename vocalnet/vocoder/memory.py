"""Memory of finished streams for those to come.

A page of memory costs more to get from the system than to write, and a stream of the released size takes 9 MB a token.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

KEPT_BYTES = 1 << 30  # at most
SMALLEST = 128 << 10  # bytes; smaller pieces, nano's, the allocator itself keeps at hand

Kind = tuple[tuple[int, ...], torch.dtype, torch.device, bool]


class SpareMemory:
    """Tensors that are not in use, by shape: streams of one model take the same shapes again and again.

    What came last is kept rather than what came first. Safe to use from several threads. A copy starts empty.
    """

    def __init__(self) -> None:
        self._pieces: dict[Kind, list[Tensor]] = {}  # the kind that was given last at the end
        self._n_bytes = 0
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Returns an uninitialised tensor of a shape, of the dtype and device of another."""
        kind = (shape, like.dtype, like.device, torch.is_inference_mode_enabled())  # such tensors are of no use outside
        with self._lock:
            if kind in self._pieces:
                return self._remove(kind)
        return like.new_empty(shape)

    def give(self, piece: Tensor) -> None:
        """Takes back what `take` returned and nobody uses any more."""
        if not SMALLEST <= piece.nbytes <= KEPT_BYTES:
            return
        kind = (tuple(piece.shape), piece.dtype, piece.device, piece.is_inference())
        with self._lock:
            self._pieces[kind] = [*self._pieces.pop(kind, []), piece]
            self._n_bytes += piece.nbytes
            while self._n_bytes > KEPT_BYTES:
                self._remove(next(iter(self._pieces)))

    def _remove(self, kind: Kind) -> Tensor:
        piece = self._pieces[kind].pop()
        self._n_bytes -= piece.nbytes
        if not self._pieces[kind]:
            del self._pieces[kind]
        return piece

    def __reduce__(self) -> tuple[type[SpareMemory], tuple[()]]:
        return SpareMemory, ()
