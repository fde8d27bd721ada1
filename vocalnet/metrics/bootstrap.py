"""Intervals by resampling: what a mean might have been on other items of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

N_RESAMPLES = 2000
TAILS = (2.5, 97.5)  # percentiles of a 95 % interval


def draws(n: int, seed: int) -> np.ndarray:
    """Returns indices of resampled items, (N_RESAMPLES, n).

    Raises:
        ValueError: there are no items.
    """
    if n == 0:
        raise ValueError("An interval needs at least one utterance.")
    return np.random.default_rng(seed).integers(n, size=(N_RESAMPLES, n))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval (low, high) of resampled values (N_RESAMPLES,)."""
    low, high = np.percentile(values, TAILS)
    return float(low), float(high)


def mean(values: Sequence[float], seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Returns {"mean", "ci95", "n"} of one value per item, times `scale`; mean and interval are None without items."""
    if not len(values):
        return {"mean": None, "ci95": None, "n": 0}
    numbers = scale * np.asarray(values, dtype=float)
    return {
        "mean": float(numbers.mean()),
        "ci95": percentiles(numbers[draws(len(numbers), seed)].mean(1)),
        "n": len(numbers),
    }


def ratio(totals: Sequence[float], counts: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """Returns {"mean", "ci95", "n"} of sum(totals) / sum(counts), resampling items: long items weigh more."""
    if not sum(counts):
        return {"mean": None, "ci95": None, "n": 0}
    top, bottom = np.asarray(totals, dtype=float), np.asarray(counts, dtype=float)
    index = draws(len(top), seed)
    rates = top[index].sum(1) / np.maximum(bottom[index].sum(1), 1)
    return {"mean": float(top.sum() / bottom.sum()), "ci95": percentiles(rates), "n": int(bottom.sum())}
