"""How monotonically attention moves through a text: the best path that never goes back, and the weight on it."""

from __future__ import annotations

import numpy as np


def monotonic_path(weights: np.ndarray) -> np.ndarray:
    """Returns a column for each row (n_rows,): the path of the most weight that skips no column and never goes back.

    It starts in the first column and ends in the last (monotonic alignment search, as of Glow-TTS).

    Args:
        weights: (n_rows, n_columns), not negative.

    Raises:
        ValueError: there are fewer rows than columns, or no columns.
    """
    n_rows, n_columns = weights.shape
    if not 0 < n_columns <= n_rows:
        raise ValueError(f"A path through {n_columns} columns needs at least as many rows; there are {n_rows}.")
    best = np.full((n_rows, n_columns), -np.inf)
    best[0, 0] = weights[0, 0]
    for row in range(1, n_rows):
        moved = np.concatenate([[-np.inf], best[row - 1, :-1]])
        best[row] = weights[row] + np.maximum(best[row - 1], moved)
    path = np.full(n_rows, n_columns - 1)
    for row in range(n_rows - 1, 0, -1):
        column = path[row]
        has_moved = column > 0 and best[row - 1, column - 1] >= best[row - 1, column]
        path[row - 1] = column - has_moved
    return path


def alignment_score(weights: np.ndarray) -> float:
    """Returns how far attention follows a text in its order, between 0 and 1.

    Rows are first scaled to sum to 1. The score is the mean, over the columns, of the mean weight that the rows of
    `monotonic_path` in a column give to it. Attention to one position at a time, in order, scores 1; attention that is
    spread evenly, or that stays on one position, scores 1 / n_columns. Fewer rows than columns score 0: they cannot
    have gone through the text.

    Args:
        weights: of speech rows on text positions, (n_rows, n_columns), not negative.
    """
    n_rows, n_columns = weights.shape
    if not 0 < n_columns <= n_rows:
        return 0.0
    shares = weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)
    path = monotonic_path(shares)
    on_path = shares[np.arange(n_rows), path]
    return float((np.bincount(path, on_path, n_columns) / np.bincount(path, minlength=n_columns)).mean())
