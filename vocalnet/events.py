"""Events of one answer, in the order in which a session produces them.

Every event carries `t_s`, seconds since the call, and `stages`, the seconds spent by stage so far (see `Timings`), from
the session's injected clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str
    t_s: float
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenStat:
    """What the model believed when it proposed one speech token; from the raw logits (natural log)."""

    head: int  # 0 = main head, k = MTP module k
    entropy: float
    max_prob: float
    logprob: float
    kept: bool = True  # whether the policy made it part of the speech; for a verified token, known a step later


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How much of what was proposed became speech."""

    n_steps: int
    n_proposed: int
    n_kept: int
    by_head: tuple[float, ...]  # share of each head's proposals that were kept, the main head's first

    @property
    def tokens_per_step(self) -> float:
        """Kept tokens per step: the nominal speedup over one token per step."""
        return self.n_kept / max(self.n_steps, 1)


def acceptance(stats: Sequence[TokenStat]) -> Acceptance:
    """Counts the statistics of an answer, or of a part of it: every step has one token of the main head."""
    heads = range(1 + max((stat.head for stat in stats), default=-1))
    kept = [[stat.kept for stat in stats if stat.head == head] for head in heads]
    shares = tuple(sum(row) / max(len(row), 1) for row in kept)
    return Acceptance(len(kept[0]) if kept else 0, len(stats), sum(map(sum, kept)), shares)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one pick chose from, by the raw logits."""

    token: int  # the one that was picked; an end token is not part of the speech
    likeliest: tuple[tuple[int, float], ...]  # (token, probability), the most likely first


@dataclass(frozen=True, slots=True)
class SpeechTokens:
    """Speech tokens of one push or step; `stats` has one entry per token proposed and by now kept or not.

    `candidates` are those of each entry of `stats`, where `DecodeOptions.n_candidates` asks for them.
    """

    tokens: list[int]
    stats: list[TokenStat]
    t_s: float
    candidates: list[Candidates] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The next samples of the answer, float32 in [-1, 1]."""

    samples: np.ndarray
    sample_rate_hz: int
    t_s: float
    stages: dict[str, float] = field(default_factory=dict)


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

    @property
    def acceptance(self) -> Acceptance:
        """How many of the proposed speech tokens were kept, in all and by head."""
        return acceptance(self.stats)


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event; `result` folds all earlier ones."""

    result: Result
    t_s: float


Event = TextDelta | SpeechTokens | AudioChunk | Timings | Finished
