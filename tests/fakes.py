"""A model without weights for tests of everything around the model: it answers every question with a 440 Hz voice."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vocalnet import DecodeOptions
from vocalnet.audio import load_audio
from vocalnet.config import TalkerConfig
from vocalnet.evaluation import Judges
from vocalnet.events import AudioChunk, Candidates, Finished, Result, SpeechTokens, TextDelta, Timings, TokenStat
from vocalnet.metrics.mos import Mos

SAMPLE_RATE_HZ = 16_000
TOKEN_RATE_HZ = 25
CHUNK_S = 10 / TOKEN_RATE_HZ
ANSWER = "You asked a question, and this voice has 440 hertz."


class FakeModel:
    """Answers like a model. The prompt, or the name of the recording, chooses its mood.

    "slowly" pauses between words for 20 s, "calmly" for 3, "mute" says nothing aloud, "crash" fails unexpectedly,
    "break" does so after most of a long answer's sound, "pace 0.5" speaks for longer, each chunk made in half the time
    that it sounds. A typed question sets the mood, too. Its talker is the faster, the more tokens per step; where it
    does not verify, more than one token per step make one of its tokens another.

    Attributes:
        requests: the arguments of every stream.
        heard: the samples of every spoken question, at 16 kHz.
        times: when the last answer's first chunk was made, by the clock on the wall.
    """

    decoders: tuple[str, ...] = ("mtp_vocalnet", "ntp", "mtp_deepseek")
    policies: tuple[str, ...] = ("fixed", "greedy_verify", "typical", "top_n", "confidence")
    voices: tuple[str, ...] = ("high", "low")
    device = "cpu"
    sample_rate_hz = SAMPLE_RATE_HZ
    card: dict[str, Any] = {  # noqa: RUF012
        "name": "fake",
        "revision": "1",
        "summary": "A 440 Hz tone that stands in for a voice.",
        "parameters": 0,
        "languages": ["English"],
    }

    def __init__(self, answer: str = ANSWER) -> None:
        self.answer = answer
        self.counts = {"opened": 0, "closed": 0}
        self.heard: list[np.ndarray] = []
        self.times: dict[str, float] = {}
        self.requests: list[dict[str, Any]] = []

    def with_decoder(self, name: str) -> FakeModel:
        """Returns this model with another decoder first; both note streams in one place."""
        if name == self.decoders[0]:
            return self
        other = copy.copy(self)
        other.decoders = (name, *(known for known in self.decoders if known != name))
        return other

    @property
    def parts(self) -> SimpleNamespace:
        """The part of a config that bounds of a speedup come from."""
        return SimpleNamespace(talker=TalkerConfig(8, 8, 16, 2, 1, 2, self.decoders[0], mtp_num=4))

    @property
    def max_tokens_per_step(self) -> int:
        """What the decoder can propose."""
        return 1 if self.decoders[0] == "ntp" else 5

    @property
    def talker(self) -> SimpleNamespace:
        """A talker whose sessions are good for checking options alone."""

        def session(options: Any) -> None:
            if options.tokens_per_step > self.max_tokens_per_step:
                raise ValueError(f"this talker takes {self.max_tokens_per_step}")

        def default_options(mask: str = "full") -> DecodeOptions:
            return DecodeOptions(tokens_per_step=min(3, self.max_tokens_per_step), mask=mask)

        return SimpleNamespace(session=session, default_options=default_options)

    @property
    def n_opened(self) -> int:
        """Streams begun."""
        return self.counts["opened"]

    @property
    def n_closed(self) -> int:
        """Streams whose iterator was closed or exhausted."""
        return self.counts["closed"]

    def respond(self, **request: Any) -> Result:
        """Returns the result that ends `stream`."""
        *_, last = self.stream(**request)
        assert isinstance(last, Finished)
        return last.result

    def session(self) -> FakeSession:
        """Returns a conversation."""
        return FakeSession(self)

    def stream(
        self,
        audio: Any = None,
        text: str | None = None,
        prompt: str = "",
        voice: str | None = None,
        speech: bool = True,
        options: Any = None,
        sound: Any = None,
    ) -> Iterator[Any]:
        """Yields the events of one answer."""
        asked = {"audio": audio, "text": text, "prompt": prompt, "speech": speech, "options": options}
        self.requests.append({**asked, "voice": voice, "sound": sound})
        if (audio is None) == (text is None):
            raise ValueError("Give one question.")
        if options is not None:
            self.talker.session(options)
        self.counts["opened"] += 1
        try:
            mood = prompt or text or (Path(audio).stem if isinstance(audio, str | Path) else "")
            yield from self._events(audio, mood, speech, options, time.perf_counter())
        finally:
            self.counts["closed"] += 1

    def _events(self, audio: Any, mood: str, speech: bool, options: Any, start: float) -> Iterator[Any]:
        if audio is not None:
            self.heard.append(load_audio(audio))  # bad recordings are refused in the words of a real model
        if mood == "crash":
            raise RuntimeError("/secret/path/of/the/server")
        words = self.answer.split(" ") * {"slowly": 20, "calmly": 3}.get(mood, 1)
        for n, word in enumerate(words):
            time.sleep(0.1 if mood in ("slowly", "calmly") else 0.005)
            yield TextDelta(word if n == 0 else f" {word}", time.perf_counter() - start)
        spoken: list[SpeechTokens] = []
        chunks: list[np.ndarray] = []
        is_heard = speech and mood != "mute"
        pace = float(mood.removeprefix("pace ")) if mood.startswith("pace ") else 0.0 if mood == "break" else None
        for n in range(12 if pace is not None else 4 if is_heard else 0):
            time.sleep(CHUNK_S * (pace or 0.0))
            if mood == "break" and n == 10:
                time.sleep(0.5)
                raise RuntimeError("/secret/path/of/the/server")
            spoken.append(_speech(n, options, time.perf_counter() - start))
            yield spoken[-1]
            chunks.append(tone(CHUNK_S, offset_s=n * CHUNK_S))
            if n == 0:
                self.times["first_chunk"] = time.time()
            yield AudioChunk(chunks[-1], SAMPLE_RATE_HZ, time.perf_counter() - start)
        tokens = [token for event in spoken for token in event.tokens]
        stats = [stat for event in spoken for stat in event.stats]
        stages = {"load": 0.1, "audio": 0.01, "encoder": 0.02, "llm": 0.05, "vocoder": 0.03}
        stages["talker"] = 0.12 / _n_steps(options) if is_heard else 0.0
        stages |= {"first_text": 0.08, "total": 0.16} | ({"first_audio": 0.12} if is_heard else {})
        yield Timings(stages, time.perf_counter() - start)
        voice = np.concatenate([np.zeros(0, np.float32), *chunks]) if speech else None
        warnings = ["This answer comes from a test tone."]
        yield Finished(
            Result(" ".join(words), voice, SAMPLE_RATE_HZ, tokens, stats, stages, warnings), time.perf_counter() - start
        )


class FakeSession:
    """A conversation that remembers nothing; its model may be changed."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model

    def stream(self, **request: Any) -> Iterator[Any]:
        """Yields the events of one answer."""
        return self.model.stream(**request)


