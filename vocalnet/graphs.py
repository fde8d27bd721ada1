"""CUDA graphs: the kernels of a pass, recorded once and played again by one call.

A pass over few rows spends most of its time on a GPU in launching its kernels, hundreds of small ones. Recorded, they
always read and write the tensors that they were recorded with, so a pass owns buffers of fixed shape, its inputs are
copied there, and nothing in between may wait for the host. Only `Captured._capture` needs a GPU: elsewhere the pass
runs as it is, and the tests record it with a stand-in. The capture itself was never run, for want of a GPU.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

N_WARM_UPS = 3  # runs before a capture: libraries choose kernels and take memory in their first ones
KEPT = 16  # recorded passes that are not in use; memory of those not used for long is given back

T = TypeVar("T")
Outputs = tuple[Tensor, ...]

_capturing = threading.Lock()  # one capture at a time; passes already recorded go on meanwhile


def is_captured(device: torch.device) -> bool:
    """Says whether passes on a device are recorded; elsewhere they are run."""
    return device.type == "cuda"


class Captured:
    """A pass over static tensors: recorded at its first call on a GPU, played again at all others; run elsewhere.

    The pass may be run more often than it is called, so running it twice over the same inputs has to change nothing:
    counters are advanced between calls, not inside.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Outputs = ()

    def __call__(self, run: Callable[[], Outputs]) -> Outputs:
        """Returns what `run`, the same at every call, returns: tensors that hold until the next call."""
        if not is_captured(self.device):
            return run()
        if self._graph is None:
            with _capturing, torch.cuda.device(self.device):
                self._graph, self._outputs = self._capture(run)
        self._graph.replay()
        return self._outputs

    def _capture(self, run: Callable[[], Outputs]) -> tuple[torch.cuda.CUDAGraph, Outputs]:
        """Records `run`, after warm-ups on a stream of their own (the recipe of torch's notes on CUDA semantics)."""
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(N_WARM_UPS):
                run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):  # other threads' calls are theirs
            outputs = run()
        return graph, outputs


class Passes:
    """Passes that are not in use, by kind: recording one anew for every answer would take longer than the answer.

    As `vocoder.memory.SpareMemory`, it holds no state: who takes a pass has it alone, and begins by resetting it. Safe
    to use from several threads; `give` also from a finaliser, which may run in the midst of `take`. A copy is empty.
    """

    def __init__(self) -> None:
        self._returned: queue.SimpleQueue[tuple[Hashable, Any]] = queue.SimpleQueue()
        self._idle: list[tuple[Hashable, Any]] = []  # what was given last at the end
        self._lock = threading.Lock()

    def take(self, kind: Hashable, make: Callable[[], T]) -> T:
        """Returns a pass of a kind that is not in use, or a new one."""
        with self._lock:
            while not self._returned.empty():
                self._idle.append(self._returned.get())
            found = next((pair for pair in reversed(self._idle) if pair[0] == kind), None)
            self._idle = [pair for pair in self._idle if pair is not found][-KEPT:]
        return make() if found is None else found[1]

    def give(self, kind: Hashable, item: object) -> None:
        """Takes back what `take` returned and nobody uses any more."""
        self._returned.put((kind, item))

    def __reduce__(self) -> tuple[type[Passes], tuple[()]]:
        return Passes, ()


class Graphable(nn.Module):
    """A module with passes that can be recorded; kernel "graphed" gives it the place to keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: Passes | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Graphable:
        if self.passes is not None:
            self.passes = Passes()  # what is recorded reads the weights where they have been
        return super()._apply(fn, recurse)
