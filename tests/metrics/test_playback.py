"""What a listener has of a stream, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vocalnet.events import AudioChunk, TextDelta
from vocalnet.metrics.playback import playback


def chunk(t_s: float, duration_s: float) -> AudioChunk:
    return AudioChunk(np.zeros(round(1000 * duration_s), np.float32), 1000, t_s)


def test_a_stream_in_time():
    found = playback([TextDelta("a", 0.1), chunk(0.5, 1.0), chunk(0.9, 0.5), chunk(0.9, 0.0), chunk(1.5, 1.0)])
    assert found.starts_s == pytest.approx((0.5, 1.5, 2.0))
    assert found.gaps_s == pytest.approx([0.0, 0.0])
    assert found.n_underruns == 0
    assert found.slack_s == pytest.approx(0.5)
    np.testing.assert_allclose(found.produced(), [(0.5, 0), (0.5, 1), (0.9, 1), (0.9, 1.5), (1.5, 1.5), (1.5, 2.5)])
    np.testing.assert_allclose(found.played(), [(0.5, 0), (1.5, 1), (1.5, 1), (2.0, 1.5), (2.0, 1.5), (3.0, 2.5)])


def test_a_chunk_that_comes_too_late_is_an_underrun():
    events = [chunk(0.5, 0.4), chunk(1.1, 0.4)]
    found = playback(events)
    assert found.starts_s == pytest.approx((0.5, 1.1))
    assert found.gaps_s == pytest.approx([0.2])
    assert (found.n_underruns, found.slack_s) == (1, 0.0)
    held = playback(events, lead_s=0.2)  # a player that waits a little first
    assert held.starts_s == pytest.approx((0.7, 1.1))
    assert held.n_underruns == 0


def test_an_answer_without_sound():
    found = playback([TextDelta("a", 0.1)])
    assert (found.n_underruns, found.slack_s, found.produced()) == (0, None, [])
