"""Whether the seams of streamed sound can be heard: its second difference there, against sound made in one piece.

A step or a bend in a waveform is a click; it shows as a second difference larger than speech itself has. One second
difference in a hundred exceeds the 99th percentile in any recording, loud ones together, so the largest of a window is
compared with the largest of windows as long: one window in a hundred exceeds *their* 99th percentile without any seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

SEAM_S = 0.005  # either side of a seam
PERCENTILE = 99


@dataclass(frozen=True, slots=True)
class Seams:
    """Seams of one or more utterances, and the same places of the sound made in one piece: what chance is like there.

    Attributes:
        n: how many there are.
        n_rough: seams with a second difference above the 99th percentile of the largest in windows of the whole sound.
        n_rough_whole: their places where the whole sound has one, too.
        n_above: seams with one above the 99th percentile of the whole sound's, sample by sample.
        n_above_whole: their places where the whole sound has one, too.
    """

    n: int = 0
    n_rough: int = 0
    n_rough_whole: int = 0
    n_above: int = 0
    n_above_whole: int = 0

    def __add__(self, other: Seams) -> Seams:
        """Returns the seams of both."""
        return Seams(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def excess(self) -> float:
        """Share of the seams that are rough, less that of the same places without a seam."""
        return (self.n_rough - self.n_rough_whole) / max(self.n, 1)


def find_seams(streamed: np.ndarray, whole: np.ndarray, places: Sequence[int], sample_rate_hz: int) -> Seams:
    """Returns how rough streamed sound is at its seams.

    Args:
        streamed: samples (n,) as they came.
        whole: the same speech made in one piece, (n,).
        places: samples before which a cross-fade begins or ends.
        sample_rate_hz: of both.

    Raises:
        ValueError: the two are not equally long, or shorter than a window.
    """
    half = round(SEAM_S * sample_rate_hz)
    if streamed.shape != whole.shape or len(whole) < 2 * half + 2:
        raise ValueError(
            f"Seams are sought in two waves of one length, at least {2 * half + 2} samples; these have {len(streamed)} "
            f"and {len(whole)}."
        )
    bends, bends_whole = (np.abs(np.diff(wave.astype(np.float64), 2)) for wave in (streamed, whole))  # of sample i + 1
    usual = np.percentile(sliding_window_view(bends_whole, 2 * half).max(-1), PERCENTILE)
    usual_sample = np.percentile(bends_whole, PERCENTILE)
    near = [slice(max(0, place - 1 - half), place - 1 + half) for place in places]
    largest, largest_whole = (np.array([b[window].max() for window in near]) for b in (bends, bends_whole))
    counts = [(values > limit).sum() for limit in (usual, usual_sample) for values in (largest, largest_whole)]
    return Seams(len(near), *map(int, counts))


def seam_places(lengths: Sequence[int], n_overlap: int) -> list[int]:
    """Returns where the cross-fades of pieces of so many samples, in their order, begin and end."""
    begins = [int(end) for end in np.cumsum([n for n in lengths if n])[:-1]]
    return [place for begin in begins for place in (begin, begin + n_overlap)]
