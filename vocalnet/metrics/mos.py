"""DNSMOS, Microsoft's predictors of the mean opinion score (1 to 5), with the models of the speechmos wheel.

Source: Reddy et al., "DNSMOS P.835" (2022), and the P.808 model of the same challenge. Deliberate difference from
calling `speechmos.dnsmos`: its models are run directly and the mel spectrum is computed here, which spares librosa and
numba; a test holds the scores to speechmos' own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vocalnet.audio import SAMPLE_RATE_HZ, resample
from vocalnet.metrics.extras import require

WINDOW = int(9.01 * SAMPLE_RATE_HZ)  # what both models hear
HOP = SAMPLE_RATE_HZ  # between windows of a long recording
N_FFT, MEL_HOP, N_MELS = 321, 160, 120
FLOOR, RANGE_DB = 1e-10, 80.0
# P.835 network output -> score, highest power first
OVERALL = (-0.06766283, 1.11546468, 0.04602535)
SIGNAL = (-0.08397278, 1.22083953, 0.0052439)
BACKGROUND = (-0.13166888, 1.60915514, -0.39604546)


@dataclass(frozen=True, slots=True)
class Mos:
    """Scores of one recording: P.808 overall quality; P.835 overall, signal and background quality where asked for."""

    p808: float
    overall: float | None = None
    signal: float | None = None
    background: float | None = None


class Dnsmos:
    """The models, loaded once. A window costs P.808 about 25 ms of a core and P.835 about 400 ms.

    Args:
        has_p835: also score P.835.

    Raises:
        ValueError: speechmos is not installed.
    """

    def __init__(self, has_p835: bool = False) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        folder = Path(require("speechmos").__path__[0]) / "dnsmos_models"
        options = SessionOptions()
        options.intra_op_num_threads = 1  # waiting threads spin: on a busy machine they cost more than they bring
        self.p808 = InferenceSession(folder / "model_v8.onnx", options)
        self.p835 = InferenceSession(folder / "sig_bak_ovr.onnx", options) if has_p835 else None

    def __call__(self, samples: np.ndarray, sample_rate_hz: int) -> Mos:
        """Scores samples (n,) in [-1, 1]; louder ones are clipped, short ones repeated to fill a window."""
        mono = np.clip(resample(samples, sample_rate_hz, SAMPLE_RATE_HZ), -1.0, 1.0)
        assert mono.size > 0
        while len(mono) < WINDOW:
            mono = np.concatenate([mono, mono])
        n_windows = int(len(mono) // SAMPLE_RATE_HZ - WINDOW / SAMPLE_RATE_HZ) + 1
        starts = range(0, min(n_windows * HOP, len(mono) - WINDOW + 1), HOP)
        scores = np.mean([self._score(mono[start : start + WINDOW]) for start in starts], axis=0)
        return Mos(*map(float, scores))

    def _score(self, window: np.ndarray) -> tuple[float, ...]:
        """Scores one window (WINDOW,), in the order of Mos."""
        p808 = self.p808.run(None, {"input_1": _log_mel(window[:-MEL_HOP])[None]})[0][0, 0]
        if self.p835 is None:
            return (float(p808),)
        signal, background, overall = self.p835.run(None, {"input_1": window[None]})[0][0]
        polynomials = ((OVERALL, overall), (SIGNAL, signal), (BACKGROUND, background))
        return float(p808), *(float(np.polyval(p, x)) for p, x in polynomials)


def _log_mel(samples: np.ndarray) -> np.ndarray:
    """Mel spectrum in dB below its maximum, scaled to about [-1, 1]: (n_frames, N_MELS) float32."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    padded = np.pad(samples, N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::MEL_HOP]  # (n_frames, N_FFT)
    power = np.abs(np.fft.rfft(frames * window)) ** 2 @ _mel_filters()  # (n_frames, N_MELS)
    decibels = 10 * np.log10(np.maximum(power, FLOOR) / max(power.max(), FLOOR))
    return ((np.maximum(decibels, -RANGE_DB) + 40) / 40).astype(np.float32)


@functools.cache
def _mel_filters() -> np.ndarray:
    """Triangles of equal area on Slaney's mel scale, (n_bins, N_MELS)."""
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    edges_mel = np.linspace(0.0, hertz_to_mel(SAMPLE_RATE_HZ / 2, "slaney"), N_MELS + 2)
    edges_hz = np.asarray(mel_to_hertz(edges_mel, "slaney"))
    low, mid, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    bins_hz = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE_HZ)[:, None]  # an odd N_FFT has no bin at half the sample rate
    triangles = np.minimum((bins_hz - low) / (mid - low), (high - bins_hz) / (high - mid))
    return np.maximum(triangles, 0.0) * 2 / (high - low)
