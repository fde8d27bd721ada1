"""Times of many runs in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vocalnet.events import Event, Timings

PERCENTILES = (50, 90, 99)
STAGES = ("audio", "encoder", "llm", "talker", "vocoder")  # of an answer, in their order


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


def first_audio_stages(events: Sequence[Event]) -> dict[str, float]:
    """Returns the seconds of each stage up to an answer's first samples: `STAGES`, "other" and "sum" (as in Table 5).

    Raises:
        ValueError: the answer holds no sound.
    """
    for event in events:
        if isinstance(event, Timings) and "first_audio" in event.stages:
            seconds = {stage: float(event.stages.get(stage, 0.0)) for stage in STAGES}
            total_s = float(event.stages["first_audio"])
            return {**seconds, "other": max(0.0, total_s - sum(seconds.values())), "sum": total_s}
    raise ValueError("The answer holds no sound, so nothing is known of the time to its first. Ask something else.")


def waterfall(answers: Sequence[Sequence[Event]]) -> dict[str, dict[str, float]]:
    """Returns the summary of each stage up to the first samples, over answers given as their events.

    A percentile of the sum is of the answers' sums: it is not the sum of the stages' percentiles.

    Raises:
        ValueError: there are no answers, or one holds no sound.
    """
    rows = [first_audio_stages(events) for events in answers]
    return {stage: summarise([row[stage] for row in rows]) for stage in (*STAGES, "other", "sum")}
