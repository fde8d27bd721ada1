"""Events of one answer, in the order in which a session produces them.

Every event carries `t_s`: seconds since the call, from the session's injected clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str
    t_s: float


@dataclass(frozen=True, slots=True)
class TokenStat:
    """What the model believed when it proposed one speech token; from the raw logits (natural log)."""

    head: int  # 0 = main head, k = MTP module k
    entropy: float
    max_prob: float
    logprob: float
    kept: bool = True


@dataclass(frozen=True, slots=True)
class SpeechTokens:
    """Speech tokens of one push or step; `stats` has one entry per proposed token."""

    tokens: list[int]
    stats: list[TokenStat]
    t_s: float


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The next samples of the answer, float32 in [-1, 1]."""

    samples: np.ndarray
    sample_rate_hz: int
    t_s: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent by stage so far: load, audio, encoder, llm, talker, vocoder, first_text, first_audio, total."""

    stages: dict[str, float]
    t_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """A whole answer: the fold of its event stream."""

    text: str
    audio: np.ndarray | None
    sample_rate_hz: int
    speech_tokens: list[int]
    stats: list[TokenStat]
    timings: dict[str, float]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event; `result` folds all earlier ones."""

    result: Result
    t_s: float


Event = TextDelta | SpeechTokens | AudioChunk | Timings | Finished
