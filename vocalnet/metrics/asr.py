"""Speech recognisers that judge spoken answers; nobody here trained them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Protocol

import numpy as np

from vocalnet.audio import FULL_SCALE, SAMPLE_RATE_HZ, SILENCE_PEAK, resample
from vocalnet.metrics.extras import require

Clip = tuple[np.ndarray, int]  # samples (n,) float in [-1, 1], sample_rate_hz
CLIPS_PER_TASK = 16  # a process loads the recogniser once per task, in about half a second


class Recogniser(Protocol):
    """Anything that writes down what it hears."""

    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        """Returns the words of samples (n,)."""
        ...


class PocketSphinx:
    """CMU PocketSphinx with the English model of its wheel.

    Raises:
        ValueError: pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        self.decoder = require("pocketsphinx").Decoder(samprate=float(SAMPLE_RATE_HZ), loglevel="FATAL")

    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        """Returns lower-case words; "" for digital silence, in which the language model would dream up a word."""
        mono = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
        if np.abs(mono).max(initial=0.0) < SILENCE_PEAK:
            return ""
        pcm = (np.clip(mono, -1.0, 1.0) * (FULL_SCALE["int16"] - 1)).astype("<i2")
        self.decoder.start_utt()
        self.decoder.process_raw(pcm.tobytes(), full_utt=True)
        self.decoder.end_utt()
        hypothesis = self.decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""


def transcribe_all(
    clips: Sequence[Clip], make: Callable[[], Recogniser] = PocketSphinx, n_processes: int | None = None
) -> list[str]:
    """Returns the words of many clips, in their order.

    Args:
        clips: pairs (samples, sample_rate_hz).
        make: builds a recogniser; called in every process, so it must be importable.
        n_processes: None: one per core; 1: in this process.
    """
    n_processes = min(n_processes or os.cpu_count() or 1, -(-len(clips) // CLIPS_PER_TASK))
    if n_processes <= 1:
        return _transcribe(make, clips)
    tasks = [clips[i : i + CLIPS_PER_TASK] for i in range(0, len(clips), CLIPS_PER_TASK)]
    context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has started its threads
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        return [text for texts in pool.map(_transcribe, [make] * len(tasks), tasks) for text in texts]


def _transcribe(make: Callable[[], Recogniser], clips: Sequence[Clip]) -> list[str]:
    recogniser = make()
    return [recogniser.transcribe(samples, sample_rate_hz) for samples, sample_rate_hz in clips]
