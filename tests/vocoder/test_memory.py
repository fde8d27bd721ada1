"""Memory of finished streams: handed on to those of the same shape, of the same mode, and within a limit."""

from __future__ import annotations

import copy

import pytest
import torch

from vocalnet.vocoder import memory
from vocalnet.vocoder.causal import PassCache
from vocalnet.vocoder.memory import SMALLEST, SpareMemory

LIKE = torch.zeros(1)
SHAPE = (SMALLEST // 4,)  # of float32


def test_what_is_given_back_is_taken_again():
    spare = SpareMemory()
    piece = spare.take(SHAPE, LIKE)
    spare.give(piece)
    assert spare.take(SHAPE, LIKE.double()).dtype == torch.float64
    assert copy.deepcopy(spare).take(SHAPE, LIKE).data_ptr() != piece.data_ptr()  # a copy starts empty
    assert spare.take(SHAPE, LIKE).data_ptr() == piece.data_ptr()
    assert spare.take(SHAPE, LIKE).data_ptr() != piece.data_ptr()  # it is in use


def test_tensors_of_inference_mode_stay_there():
    spare = SpareMemory()
    with torch.inference_mode():
        spare.give(spare.take(SHAPE, LIKE))
    assert not spare.take(SHAPE, LIKE).is_inference()
    with torch.inference_mode():
        assert spare.take(SHAPE, LIKE).is_inference()


def test_only_so_much_is_kept(monkeypatch):
    monkeypatch.setattr(memory, "KEPT_BYTES", SMALLEST)
    spare = SpareMemory()
    kept, dropped = (spare.take(SHAPE, LIKE) for _ in range(2))
    small = spare.take((1,), LIKE)
    for piece in (kept, dropped, small):
        spare.give(piece)
    assert spare.take((1,), LIKE).data_ptr() != small.data_ptr()
    assert spare.take(SHAPE, LIKE).data_ptr() == kept.data_ptr()
    assert spare.take(SHAPE, LIKE).data_ptr() != dropped.data_ptr()


@pytest.mark.parametrize("n_passes", [1, 7])
def test_a_streams_end_gives_its_memory_back(n_passes):
    spare = SpareMemory()
    owner = torch.nn.Identity()
    x = torch.randn(1, SMALLEST // 4, 1)
    cache = PassCache(spare)
    for n in range(1, n_passes + 1):
        rows = cache.append(owner, x + n)
        assert torch.equal(rows, torch.cat([x + k for k in range(1, n + 1)], 1))
    place = rows.data_ptr()
    del cache, rows
    assert PassCache(spare).append(owner, x).data_ptr() == place or n_passes > 1
    longer = PassCache(spare)
    assert place in [longer.append(owner, x).data_ptr() for _ in range(n_passes)]
