"""A stand-in for CUDA graphs on a CPU: it records a pass operation by operation and plays it again on the same tensors.

What a graph cannot do shows here too: what the host computed between the operations is not computed anew, results
are written over those of the recording, and an operation that waits for the device cannot be recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vocalnet import graphs

WAITING = ("item", "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_to_cpu", "equal")


def _places(values: Any) -> set[int]:
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


@dataclass
class FakeGraph:
    """In the place of torch.cuda.CUDAGraph."""

    tape: list[tuple[Any, tuple, dict, Any]] = field(default_factory=list)
    n_replays: int = 0

    def replay(self) -> None:
        self.n_replays += 1
        for run, args, kwargs, before in self.tape:
            after = run(*args, **kwargs)
            inputs = _places((args, kwargs))
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(old, Tensor) and not _places(old) & inputs:  # neither a view nor written in place
                    old.copy_(new)


class Recording(TorchDispatchMode):
    """In the place of torch.cuda.graph: what runs inside goes onto a graph's tape."""

    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        outputs = func(*args, **(kwargs or {}))
        self.graph.tape.append((func, args, kwargs or {}, outputs))
        return outputs


@dataclass
class FakeCuda:
    """What was done, in order, and the graphs that were recorded."""

    graphs: list[FakeGraph] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def n_replays(self) -> int:
        return sum(graph.n_replays for graph in self.graphs)

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.log.append(f"record on {stream.name}")
        self.graphs.append(graph)
        with Recording(graph):
            yield

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.log.append(f"on {stream.name}")
        yield
        self.log.append("back")


@dataclass
class FakeStream:
    """In the place of torch.cuda.Stream."""

    name: str
    cuda: FakeCuda

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.log.append(f"{self.name} waits for {other.name}")


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Lets passes on the CPU be recorded, by stand-ins for what `graphs.Captured` uses of torch.cuda."""
    cuda = FakeCuda()
    monkeypatch.setattr(graphs, "is_captured", lambda device: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda: FakeStream("side", cuda))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: FakeStream("current", cuda))
    monkeypatch.setattr(torch.cuda, "stream", cuda.stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", cuda.graph)
    return cuda
