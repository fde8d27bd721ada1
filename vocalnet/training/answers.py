"""The answer clips of the corpus with their features, held in memory (an hour and a half of speech, about 0.4 GB)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocalnet.config import HiftConfig
from vocalnet.training.corpus import answer_name
from vocalnet.training.data import pad, read_clip, read_list
from vocalnet.vocoder.frontend import flow_mel, whisper_mel


class Answers:
    """Every distinct answer of one split: text, samples (n,), Whisper log-mel (T_a, 80) and vocoder log-mel (N, 80)."""

    def __init__(self, data: Path, split: str, hift: HiftConfig, limit: int | None = None):
        texts = {answer_name(e["answer"]): e["answer"] for e in read_list(data, split)}
        self.names = sorted(texts)[:limit]
        self.texts = [texts[name] for name in self.names]
        self.samples: list[np.ndarray] = []
        self.whisper: list[Tensor] = []
        self.mel: list[Tensor] = []
        hop = hift.samples_per_frame
        for name in self.names:
            samples = read_clip(data / "answers" / f"{name}.wav")
            samples = samples[: len(samples) // (2 * hop) * 2 * hop]  # whole tokens: two mel frames each
            self.samples.append(samples)
            wave = torch.from_numpy(samples)
            self.whisper.append(whisper_mel(wave, n_mels=80).reshape(80, -1).T.contiguous())
            self.mel.append(flow_mel(wave, **mel_settings(hift)).reshape(80, -1).T.contiguous())

    def __len__(self) -> int:
        return len(self.names)

    @staticmethod
    def batch(features: list[Tensor], index: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns padded features (B, L_max, ...) and their lengths (B,)."""
        return pad([features[i] for i in index])

    def mel_statistics(self) -> tuple[Tensor, Tensor]:
        """Returns mean and deviation of the vocoder mel over all frames and bins."""
        frames = torch.cat(self.mel)
        return frames.mean(), frames.std()


def mel_settings(hift: HiftConfig) -> dict[str, int]:
    """Returns the arguments of `flow_mel` for the mel that a vocoder reads."""
    hop = hift.samples_per_frame
    window = hift.mel_window_hops * hop
    n_fft = max(window, 2 * hop)  # a window of one hop has too few bins for narrow filters: it is padded with zeros
    return {"sample_rate_hz": hift.sample_rate_hz, "n_fft": n_fft, "hop": hop, "window": window}
