"""Whisper as a judge: writes down spoken answers, as the paper has them written down by its large-v3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from vocalnet.audio import SAMPLE_RATE_HZ, SILENCE_PEAK, resample
from vocalnet.shards import local_folder

HOW_TO_NAME = "Give Whisper's folder or hub id, such as openai/whisper-large-v3."


class Whisper:
    """A Whisper of transformers' layout: a folder or a hub id, such as openai/whisper-large-v3, the paper's judge.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        folder = local_folder(path, HOW_TO_NAME)
        self.processor = WhisperProcessor.from_pretrained(folder)
        self.model = WhisperForConditionalGeneration.from_pretrained(folder).eval().to(device)
        spelling = folder / "normalizer.json"
        self.spelling = spelling if spelling.is_file() else None  # for `wer.normalise`

    @torch.inference_mode()
    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        """Returns what was said, in English, with punctuation; "" for digital silence, in which it would dream."""
        mono = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
        if np.abs(mono).max(initial=0.0) < SILENCE_PEAK:
            return ""
        is_long = len(mono) > self.processor.feature_extractor.n_samples  # of one window
        inputs = self.processor(
            mono,
            sampling_rate=SAMPLE_RATE_HZ,
            return_tensors="pt",
            return_attention_mask=True,
            truncation=not is_long,
            padding="longest" if is_long else "max_length",
        ).to(self.model.device)
        said = {"language": "en", "task": "transcribe"} if self.model.generation_config.is_multilingual else {}
        ids = self.model.generate(**inputs, **said, return_timestamps=is_long)
        return self.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
