"""Percentiles by hand."""

from __future__ import annotations

import pytest

from vocalnet.events import TextDelta, Timings
from vocalnet.metrics.latency import first_audio_stages, real_time_factor, summarise, waterfall


def test_summarise():
    found = summarise([float(i) for i in range(1, 102)])
    assert found == {"n": 101, "mean": 51.0, "p50": 51.0, "p90": 91.0, "p99": 100.0}


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        summarise([])


def test_real_time_factor_is_over_the_whole():
    assert real_time_factor([1.0, 1.0], [1.0, 3.0]) == pytest.approx(0.5)


def answer(llm_s: float) -> list:
    """Events of an answer whose first audio comes after 0.05 s of no stage."""
    stages = {"load": 9.0, "audio": 0.0, "encoder": 0.1, "llm": llm_s, "talker": 0.2, "vocoder": 0.3}
    first = Timings(stages | {"first_text": 0.2, "first_audio": llm_s + 0.65}, llm_s + 0.65)
    return [TextDelta("a", 0.2), first, Timings(stages | {"first_audio": 1.0, "llm": 9.0, "total": 9.9}, 9.9)]


def test_stages_up_to_the_first_audio():
    found = first_audio_stages(answer(0.1))
    assert found == pytest.approx(
        {"audio": 0, "encoder": 0.1, "llm": 0.1, "talker": 0.2, "vocoder": 0.3, "other": 0.05, "sum": 0.75}
    )


def test_a_waterfall_of_answers():
    found = waterfall([answer(0.1), answer(0.2), answer(0.3)])
    assert list(found) == ["audio", "encoder", "llm", "talker", "vocoder", "other", "sum"]
    assert found["llm"]["p50"] == pytest.approx(0.2)
    assert found["sum"]["p90"] == pytest.approx(0.65 + 0.28)
    with pytest.raises(ValueError, match="holds no sound"):
        waterfall([[TextDelta("a", 0.2)]])
