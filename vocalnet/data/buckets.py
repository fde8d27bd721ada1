"""Batches of similar duration under a budget of seconds, so that little of a batch is padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

RATIO = 1.1  # of the longest to the shortest duration of a bucket: at most a tenth of a batch is padding


class DurationBuckets(Sampler[list[int]]):
    """A batch sampler for torch's DataLoader.

    Items are put into buckets of similar duration once; an epoch shuffles every bucket, cuts it into batches and
    shuffles these. An epoch has the same number of batches on every rank, and always the same number; where the
    batches do not divide among the ranks, the first ones come twice.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        max_batch_s: float,
        max_items: int | None = None,
        seed: int = 0,
        rank: int = 0,
        n_ranks: int = 1,
    ) -> None:
        """Puts the items into buckets.

        Args:
            durations_s: of every item.
            max_batch_s: largest number of items times the longest of them.
            max_items: largest number of items; None: no limit but that of the seconds.
            seed: of the order.
            rank, n_ranks: this process, and how many share the batches.

        Raises:
            ValueError: an item alone is longer than `max_batch_s`, or has no duration.
        """
        lengths = np.asarray(durations_s, dtype=np.float64)
        if len(lengths) == 0 or not lengths.min() > 0:
            raise ValueError("Every item needs a duration above 0. Run: vocalnet data validate")
        if lengths.max() > max_batch_s:
            longest = int(lengths.argmax())
            raise ValueError(f"Item {longest} lasts {lengths[longest]:.1f} s, more than a batch of {max_batch_s:g} s.")
        assert 0 <= rank < n_ranks
        numbers = np.ceil(np.log(lengths / lengths.min()) / math.log(RATIO) - 1e-9).astype(int)
        self.buckets = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
        sizes = [max(1, int(max_batch_s / lengths[bucket].max())) for bucket in self.buckets]
        self.sizes = [min(size, max_items or size) for size in sizes]
        self.seed, self.rank, self.n_ranks, self.epoch = seed, rank, n_ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; call it before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches of this rank."""
        n = sum(math.ceil(len(bucket) / size) for bucket, size in zip(self.buckets, self.sizes, strict=True))
        return math.ceil(n / self.n_ranks)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        batches = []
        for bucket, size in zip(self.buckets, self.sizes, strict=True):
            order = rng.permutation(bucket)
            batches += [order[start : start + size].tolist() for start in range(0, len(order), size)]
        batches = [batches[i] for i in rng.permutation(len(batches))]
        n = len(self) * self.n_ranks
        return iter((batches * self.n_ranks)[self.rank : n : self.n_ranks])
