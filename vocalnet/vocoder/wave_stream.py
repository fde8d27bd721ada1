"""Streaming state of the vocoder: mel pieces in, waveform pieces out, cross-faded.

As in the released CosyVoice 2: each call repeats the last eight frames and fades over them, so every call but the last
lags by eight frames. Deliberate difference: pieces of eight frames or fewer are held back instead of failing.

Letters: n mel frames of a piece, S samples per mel frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vocalnet.vocoder.hift import Hift

OVERLAP_FRAMES = 8  # 160 ms at 50 frames a second


def hamming_fade(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Halves of a Hamming window, (n,) each, as released: they start and end at 0.08 and sum to 1.08."""
    window = torch.hamming_window(2 * n, periodic=False, dtype=torch.float64, device=device).float()
    return window[:n], window[n:]


def zero_fade(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Raised cosines, (n,) each, from exactly 0 to exactly 1 and back, which sum to 1."""
    fade_in = 0.5 - 0.5 * torch.cos(torch.linspace(0, math.pi, n, device=device))
    return fade_in, 1 - fade_in


FADES: dict[str, Callable[[int, torch.device], tuple[Tensor, Tensor]]] = {"hamming": hamming_fade, "zero": zero_fade}


class WaveStream:
    """One utterance's way through a vocoder; the vocoder itself keeps nothing."""

    def __init__(
        self,
        hift: Hift,
        source_mode: str = "frame",
        source_noise: Tensor | float | None = None,
        phase: Tensor | float | None = None,
        fade: str = "hamming",
    ) -> None:
        """Starts an utterance.

        Args:
            source_noise: standard normal (1, S * N, 9) for the N frames of the whole utterance, 0 for none; None: drawn
                from seed 0.
            phase: see `Hift.source`; None: drawn anew for each piece.
            fade: a name of `FADES`.

        Raises:
            ValueError: unknown fade.
        """
        if fade not in FADES:
            raise ValueError(f"Unknown fade {fade!r}. Choose one of: {', '.join(FADES)}.")
        self.hift = hift
        self.source_mode = source_mode
        self.source_noise = source_noise
        self.phase = phase
        self.generator = torch.Generator().manual_seed(0)
        self.n_overlap = OVERLAP_FRAMES * hift.samples_per_frame
        self.fade_in, self.fade_out = FADES[fade](self.n_overlap, hift.window.device)
        self.mel: Tensor | None = None  # (1, n_mels, n): frames that the next call repeats, or sees first
        self.n_frames_before = 0  # frames before those in self.mel
        self.tail: tuple[Tensor, Tensor] | None = None  # last source (1, 1, n_overlap) and samples (1, n_overlap)

    @torch.no_grad()
    def push(self, mel: Tensor, last: bool = False) -> Tensor:
        """Returns the next samples (1, m) for new frames (1, n_mels, n); `last` returns all that is left."""
        mel = mel if self.mel is None else torch.cat([self.mel, mel], dim=2)
        n = mel.shape[2]
        if n == 0 or (not last and n <= OVERLAP_FRAMES):
            self.mel = mel
            return mel.new_zeros(1, 0)
        source_cache = None if self.tail is None else self.tail[0]
        samples, source = self.hift(
            mel, None, source_cache, self.source_mode, self._noise(n), self.phase, self.generator
        )
        if self.tail is not None:
            faded = samples[:, : self.n_overlap] * self.fade_in + self.tail[1] * self.fade_out
            samples = torch.cat([faded, samples[:, self.n_overlap :]], dim=1)
        if last:
            return samples
        self.mel = mel[..., -OVERLAP_FRAMES:]
        self.n_frames_before += n - OVERLAP_FRAMES
        self.tail = source[..., -self.n_overlap :], samples[:, -self.n_overlap :]
        return samples[:, : -self.n_overlap]

    def _noise(self, n: int) -> Tensor | float | None:
        """The given noise of the n frames of this call."""
        if not isinstance(self.source_noise, Tensor):
            return self.source_noise
        start = self.n_frames_before * self.hift.samples_per_frame
        return self.source_noise[:, start : start + n * self.hift.samples_per_frame]
