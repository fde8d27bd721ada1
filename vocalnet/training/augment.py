"""Augmentation of question clips: what separates a synthesis engine from a room and a microphone, and other voices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vocalnet.audio import SAMPLE_RATE_HZ
from vocalnet.training.corpus import noise

TIMBRE = 0.12  # deviation of a clip's random spectral envelope, in units of the encoder's log mel (0.25: 10 dB)


def _filter(rng: np.random.Generator, n_bins: int) -> np.ndarray:
    """Returns a random gain curve (n_bins,) over 0..8 kHz: tilt, a resonance, and sometimes a telephone's band."""
    f = np.linspace(0, 1, n_bins)
    gain_db = rng.uniform(-8, 8) * f + rng.uniform(-6, 6) * np.exp(
        -(((f - rng.uniform(0, 1)) / rng.uniform(0.05, 0.3)) ** 2)
    )
    gain = 10 ** (gain_db / 20)
    if rng.random() < 0.2:
        low, high = rng.uniform(0, 0.04), rng.uniform(0.42, 0.9)
        gain *= np.where((f > low) & (f < high), 1.0, 0.05)
    return gain


def _room(rng: np.random.Generator) -> np.ndarray:
    """Returns a synthetic room response: direct sound and an exponentially decaying tail."""
    n = round(rng.uniform(0.05, 0.3) * SAMPLE_RATE_HZ)
    response = rng.standard_normal(n) * np.exp(-np.arange(n) / n * rng.uniform(4, 8))
    response *= rng.uniform(0.02, 0.12)
    response[0] = 1.0
    return response


def _acoustics(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a clip (n,) heard in a room, through another microphone, before a background."""
    n = len(samples)
    size = 1 << (n + SAMPLE_RATE_HZ // 3 - 1).bit_length()
    spectrum = np.fft.rfft(samples, size)
    if rng.random() < 0.8:
        spectrum *= _filter(rng, len(spectrum))
    if rng.random() < 0.5:
        spectrum *= np.fft.rfft(_room(rng), size)
    samples = np.fft.irfft(spectrum, size)[:n]
    if rng.random() < 0.7:
        background = noise(rng, n / SAMPLE_RATE_HZ + 0.01)[:n]
        snr_db = rng.uniform(8, 35)
        power = max(1e-9, (samples**2).mean()) / (background**2).mean()
        samples = samples + background * np.sqrt(power) * 10 ** (-snr_db / 20)
    return samples


@dataclass(frozen=True)
class Warp:
    """Where a moment of the clip is found after augmentation: t -> before_s + t / factor."""

    factor: float
    before_s: float

    def __call__(self, t_s: np.ndarray) -> np.ndarray:
        return self.before_s + t_s / self.factor


def augment(
    samples: np.ndarray, rng: np.random.Generator, warp: float = 0.12, acoustics: float = 0.25
) -> tuple[np.ndarray, Warp]:
    """Returns a changed copy of a 16 kHz clip (n,) and how its time was changed.

    Speed with pitch, surrounding silence and level always change; acoustics, which are costly, for a share of clips.
    """
    factor = rng.uniform(1 - warp, 1 + warp)
    samples = np.interp(np.arange(0, len(samples) - 1, factor), np.arange(len(samples)), samples)
    before, after = rng.integers(0, SAMPLE_RATE_HZ // 4, 2)
    samples = np.pad(samples, (before, after))
    if rng.random() < acoustics:
        samples = _acoustics(samples, rng)
    samples = samples / max(1e-4, np.abs(samples).max()) * rng.uniform(0.1, 1.0)
    return samples.astype(np.float32), Warp(factor, before / SAMPLE_RATE_HZ)


@lru_cache
def _vocal_tract(n_mels: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Tensor:
    """Returns matrices (21, n_mels, n_mels) that scale the frequencies of a mel spectrogram by 0.8 to 1.2."""
    centres = np.linspace(0, 2595 * np.log10(1 + sample_rate_hz / 2 / 700), n_mels)
    matrices = []
    for factor in np.linspace(0.8, 1.2, 21):
        scaled = 2595 * np.log10(1 + 700 * (10 ** (centres / 2595) - 1) * factor / 700)
        matrices.append([np.interp(scaled, centres, row) for row in np.eye(n_mels)])
    return torch.tensor(np.array(matrices).transpose(0, 2, 1), dtype=torch.float32)


def other_speakers(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Returns mel (B, n_mels, T_a) as of vocal tracts of other lengths, with another timbre each: both per clip."""
    B, n_mels, _ = mel.shape
    matrices = _vocal_tract(n_mels)
    warped = matrices[torch.randint(len(matrices), (B,), generator=generator)] @ mel
    waves = torch.cos(torch.pi * torch.arange(1, 5)[:, None] * (torch.arange(n_mels) + 0.5) / n_mels)
    return warped + TIMBRE * (torch.randn(B, 4, generator=generator) @ waves)[..., None]


def masked_stretches(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Returns mel (B, n_mels, T_a) with two bands and two stretches of up to 12 bins or frames zeroed in each clip."""
    B, n_mels, T_a = mel.shape
    mel = mel.clone()
    draws = torch.rand(B, 8, generator=generator)
    for i in range(B):
        for j in (0, 2):
            width, start = int(draws[i, j] * 12), int(draws[i, j + 1] * (n_mels - 12))
            mel[i, start : start + width] = 0
            width, start = int(draws[i, j + 4] * 12), int(draws[i, j + 5] * max(1, T_a - 12))
            mel[i, :, start : start + width] = 0
    return mel
