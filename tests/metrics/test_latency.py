"""Percentiles by hand."""

from __future__ import annotations

import pytest

from vocalnet.metrics.latency import real_time_factor, summarise


def test_summarise():
    found = summarise([float(i) for i in range(1, 102)])
    assert found == {"n": 101, "mean": 51.0, "p50": 51.0, "p90": 91.0, "p99": 100.0}


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        summarise([])


def test_real_time_factor_is_over_the_whole():
    assert real_time_factor([1.0, 1.0], [1.0, 3.0]) == pytest.approx(0.5)
