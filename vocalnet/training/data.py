"""Reading nano's data lists and clips into padded batches."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from vocalnet.audio import SAMPLE_RATE_HZ
from vocalnet.vocoder.frontend import whisper_mel

ALPHABET = "_ abcdefghijklmnopqrstuvwxyz'"  # "_" is CTC's blank


def read_list(data: Path, split: str) -> list[dict[str, Any]]:
    """Returns the entries of `data/SPLIT.json`, "answer" added for convenience where there is one."""
    path = data / f"{split}.json"
    if not path.exists():
        raise ValueError(f"{path} does not exist. Make the corpus first: python -m train.run --only synthesize")
    entries = json.loads(path.read_text())
    for entry in entries:
        if "conversations" in entry:
            entry["answer"] = entry["conversations"][1]["value"]
    return entries


def pick_entries(entries: list[dict[str, Any]], per_answer: int, seed: int, per_topic: int = 0) -> list[dict[str, Any]]:
    """Returns at most `per_answer` random questions for each distinct answer: speech is learned from answers.

    A topic that has so few answers that it would get less than `per_topic` questions may repeat them further, all as
    often: else the one sentence of all refusals would hardly be heard among thousands of words to repeat.
    """
    shuffled = random.Random(seed).sample(entries, len(entries))
    answers: dict[str | None, set[str]] = {}
    for entry in shuffled:
        answers.setdefault(entry.get("topic"), set()).add(entry["answer"])
    limits = {topic: max(per_answer, math.ceil(per_topic / len(own))) for topic, own in answers.items()}
    counts: dict[str, int] = {}
    picked = []
    for entry in shuffled:
        counts[entry["answer"]] = counts.get(entry["answer"], 0) + 1
        if counts[entry["answer"]] <= limits[entry.get("topic")]:
            picked.append(entry)
    return picked


def has_transcript(entry: dict[str, Any]) -> bool:
    """Whether it is known what is said in a clip (nothing, in noise); it is not in foreign languages."""
    return bool(entry["question"]) or entry["voice"] == "noise"


def read_clip(path: Path) -> np.ndarray:
    """Returns a 16 kHz clip of the corpus as float32 (n,)."""
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    return samples


def clip_lengths(paths: Sequence[Path]) -> list[int]:
    """Returns the samples of 16-bit mono WAV files, from their sizes alone."""
    return [(path.stat().st_size - 44) // 2 for path in paths]


def pad(arrays: Sequence[Tensor], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Stacks tensors of different first length: (B, L_max, ...) and lengths (B,)."""
    lengths = torch.tensor([len(a) for a in arrays])
    return torch.nn.utils.rnn.pad_sequence(list(arrays), batch_first=True, padding_value=value), lengths


def mel_batch(clips: Sequence[np.ndarray], n_mels: int, max_frames: int) -> tuple[Tensor, Tensor]:
    """Returns Whisper log-mels (B, n_mels, T_a) of clips, cut to `max_frames`, and their lengths (B,)."""
    mels = [whisper_mel(torch.from_numpy(clip), n_mels=n_mels).reshape(n_mels, -1)[:, :max_frames].T for clip in clips]
    mel, lengths = pad(mels)
    return mel.transpose(1, 2).contiguous(), lengths


def characters(text: str) -> Tensor:
    """Returns CTC targets of a text: letters, spaces and apostrophes."""
    return torch.tensor([ALPHABET.index(c) for c in text.lower() if c in ALPHABET[1:]], dtype=torch.long)


def greedy_text(logits: Tensor) -> str:
    """Returns the best path of CTC logits (T, V): repeats merged, blanks removed."""
    best = torch.unique_consecutive(logits.argmax(-1))
    return "".join(ALPHABET[i] for i in best.tolist() if i)
