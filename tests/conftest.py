"""Shared fixtures: one thread for torch, and a model that answers without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from vocalnet.audio import load_audio
from vocalnet.events import AudioChunk, Finished, Result, SpeechTokens, TextDelta, Timings, TokenStat

FAKE_RATE_HZ = 16_000


class FakeModel:
    """Answers every recording with `answer` and half a second of tone; bad recordings raise as in a real model."""

    def __init__(self, answer: str = "Two plus two is four.") -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []

    def stream(
        self, audio: Any = None, text: str | None = None, voice: Any = None, speech: bool = True, options: Any = None
    ) -> Iterator[Any]:
        """Yields the events of one answer, in a real session's order."""
        self.calls.append({"audio": audio, "text": text, "voice": voice, "speech": speech, "options": options})
        if audio is not None:
            load_audio(audio)
        yield TextDelta(self.answer, 0.1)
        stages = {"load": 0.0, "audio": 0.01, "encoder": 0.02, "llm": 0.05, "first_text": 0.1, "total": 0.1}
        samples, tokens, stats = None, [], []
        if speech:
            t = np.arange(FAKE_RATE_HZ // 2) / FAKE_RATE_HZ
            samples = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
            tokens = [1, 2, 3]
            stats = [TokenStat(head=k, entropy=0.5, max_prob=0.8, logprob=-0.2) for k in range(3)]
            yield SpeechTokens(tokens, stats, 0.2)
            for half in np.split(samples, 2):
                yield AudioChunk(half, FAKE_RATE_HZ, 0.3)
            stages |= {"talker": 0.1, "vocoder": 0.1, "first_audio": 0.3, "total": 0.4}
        yield Timings(stages, 0.4)
        yield Finished(Result(self.answer, samples, FAKE_RATE_HZ, tokens, stats, stages, ["A warning."]), 0.4)

    def respond(self, **arguments: Any) -> Result:
        """Returns the last event's result."""
        *_, last = self.stream(**arguments)
        return last.result


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny shapes gain nothing from threads, and runs become comparable between machines."""
    torch.set_num_threads(1)


@pytest.fixture
def fake_model() -> FakeModel:
    """A model with the facade's `respond` and `stream`."""
    return FakeModel()
