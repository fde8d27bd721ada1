"""The vocoder stage: HiFT learns nano's voice from its mels.

Its losses: multi-resolution STFT, mel, supervised f0 and a light discriminator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vocalnet.config import HiftConfig
from vocalnet.training.answers import Answers
from vocalnet.training.discriminator import Discriminator
from vocalnet.training.loop import LoopConfig, Losses, train
from vocalnet.vocoder.frontend import flow_mel
from vocalnet.vocoder.hift import Hift

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256), (2048, 512))  # n_fft, hop
MEL_RESOLUTIONS = ((128, 32, 20), (256, 64, 40), (512, 128, 80), (1024, 256, 160))  # n_fft, hop, n_mels
F0_WEIGHT, MEL_WEIGHT, ADVERSARIAL_WEIGHT, MATCHING_WEIGHT = 0.02, 2.0, 0.1, 2.0


def pitch(samples: np.ndarray, hift: HiftConfig, n_frames: int) -> Tensor:
    """Returns Praat's f0 in Hz at the centre of each mel frame, (n_frames,); 0 where unvoiced.

    Raises:
        ValueError: praat-parselmouth is not installed.
    """
    try:
        import parselmouth
    except ImportError as error:
        raise ValueError('Training the vocoder needs Praat: pip install "vocalnet[train]"') from error
    hop_s = hift.samples_per_frame / hift.sample_rate_hz
    sound = parselmouth.Sound(samples.astype(np.float64), hift.sample_rate_hz)
    track = sound.to_pitch_ac(time_step=hop_s / 2, pitch_floor=70, pitch_ceiling=400)
    nearest = np.searchsorted(track.xs(), (np.arange(n_frames) + 0.5) * hop_s).clip(0, len(track.xs()) - 1)
    return torch.from_numpy(track.selected_array["frequency"][nearest].astype(np.float32))


def spectral_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Returns the multi-resolution STFT loss of waves (B, n): convergence plus log-magnitude L1 (arXiv 1910.11480)."""
    total = predicted.new_zeros(())
    for n_fft, hop in RESOLUTIONS:
        window = torch.hann_window(n_fft)
        x, y = (
            torch.view_as_real(torch.stft(wave, n_fft, hop, window=window, return_complex=True))
            .square()
            .sum(-1)
            .clamp(min=1e-7)
            .sqrt()
            for wave in (predicted, target)
        )
        total = total + (y - x).norm() / y.norm() + (y.log() - x.log()).abs().mean()
    return total / len(RESOLUTIONS)


def mel_loss(predicted: Tensor, target: Tensor, sample_rate_hz: int) -> Tensor:
    """Returns the L1 distance of the log-mels of waves (B, n) at several resolutions (as in arXiv 2306.06546)."""
    total = predicted.new_zeros(())
    for n_fft, hop, n_mels in MEL_RESOLUTIONS:
        x, y = (flow_mel(wave, sample_rate_hz, n_fft, hop, n_mels, sample_rate_hz / 2) for wave in (predicted, target))
        total = total + functional.l1_loss(x, y)
    return total / len(MEL_RESOLUTIONS)


def train_vocoder(vocoder: Hift, answers: Answers, folder: Path, options: dict[str, Any], seed: int) -> None:
    """Trains a vocoder in place on random segments of the answers.

    Args:
        options: "loop" (LoopConfig), "batch_size", "segment_frames", "discriminator" (its channels), "judged" (how
            many segments of a batch it is shown; all by default).
    """
    loop = LoopConfig(**options["loop"])
    config = vocoder.config
    torch.manual_seed(seed)
    discriminator = Discriminator(options["discriminator"])
    f0 = [pitch(x, config, len(m)) for x, m in zip(answers.samples, answers.mel, strict=True)]
    hop, frames = config.samples_per_frame, options["segment_frames"]
    n_judged = options.get("judged", options["batch_size"])
    long_enough = [i for i, mel in enumerate(answers.mel) if len(mel) >= frames]

    def segments(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Returns waves (B, n), mels (B, n_mels, N) and f0 (B, N) of random segments."""
        rows = []
        for i in rng.choice(long_enough, options["batch_size"]):
            start = rng.integers(0, len(answers.mel[i]) - frames + 1)
            wave = torch.from_numpy(answers.samples[i][start * hop : (start + frames) * hop])
            rows.append((wave, answers.mel[i][start : start + frames].T, f0[i][start : start + frames]))
        waves, mels, pitches = (torch.stack(column) for column in zip(*rows, strict=True))
        return waves, mels, pitches

    def losses(step: int, generator: torch.Generator) -> Losses:
        waves, mels, pitches = segments(np.random.default_rng([seed, step]))
        predicted = vocoder.decode(mels, vocoder.source(pitches, generator=generator))
        stft = spectral_loss(predicted, waves)
        mel = mel_loss(predicted, waves, config.sample_rate_hz)
        f0_loss = functional.l1_loss(vocoder.f0(mels), pitches)
        own, adversarial, matching = discriminator.losses(waves[:n_judged], predicted[:n_judged])
        parts = {"stft": stft, "mel": mel, "f0_hz": f0_loss, "own": own, "real": adversarial, "matching": matching}
        spectral = stft + MEL_WEIGHT * mel + F0_WEIGHT * f0_loss
        total = spectral + own + ADVERSARIAL_WEIGHT * adversarial + MATCHING_WEIGHT * matching
        return {"total": total, **{name: value.detach() for name, value in parts.items()}}

    train({"hift": vocoder, "discriminator": discriminator}, losses, loop, folder, seed)
