"""Paths by hand, and scores of attention whose order is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vocalnet.metrics.alignment import alignment_score, monotonic_path


def in_order(n_rows: int = 12, n_columns: int = 4) -> np.ndarray:
    """Attention to one position at a time."""
    return np.eye(n_columns)[np.arange(n_rows) * n_columns // n_rows]


def test_the_path_is_the_best_of_all():
    weights = np.random.default_rng(0).random((7, 3))
    paths = [
        path
        for path in itertools.product(range(3), repeat=7)
        if path[0] == 0 and path[-1] == 2 and set(np.diff(path)) <= {0, 1}
    ]
    best = max(paths, key=lambda path: weights[np.arange(7), path].sum())
    assert tuple(monotonic_path(weights)) == best


def test_scores_of_known_attention():
    assert alignment_score(in_order()) == 1.0
    assert alignment_score(0.2 * in_order()) == pytest.approx(1.0)  # what goes to speech does not count
    assert alignment_score(np.ones((12, 4))) == pytest.approx(0.25)
    assert alignment_score(np.eye(4)[[2] * 12]) == pytest.approx(0.25)
    assert alignment_score(in_order()[::-1]) < 0.2
    assert 0.25 < alignment_score(in_order() + 0.1) < 1.0


def test_speech_too_short_for_its_text():
    assert alignment_score(np.ones((3, 4))) == 0.0
    assert alignment_score(np.ones((3, 0))) == 0.0
    with pytest.raises(ValueError, match="at least as many rows; there are 3"):
        monotonic_path(np.ones((3, 4)))
