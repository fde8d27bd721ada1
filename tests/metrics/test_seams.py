"""Seams by hand: a click is found, a cross-fade that reaches zero at its ends is not; and those of nano."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vocalnet
from vocalnet.metrics.seams import Seams, find_seams, seam_places
from vocalnet.vocoder.wave_stream import FADES, OVERLAP_FRAMES

RATE_HZ, N, OVERLAP = 16_000, 48_000, 2560
LENGTHS = (12_000, 12_000, 12_000, 12_000)


def tone(phase: float = 0.0) -> np.ndarray:
    """Returns 200 Hz that swell and fade."""
    t = np.arange(N) / RATE_HZ
    return (0.25 - 0.15 * np.cos(2 * np.pi * 1.5 * t)) * np.sin(2 * np.pi * 200 * t + phase)


def joined(fade: str | None) -> np.ndarray:
    """The tone with another phase from piece to piece, cross-faded as a stream does; None: cut hard."""
    wave = tone()
    for number, place in enumerate(np.cumsum(LENGTHS)[:-1], 1):
        new = tone(number)[place:]
        if fade is not None:
            rise, fall = (half.numpy() for half in FADES[fade](OVERLAP, torch.device("cpu")))
            new[:OVERLAP] = new[:OVERLAP] * rise + wave[place : place + OVERLAP] * fall
        wave[place:] = new
    return wave


def test_places_are_both_ends_of_each_cross_fade():
    assert seam_places([100, 0, 50, 70], 20) == [100, 120, 150, 170]
    assert seam_places([100], 20) == []


@pytest.mark.parametrize(("fade", "n_rough"), [(None, 3), ("hamming", 3), ("zero", 0)])
def test_what_clicks_is_rough(fade, n_rough):
    """Hamming halves, as released, start at 0.08: a click that zero halves do not have."""
    found = find_seams(joined(fade), tone(), seam_places(LENGTHS, OVERLAP), RATE_HZ)
    assert (found.n, found.n_rough_whole) == (6, 0)
    assert found.n_rough >= n_rough if n_rough else found.n_rough == 0
    assert found.excess == found.n_rough / 6


def test_a_wave_has_no_seams_against_itself():
    noise = np.random.default_rng(0).standard_normal(N)
    places = list(range(500, N - 500, 100))
    found = find_seams(noise, noise, places, RATE_HZ)
    assert found.excess == 0
    assert found.n_rough == found.n_rough_whole <= 0.03 * found.n  # about one in a hundred
    assert found.n_above > 0.5 * found.n  # whereas nearly every window holds one of the largest samples


def test_counts_add_up_and_other_lengths_are_refused():
    assert Seams(1, 2, 3, 4, 5) + Seams(1, 1, 1, 1, 1) == Seams(2, 3, 4, 5, 6)
    with pytest.raises(ValueError, match="one length"):
        find_seams(tone(), tone()[:-1], [100], RATE_HZ)


def test_nanos_stream_is_no_rougher_at_its_seams_than_one_piece():
    vocoder = vocalnet.load("nano").vocoder
    tokens = torch.randint(875, (200,), generator=torch.Generator().manual_seed(0))  # eight seconds of any sounds
    cheap = {"chunk": 10, "n_steps": 1, "cfg_rate": 0.0}
    whole = vocoder.vocode(vocoder.flow(tokens, **cheap))[0][0].numpy()
    pieces = [wave[0].numpy() for _, wave in vocoder.stream(tokens.split(10), **cheap)]
    overlap = OVERLAP_FRAMES * vocoder.hift_config.samples_per_frame
    places = seam_places([len(piece) for piece in pieces], overlap)
    streamed = np.concatenate(pieces)
    found = find_seams(streamed, whole, places, vocoder.sample_rate_hz)
    assert found.n >= 36
    assert found.excess <= 0.01
    cut = np.concatenate([piece * (-1) ** number for number, piece in enumerate(pieces)])  # what a bad seam is like
    assert find_seams(cut, whole, places, vocoder.sample_rate_hz).excess > 0.1
