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


def test_what_came_last_is_kept(monkeypatch):
    monkeypatch.setattr(memory, "KEPT_BYTES", 2 * SMALLEST)
    spare = SpareMemory()
    pieces = [spare.take(shape, LIKE) for shape in (SHAPE, (1, *SHAPE), (2, *SHAPE), (3, *SHAPE), (1,))]
    old, kept, large, too_large, small = pieces
    for piece in (old, kept, too_large, small):
        spare.give(piece)
    assert [spare.take(tuple(piece.shape), LIKE) is piece for piece in (kept, too_large, small)] == [True, False, False]
    for piece in (kept, large):
        spare.give(piece)
    assert [spare.take(tuple(piece.shape), LIKE) is piece for piece in (old, kept, large)] == [False, False, True]


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
