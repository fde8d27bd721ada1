"""A model without weights for tests of everything around the model: it answers every question with a 440 Hz voice."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from vocalnet.audio import load_audio
from vocalnet.events import AudioChunk, Finished, Result, SpeechTokens, TextDelta, Timings, TokenStat

SAMPLE_RATE_HZ = 16_000
TOKEN_RATE_HZ = 25
ANSWER = "You asked a question, and this voice has 440 hertz."


class FakeModel:
    """Answers like a model. The prompt chooses its mood.

    "slowly" pauses between words, "mute" says nothing aloud, "crash" fails unexpectedly.

    Attributes:
        n_opened, n_closed: streams begun, and streams whose iterator was closed or exhausted.
        requests: the arguments of every stream.
    """

    decoders: tuple[str, ...] = ("mtp_vocalnet", "ntp")
    policies: tuple[str, ...] = ("fixed",)
    max_tokens_per_step = 5
    device = "cpu"
    card: dict[str, Any] = {  # noqa: RUF012
        "name": "fake",
        "summary": "A 440 Hz tone that stands in for a voice.",
        "parameters": 0,
        "languages": ["English"],
    }

    def __init__(self, answer: str = ANSWER) -> None:
        self.answer = answer
        self.n_opened = 0
        self.n_closed = 0
        self.requests: list[dict[str, Any]] = []

    def with_decoder(self, name: str) -> FakeModel:
        """Returns this model with another decoder first; both note requests in one list."""
        if name == self.decoders[0]:
            return self
        other = copy.copy(self)
        other.decoders = (name, *(known for known in self.decoders if known != name))
        return other

    def respond(self, **request: Any) -> Result:
        """Returns the result that ends `stream`."""
        *_, last = self.stream(**request)
        assert isinstance(last, Finished)
        return last.result

    def stream(
        self, audio: Any, prompt: str = "", voice: str | None = None, speech: bool = True, options: Any = None
    ) -> Iterator[Any]:
        """Yields the events of one answer."""
        self.requests.append({"audio": audio, "prompt": prompt, "speech": speech, "options": options})
        self.n_opened += 1
        try:
            yield from self._events(audio, prompt, speech, time.perf_counter())
        finally:
            self.n_closed += 1

    def _events(self, audio: Any, prompt: str, speech: bool, start: float) -> Iterator[Any]:
        load_audio(audio)  # bad recordings are refused in the words of a real model
        if prompt == "crash":
            raise RuntimeError("/secret/path/of/the/server")
        words = self.answer.split(" ") * (20 if prompt == "slowly" else 1)
        for n, word in enumerate(words):
            time.sleep(0.1 if prompt == "slowly" else 0.005)
            yield TextDelta(word if n == 0 else f" {word}", time.perf_counter() - start)
        first_s = time.perf_counter() - start
        chunks: list[np.ndarray] = []
        tokens: list[int] = []
        stats: list[TokenStat] = []
        is_heard = speech and prompt != "mute"
        for n in range(4 if is_heard else 0):
            new = list(range(10 * n, 10 * n + 10))
            new_stats = [TokenStat(head=i % 3, entropy=1.0, max_prob=0.5, logprob=-0.7) for i in range(10)]
            yield SpeechTokens(new, new_stats, time.perf_counter() - start)
            chunk = tone(10 / TOKEN_RATE_HZ, offset_s=n * 10 / TOKEN_RATE_HZ)
            yield AudioChunk(chunk, SAMPLE_RATE_HZ, time.perf_counter() - start)
            tokens, stats, chunks = tokens + new, stats + new_stats, [*chunks, chunk]
        stages = {"load": 0.1, "audio": 0.01, "encoder": 0.02, "llm": 0.05, "talker": 0.04, "vocoder": 0.03}
        stages |= {"first_text": 0.08, "total": max(0.16, first_s)} | ({"first_audio": 0.12} if is_heard else {})
        yield Timings(stages, time.perf_counter() - start)
        voice = np.concatenate([np.zeros(0, np.float32), *chunks]) if speech else None
        warnings = ["This answer comes from a test tone."]
        yield Finished(
            Result(" ".join(words), voice, SAMPLE_RATE_HZ, tokens, stats, stages, warnings), time.perf_counter() - start
        )


def tone(duration_s: float, offset_s: float = 0.0, peak: float = 0.3) -> np.ndarray:
    """Returns a 440 Hz tone, float32, at `SAMPLE_RATE_HZ`."""
    times_s = offset_s + np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (peak * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32)
