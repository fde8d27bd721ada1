"""The vocoder's stages: HiFT learns nano's voice from its mels, and then (`polish`) from those that the flow makes.

The losses: multi-resolution STFT, mel, supervised f0 and a light discriminator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vocalnet.config import HiftConfig
from vocalnet.training.answers import Answers, mel_settings
from vocalnet.training.discriminator import Discriminator
from vocalnet.training.loop import LoopConfig, Losses, train
from vocalnet.vocoder.frontend import flow_mel
from vocalnet.vocoder.hift import Hift
from vocalnet.vocoder.token2wav import Token2Wav

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256), (2048, 512))  # n_fft, hop
F0_WEIGHT, MEL_WEIGHT, ADVERSARIAL_WEIGHT, MATCHING_WEIGHT = 0.02, 1.0, 0.1, 2.0


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


def flowed(token2wav: Token2Wav, units: Iterable[Tensor]) -> list[Tensor]:
    """Returns the mel (N, n_mels) that the flow makes of each answer's tokens (T,): as streamed, and in one piece.

    The two take turns, so that the vocoder hears both. The frames are those of the answer, whose tokens they are.
    """
    chunks = (token2wav.flow_config.chunk_size, None)
    return [token2wav.flow(tokens, chunk=chunks[i % 2])[0].T.contiguous() for i, tokens in enumerate(units)]


def train_vocoder(
    vocoder: Hift,
    answers: Answers,
    folder: Path,
    options: dict[str, Any],
    seed: int,
    mels: Sequence[Tensor] | None = None,
) -> None:
    """Trains a vocoder in place on random segments of the answers.

    Args:
        options: "loop" (LoopConfig), "batch_size", "segment_frames", "discriminator" (its channels).
        mels: what it reads, (N_i, n_mels) for each answer, of the answer's frames or fewer; None: the answer's own mel.
            What it is to sound like is always the answer.
    """
    mels = answers.mel if mels is None else mels
    loop = LoopConfig(**options["loop"])
    config = vocoder.config
    torch.manual_seed(seed)
    discriminator = Discriminator(options["discriminator"])
    f0 = [pitch(x, config, len(m)) for x, m in zip(answers.samples, answers.mel, strict=True)]
    hop, frames = config.samples_per_frame, options["segment_frames"]
    long_enough = [i for i, mel in enumerate(mels) if len(mel) >= frames]
    settings = mel_settings(config)

    def segments(rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Returns of random segments waves (B, n), their mels and those to read (B, n_mels, N), and f0 (B, N)."""
        rows = []
        for i in rng.choice(long_enough, options["batch_size"]):
            start = rng.integers(0, len(mels[i]) - frames + 1)
            here = slice(start, start + frames)
            wave = torch.from_numpy(answers.samples[i][start * hop : (start + frames) * hop])
            rows.append((wave, answers.mel[i][here].T, mels[i][here].T, f0[i][here]))
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def losses(step: int, generator: torch.Generator) -> Losses:
        waves, spoken, read, pitches = segments(np.random.default_rng([seed, step]))
        predicted = vocoder.decode(read, vocoder.source(pitches, generator=generator))
        stft = spectral_loss(predicted, waves)
        mel = functional.l1_loss(flow_mel(predicted, **settings), spoken)
        f0_loss = functional.l1_loss(vocoder.f0(read), pitches)
        own, adversarial, matching = discriminator.losses(waves, predicted)
        parts = {"stft": stft, "mel": mel, "f0_hz": f0_loss, "own": own, "real": adversarial, "matching": matching}
        spectral = stft + MEL_WEIGHT * mel + F0_WEIGHT * f0_loss
        total = spectral + own + ADVERSARIAL_WEIGHT * adversarial + MATCHING_WEIGHT * matching
        return {"total": total, **{name: value.detach() for name, value in parts.items()}}

    train({"hift": vocoder, "discriminator": discriminator}, losses, loop, folder, seed)