def hear_all_but_the_number(clips: Any) -> list[str]:
    """A recogniser of `ANSWER`."""
    return [ANSWER.replace("440", "") for _ in clips]


# of answers that nobody need hear
JUDGES = Judges(transcribe=hear_all_but_the_number, make_mos=lambda: lambda samples, rate_hz: Mos(3.0))


def _n_steps(options: Any) -> int:
    """Returns the tokens per step that are asked for."""
    return 3 if options is None else options.tokens_per_step


def _speech(n: int, options: Any, t_s: float) -> SpeechTokens:
    """Returns the n-th ten tokens."""
    K = _n_steps(options)
    is_free = options is not None and K > 1 and options.policy == "fixed"
    tokens = [10 * n + i + 500 * (is_free and 10 * n + i == 5) for i in range(10)]
    stats = [TokenStat(i % K, entropy=1.0 + 0.1 * n, max_prob=0.5 - 0.05 * n, logprob=-0.7) for i in range(10)]
    n_candidates = 0 if options is None else options.n_candidates
    candidates = [Candidates(token, tuple((token + j, 0.5 / (j + 1)) for j in range(n_candidates))) for token in tokens]
    return SpeechTokens(tokens, stats, t_s, candidates if n_candidates else [])


def tone(duration_s: float, offset_s: float = 0.0, peak: float = 0.3) -> np.ndarray:
    """Returns a 440 Hz tone, float32, at `SAMPLE_RATE_HZ`."""
    times_s = offset_s + np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (peak * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32)
