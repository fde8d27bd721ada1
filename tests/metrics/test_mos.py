"""DNSMOS scores equal those of speechmos.dnsmos.run (0.0.1.1, librosa 0.11) on the same signal."""

from __future__ import annotations

import numpy as np
import pytest

from vocalnet.metrics.mos import Dnsmos, Mos

pytest.importorskip("speechmos")


def signal(n: int) -> np.ndarray:
    """A buzz of four harmonics that swells four times a second, with noise."""
    t = np.arange(n) / 16000
    buzz = sum(np.sin(2 * np.pi * f * t) / k for k, f in enumerate([150, 300, 450, 900], 1))
    swelling = buzz * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t)) * 0.2
    return np.clip(swelling + 0.01 * np.random.default_rng(0).standard_normal(n), -1, 1).astype(np.float32)


def test_scores_equal_speechmos():
    mos = Dnsmos(has_p835=True)(signal(160000), 16000)
    assert mos.p808 == pytest.approx(2.302831, abs=1e-4)
    assert mos.overall == pytest.approx(2.464618, abs=1e-4)
    assert mos.signal == pytest.approx(3.457013, abs=1e-4)
    assert mos.background == pytest.approx(2.760464, abs=1e-4)


@pytest.mark.parametrize(("n", "p808"), [(20000, 2.279432), (32000, 2.269931), (200000, 2.296034)])
def test_short_recordings_are_repeated_and_long_ones_averaged(n, p808):
    assert Dnsmos()(signal(n), 16000) == Mos(pytest.approx(p808, abs=1e-4))
