"""Batches of similar duration: every item once, little padding, the budget kept, the same on every rank."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from vocalnet.data.buckets import RATIO, DurationBuckets

DURATIONS_S = np.random.default_rng(0).lognormal(1.0, 0.6, 500)
BUDGET_S = 60.0


def batches(epoch=0, **more):
    sampler = DurationBuckets(DURATIONS_S, BUDGET_S, **more)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_every_item_comes_once():
    assert sorted(i for batch in batches() for i in batch) == list(range(500))


def test_batches_keep_the_budget_and_hold_little_padding():
    for batch in batches():
        lengths = DURATIONS_S[batch]
        assert len(batch) * lengths.max() <= BUDGET_S
        assert lengths.max() <= lengths.min() * RATIO * (1 + 1e-6)
    assert max(map(len, batches(max_items=3))) == 3


def test_batches_are_as_full_as_the_budget_allows():
    assert sorted(map(len, DurationBuckets([2.0] * 95, 20.0))) == [5] + 9 * [10]


def test_an_order_belongs_to_its_seed_and_epoch():
    assert batches(1, seed=2) == batches(1, seed=2)
    assert batches(1, seed=2) != batches(2, seed=2)
    assert batches(1, seed=2) != batches(1, seed=3)
    assert len(batches(1)) == len(batches(2))


@pytest.mark.parametrize("n_ranks", [2, 3, 7])
def test_ranks_share_the_batches_evenly(n_ranks):
    alone = batches(5)
    shares = [batches(5, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    assert len({len(share) for share in shares}) == 1
    dealt = [shares[i % n_ranks][i // n_ranks] for i in range(n_ranks * len(shares[0]))]
    assert dealt[: len(alone)] == alone
    assert dealt[len(alone) :] == alone[: len(dealt) - len(alone)]


def test_more_ranks_than_batches_all_get_one():
    assert [list(DurationBuckets([1.0, 1.0], 1.0, rank=rank, n_ranks=5)) for rank in range(5)] != []
    assert all(len(list(DurationBuckets([1.0, 1.0], 1.0, rank=rank, n_ranks=5))) == 1 for rank in range(5))


def test_a_loader_takes_it():
    loader = DataLoader(DURATIONS_S.tolist(), batch_sampler=DurationBuckets(DURATIONS_S, BUDGET_S))
    assert sum(len(batch) for batch in loader) == 500


@pytest.mark.parametrize(
    ("durations_s", "message"), [([1.0, 61.0], "Item 1 lasts 61.0 s"), ([], "a duration above 0"), ([0.0], "above 0")]
)
def test_items_without_a_place_are_refused(durations_s, message):
    with pytest.raises(ValueError, match=message):
        DurationBuckets(durations_s, BUDGET_S)
