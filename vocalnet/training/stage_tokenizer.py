"""The speech tokenizer stage: FSQ codes that rebuild the mel and still tell the words; then tokens of every answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vocalnet.config import SpeechTokenizerConfig
from vocalnet.files import atomic_path
from vocalnet.training.answers import Answers
from vocalnet.training.data import ALPHABET, characters
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.stage_encoder import ctc_loss
from vocalnet.vocoder.speech_tokenizer import ConvBlock, SpeechTokenizer

CTC_WEIGHT = 0.2


class Decoder(nn.Module):
    """Rebuilds two 50 Hz mel frames per token, and letters; used in training only."""

    def __init__(self, config: SpeechTokenizerConfig, n_mels: int):
        super().__init__()
        self.enter = nn.Conv1d(len(config.levels), config.dim, 3, padding=1)
        self.blocks = nn.ModuleList(ConvBlock(config.dim, config.ffn_dim, config.kernel) for _ in range(4))
        self.mel = nn.Conv1d(config.dim, 2 * n_mels, 1)
        self.letters = nn.Conv1d(config.dim, len(ALPHABET), 1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mel (B, n_mels, 2T) and letter logits (B, T, V) of quantised values (B, T, n_dims)."""
        B, T, _ = values.shape
        x = self.enter(values.transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        mel = self.mel(x).reshape(B, 2, -1, T).permute(0, 2, 3, 1).reshape(B, -1, 2 * T)
        return mel, self.letters(x).transpose(1, 2)


def train_tokenizer(
    answers: Answers, folder: Path, config: SpeechTokenizerConfig, options: dict[str, Any], seed: int
) -> SpeechTokenizer:
    """Returns the tokenizer, trained on whole answers: L1 of the normalised mel plus CTC of the text."""
    loop = LoopConfig(**options["loop"])
    torch.manual_seed(seed)
    tokenizer = SpeechTokenizer(config)
    decoder = Decoder(config, answers.mel[0].shape[1])
    order = batch_order(len(answers), options["batch_size"], seed, [len(m) for m in answers.mel])
    mean, std = answers.mel_statistics()

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        whisper, _ = answers.batch(answers.whisper, index)
        mel, lengths = answers.batch(answers.mel, index)
        values, _ = tokenizer(whisper.transpose(1, 2))
        rebuilt, letters = decoder(values)
        n = min(rebuilt.shape[2], mel.shape[1])
        valid = (torch.arange(n) < lengths[:, None])[:, None]
        error = (rebuilt[..., :n] - ((mel - mean) / std).transpose(1, 2)[..., :n]).abs() * valid
        mel_loss = error.sum() / valid.sum() / mel.shape[2]
        targets = [characters(answers.texts[i]) for i in index]
        ctc = ctc_loss(letters, (lengths + 1) // 2, targets)
        return {"total": mel_loss + CTC_WEIGHT * ctc, "mel": mel_loss.detach(), "ctc": ctc.detach()}

    train({"tokenizer": tokenizer, "decoder": decoder}, losses, loop, folder, seed)
    return tokenizer


def write_units(tokenizer: SpeechTokenizer, answers: Answers, data: Path) -> float:
    """Writes `data/units/HASH.npy` (int64) for every answer; returns the share of codes in use."""
    (data / "units").mkdir(exist_ok=True)
    used = torch.zeros(tokenizer.config.n_units, dtype=torch.bool)
    for name, whisper, mel in zip(answers.names, answers.whisper, answers.mel, strict=True):
        units = tokenizer.tokenize(whisper.T[None])[0][: (len(mel) + 1) // 2]
        used[units] = True
        with atomic_path(data / "units" / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, units.numpy())
    return used.float().mean().item()
