"""Features of recordings that the vocoder needs, as plain torch: resampling, mel spectrograms, Kaldi filter banks.

Each function matches the library that the released models were trained with (torchaudio, Matcha-TTS, Kaldi, Whisper)
without needing it. Input is (n,) or (B, n), float in [-1, 1]; (n,) counts as a batch of one.

Letters: B batch, n samples, F frames, K frequency bins.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

RATE_HZ = 16_000  # of every input but the flow mel's
SINC_WIDTH, SINC_ROLLOFF = 6, 0.99  # torchaudio's defaults
FBANK_FRAME, FBANK_HOP, FBANK_FFT, FBANK_BINS = 400, 160, 512, 80  # 25 ms and 10 ms at 16 kHz
FBANK_MIN_HZ, FBANK_MAX_HZ, FBANK_FLOOR = 20.0, 8000.0, 1.1920928955078125e-07  # the floor is float32's epsilon
PREEMPHASIS = 0.97
WHISPER_FFT, WHISPER_HOP, WHISPER_RANGE = 400, 160, 8.0  # the range is in decades below the loudest bin


def resample(x: Tensor | np.ndarray, from_hz: int, to_hz: int) -> Tensor:
    """Changes the sample rate with a Hann-windowed sinc filter: (..., n) -> (..., ceil(n * to / from))."""
    samples = torch.as_tensor(x, dtype=torch.float32)
    if from_hz == to_hz:
        return samples
    step = math.gcd(from_hz, to_hz)
    period_in, period_out = from_hz // step, to_hz // step
    cutoff = min(period_in, period_out) * SINC_ROLLOFF
    width = math.ceil(SINC_WIDTH * period_in / cutoff)
    place = torch.arange(-width, width + period_in, dtype=torch.float64) / period_in
    phase = torch.arange(0, -period_out, -1, dtype=torch.float64)[:, None] / period_out
    t = ((place + phase) * cutoff).clamp(-SINC_WIDTH, SINC_WIDTH)  # (period_out, taps)
    kernel = torch.sinc(t) * torch.cos(t * math.pi / SINC_WIDTH / 2).square() * (cutoff / period_in)
    n = samples.shape[-1]
    padded = functional.pad(samples.reshape(-1, 1, n), (width, width + period_in))
    out = functional.conv1d(padded, kernel[:, None].float(), stride=period_in)  # (B, period_out, blocks)
    out = out.transpose(1, 2).flatten(1)[:, : math.ceil(n * period_out / period_in)]
    return out.reshape(*samples.shape[:-1], -1)


def flow_mel(
    x: Tensor | np.ndarray,
    sample_rate_hz: int = 24_000,
    n_fft: int = 1920,
    hop: int = 480,
    n_mels: int = 80,
    max_hz: float = 8000.0,
    window: int | None = None,
) -> Tensor:
    """Returns the natural-log mel magnitudes that the flow predicts (HiFi-GAN, Matcha-TTS), (B, n_mels, n // hop).

    Args:
        x: signal, (n,) or (B, n).
        sample_rate_hz: its rate.
        n_fft, hop: samples per transform and from frame to frame.
        n_mels, max_hz: filters, and where the last one ends.
        window: samples that a frame looks at, in the middle of its transform; None: all `n_fft`.

    Raises:
        ValueError: too short for one transform.
    """
    samples = _rows(x)
    margin = (n_fft - hop) // 2
    if samples.shape[1] <= margin:
        raise ValueError(f"The recording has {samples.shape[1]} samples; the mel needs more than {margin}.")
    padded = functional.pad(samples, (margin, margin), mode="reflect")
    n_window = n_fft if window is None else window
    hann = torch.hann_window(n_window, device=padded.device)
    spectrum = torch.stft(padded, n_fft, hop, n_window, hann, center=False, return_complex=True)  # (B, K, F)
    magnitude = torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + 1e-9)
    filters = slaney_filters(sample_rate_hz, n_fft, n_mels, max_hz).to(padded)
    return (filters @ magnitude).clamp(min=1e-5).log()  # (B, n_mels, F)


def whisper_mel(x: Tensor | np.ndarray, n_mels: int = 128) -> Tensor:
    """Returns Whisper's log-mel of a 16 kHz signal at its own length, (B, n_mels, n // 160)."""
    samples = _rows(x)
    window = torch.hann_window(WHISPER_FFT, device=samples.device)
    spectrum = torch.stft(samples, WHISPER_FFT, WHISPER_HOP, window=window, return_complex=True)  # (B, K, F + 1)
    power = spectrum[..., :-1].abs().square()
    filters = slaney_filters(RATE_HZ, WHISPER_FFT, n_mels, RATE_HZ / 2).to(samples)
    log_mel = (filters @ power).clamp(min=1e-10).log10()  # (B, n_mels, F)
    return (torch.maximum(log_mel, log_mel.amax((1, 2), keepdim=True) - WHISPER_RANGE) + 4) / 4


def fbank(x: Tensor | np.ndarray, centred: bool = False) -> Tensor:
    """Returns Kaldi's log filter banks of a 16 kHz signal, (F, 80), without dither.

    Args:
        x: the signal; not scaled by 2^15, as CAM++ was exported.
        centred: subtract each bin's mean over time (the input of CAM++).

    Raises:
        ValueError: shorter than one frame of 25 ms.
    """
    samples = _rows(x)[0]
    if len(samples) < FBANK_FRAME:
        raise ValueError(f"The recording has {len(samples)} samples; the filter banks need at least {FBANK_FRAME}.")
    frames = samples.unfold(0, FBANK_FRAME, FBANK_HOP)  # (F, 400)
    frames = frames - frames.mean(dim=1, keepdim=True)
    earlier = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    window = torch.hann_window(FBANK_FRAME, periodic=False, device=frames.device).pow(0.85)  # Povey
    spectrum = torch.fft.rfft((frames - PREEMPHASIS * earlier) * window, FBANK_FFT)  # (F, K)
    features = (spectrum.abs().square() @ kaldi_filters().to(frames).T).clamp(min=FBANK_FLOOR).log()  # (F, 80)
    return features - features.mean(dim=0) if centred else features


@functools.lru_cache
def slaney_filters(sample_rate_hz: int, n_fft: int, n_mels: int, max_hz: float) -> Tensor:
    """Triangular filters of equal area on the Slaney mel scale from 0 to `max_hz`, (n_mels, n_fft // 2 + 1)."""
    bins_hz = np.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1)
    corners_hz = _slaney_to_hz(np.linspace(0, _hz_to_slaney(max_hz), n_mels + 2))
    triangles = _triangles(bins_hz, corners_hz) * (2 / (corners_hz[2:] - corners_hz[:-2]))[:, None]
    return torch.from_numpy(triangles.astype(np.float32))


@functools.lru_cache
def kaldi_filters() -> Tensor:
    """Triangular filters in the HTK mel domain, (80, 257); the Nyquist bin is left out, as in Kaldi."""
    bins = _htk_mel(np.arange(FBANK_FFT // 2 + 1) * RATE_HZ / FBANK_FFT)
    corners = np.linspace(_htk_mel(FBANK_MIN_HZ), _htk_mel(FBANK_MAX_HZ), FBANK_BINS + 2)
    triangles = _triangles(bins, corners)
    triangles[:, -1] = 0.0
    return torch.from_numpy(triangles.astype(np.float32))


def _rows(x: Tensor | np.ndarray) -> Tensor:
    """(n,) or (B, n) -> float32 (B, n)."""
    return torch.atleast_2d(torch.as_tensor(x, dtype=torch.float32))


def _triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Triangle i rises from corner i to i + 1 and falls to i + 2: (n_corners - 2, n_points)."""
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.maximum(0, np.minimum((points - left) / (centre - left), (right - points) / (right - centre)))


def _hz_to_slaney(hz: float) -> float:
    """Slaney's mel: linear below 1000 Hz (15 mels), logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def _slaney_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


def _htk_mel(hz: np.ndarray | float) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(hz) / 700)
