"""Times of many runs in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILES = (50, 90, 99)


def summarise(values_s: Sequence[float]) -> dict[str, float]:
    """Returns {"n", "mean", "p50", "p90", "p99"} of times in seconds (percentiles interpolate linearly).

    Raises:
        ValueError: there are none.
    """
    if not len(values_s):
        raise ValueError("A latency summary needs at least one measured time.")
    percentiles = np.percentile(values_s, PERCENTILES)
    named = {f"p{p}": float(value) for p, value in zip(PERCENTILES, percentiles, strict=True)}
    return {"n": len(values_s), "mean": float(np.mean(values_s)), **named}


def real_time_factor(busy_s: Sequence[float], audio_s: Sequence[float]) -> float:
    """Returns seconds of work per second of sound, over all runs; below 1 is faster than speech."""
    return float(np.sum(busy_s)) / max(float(np.sum(audio_s)), 1e-9)
