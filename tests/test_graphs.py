"""Recording a pass: the textbook's order of events, once per pass; passes are handed on by kind, and few are kept."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from fake_graphs import FakeGraph, fake_cuda
from torch import nn

from vocalnet import graphs
from vocalnet.graphs import Captured, Graphable, Passes

GPU = torch.device("cuda")


def test_a_pass_is_recorded_once_and_played_again(monkeypatch):
    cuda = fake_cuda(monkeypatch)
    x, runs = torch.zeros(3), []
    captured = Captured(GPU)

    def run():
        runs.append(x.clone())
        return (x * 2 + 1,)

    (first,) = captured(run)
    assert first.tolist() == [1, 1, 1]
    warm_up = ["side waits for current", "on side", "back", "current waits for side"]
    assert cuda.log == [*warm_up, "record on side"]
    assert len(runs) == graphs.N_WARM_UPS + 1
    x.fill_(4)
    (second,) = captured(run)
    assert second is first
    assert second.tolist() == [9, 9, 9]
    assert len(runs) == graphs.N_WARM_UPS + 1
    assert cuda.n_replays == 2


def test_what_waits_for_the_device_cannot_be_recorded(monkeypatch):
    fake_cuda(monkeypatch)
    x = torch.ones(1)
    with pytest.raises(AssertionError, match="waits for the device"):
        Captured(GPU)(lambda: (x * int(x),))


def test_elsewhere_a_pass_is_run():
    runs = []
    captured = Captured(torch.device("cpu"))
    for n in range(2):
        assert captured(lambda: runs.append(0) or ()) == ()
        assert len(runs) == n + 1


def test_the_stand_in_plays_views_and_writing_in_place(monkeypatch):
    cuda = fake_cuda(monkeypatch)
    x, kept = torch.arange(4.0), torch.zeros(2, 2)

    def run():
        kept[0] += x.view(2, 2)[1]
        return kept.sum(), kept[0].expand(3, 2)

    captured = Captured(GPU)
    captured(run)
    kept.zero_()
    x.add_(1)
    total, rows = captured(run)
    assert (total.item(), rows[2].tolist(), cuda.n_replays) == (7, [3, 4], 2)
    assert isinstance(cuda.graphs[0], FakeGraph)


def test_a_pass_is_taken_by_one_at_a_time():
    passes = Passes()
    first, second = passes.take("a", object), passes.take("a", object)
    assert first is not second
    passes.give("a", first)
    assert passes.take("b", object) is not first
    assert passes.take("a", object) is first
    assert passes.take("a", object) is not first


def test_those_given_last_are_kept(monkeypatch):
    monkeypatch.setattr(graphs, "KEPT", 2)
    passes = Passes()
    for n in range(4):
        passes.give(n, n)
    passes.take("none", object)
    assert [passes.take(n, lambda: None) for n in range(4)] == [None, None, 2, 3]


def test_a_copy_starts_empty():
    passes = Passes()
    passes.give("a", "pass")
    for other in (copy.deepcopy(passes), copy.copy(passes), pickle.loads(pickle.dumps(passes))):
        assert other.take("a", lambda: None) is None
    assert passes.take("a", lambda: None) == "pass"


def test_a_module_that_moves_forgets_its_passes():
    class Part(Graphable):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

    part = Part()
    assert part.double().passes is None
    part.passes = passes = Passes()
    nn.Sequential(part).float()
    assert isinstance(part.passes, Passes)
    assert part.passes is not passes
