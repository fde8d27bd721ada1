"""How speech tokens are decoded: `DecodeOptions`, `RepetitionPenalty` and `RepetitionAware` sampling.

Letters: B batch, V_s speech vocabulary, n tokens of history, W window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vocalnet.config import TalkerConfig


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of: {', '.join(choices)}")


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Makes recently spoken tokens less likely.

    Attributes:
        window: how many of the last tokens count; 0: none (scope "sequence") or the whole call (scope "call", as the
            published streaming code slices).
        factor: the strength; 1 changes nothing.
        per_occurrence: apply once per occurrence in the window, otherwise once per distinct token.
        sign_aware: multiply negative logits, so that they sink too; the published code divides them, so they rise.
        heads: penalise the main head only, or all.
        scope: history is the whole sequence (start token included) or the tokens of the current call.
    """

    window: int = 5
    factor: float = 2.0
    per_occurrence: bool = False
    sign_aware: bool = True
    heads: Literal["main", "all"] = "main"
    scope: Literal["sequence", "call"] = "sequence"

    def __post_init__(self) -> None:
        _check_choice("heads", self.heads, ("main", "all"))
        _check_choice("scope", self.scope, ("sequence", "call"))
        if self.window < 0 or self.factor <= 0:
            raise ValueError("a repetition penalty needs window >= 0 and factor > 0")

    @classmethod
    def released_offline(cls) -> RepetitionPenalty:
        """Returns the setting of the published offline decoding."""
        return cls(window=5, factor=2.0, per_occurrence=True, sign_aware=False, heads="main", scope="sequence")

    @classmethod
    def released_streaming(cls) -> RepetitionPenalty:
        """Returns the setting of the published streaming decoding."""
        return cls(window=6, factor=2.0, per_occurrence=True, sign_aware=False, heads="all", scope="call")

    def tail(self, history: Tensor) -> Tensor:
        """Returns the part of the history (..., n) that counts."""
        if self.window == 0 and self.scope == "call":
            return history
        return history[..., max(0, history.shape[-1] - self.window) :]

    def apply(self, logits: Tensor, history: Tensor) -> Tensor:
        """Returns penalised logits; nothing is written in place and nothing leaves the device.

        Args:
            logits: (V_s,) or (B, V_s).
            history: the tokens so far, (n,) or (B, n); negative entries are no token.
        """
        tail = self.tail(history)
        if tail.shape[-1] == 0:
            return logits
        columns = F.pad(logits, (1, 0))  # column 0 takes what stands for no token
        index = tail.clamp(min=-1) + 1
        values = columns.gather(-1, index)  # (..., W)
        counts = (index[..., :, None] == index[..., None, :]).sum(-1) if self.per_occurrence else 1
        scale = self.factor**counts
        penalised = values / scale
        if self.sign_aware:
            penalised = penalised.where(values > 0, values * scale)
        return columns.scatter(-1, index, penalised.to(columns.dtype))[..., 1:]


@dataclass(frozen=True, slots=True)
class RepetitionAware:
    """Repetition-aware sampling (VALL-E 2, CosyVoice 2): a draw that repeats the last tokens is drawn again from all.

    Attributes:
        window: how many of the last tokens count, the start token included.
        share: a draw repeats if it makes up at least this share of the window; 0.1 of 10 is once.
    """

    window: int = 10
    share: float = 0.1

    def __post_init__(self) -> None:
        if self.window < 1 or self.share <= 0:
            raise ValueError("repetition-aware sampling needs window >= 1 and share > 0")

    def apply(self, scores: Tensor, full: Tensor, history: Tensor) -> Tensor:
        """Returns the log-probabilities of both draws together, (B, V_s).

        Deliberate difference from the published loop of two draws: the chance of a second draw is known beforehand, so
        the two are one distribution, which one draw follows and which `rejection` can compare.

        Args:
            scores: log-weights of the first draw, top k and top p applied, (B, V_s).
            full: log-weights of the second, before them, (B, V_s).
            history: the tokens so far, (B, n).
        """
        tail = history[:, -self.window :]
        counts = torch.zeros_like(scores).scatter_add(-1, tail, torch.ones_like(tail, dtype=scores.dtype))
        first = scores.softmax(-1)
        fresh = first.masked_fill(counts >= self.window * self.share, 0)
        again = (first - fresh).sum(-1, keepdim=True)  # (B, 1) probability of a second draw
        return (fresh + again * full.softmax(-1)).log()


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How a talker decodes.

    Attributes:
        tokens_per_step: tokens proposed per step, 1 .. 1 + M.
        policy: which of them are kept, a row of `policies.POLICIES`.
        temperature: 0 is greedy.
        top_k: sample among the k most likely only.
        top_p: sample among the most likely tokens that together have this probability.
        penalty: repetition penalty, None for none.
        max_tokens: the most tokens to return; None: as many as the talker has positions for, or under `count`
            "released" as the published code says.
        min_tokens: no end token before this many.
        seed: of the draws; None: a fresh one each time.
        mask: "full": the whole text is known; "streaming": speech of a chunk sees the text up to its chunk.
        count: how `max_tokens` counts; "released": as the published code, with the start token and between steps.
        eps, alpha: of the policy `typical`.
        top_n: of the policy `top_n`.
        tau: of the policy `confidence`.
        repetition_aware: draw again what repeats, None for never; needs a temperature.
        n_candidates: how many of the most likely tokens the events name for every pick.
        text_chunk, speech_chunk: C_t and C_s under the streaming mask; None: those that the talker was trained with.
    """

    tokens_per_step: int = 3
    policy: str = "fixed"
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    penalty: RepetitionPenalty | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    seed: int | None = None
    mask: Literal["full", "streaming"] = "full"
    count: Literal["own", "released"] = "own"
    eps: float = 0.09
    alpha: float = 0.3
    top_n: int = 5
    tau: float = 0.5
    repetition_aware: RepetitionAware | None = None
    n_candidates: int = 0
    text_chunk: int | None = None
    speech_chunk: int | None = None

    def __post_init__(self) -> None:
        _check_choice("mask", self.mask, ("full", "streaming"))
        _check_choice("count", self.count, ("own", "released"))
        if self.tokens_per_step < 1:
            raise ValueError("tokens_per_step must be at least 1")
        if self.n_candidates < 0:
            raise ValueError("n_candidates must be 0 (none) or positive")
        if not 0 <= self.temperature < math.inf:
            raise ValueError("temperature must be 0 (greedy) or positive, and finite")
        if self.seed is not None and abs(self.seed) >= 2**53:
            raise ValueError("seed must be a whole number below 2**53 (larger ones are not exact in JSON), or None")
        for name in ("top_k", "max_tokens", "text_chunk", "speech_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None")
        if self.repetition_aware is not None and self.temperature == 0:
            raise ValueError("repetition_aware draws again; greedy decoding draws nothing: set a temperature")
        if not (0 < self.eps < math.inf and 0 < self.alpha < math.inf):
            raise ValueError("eps and alpha must be positive and finite")
        if self.top_n < 1 or not 0 <= self.tau < math.inf:
            raise ValueError("top_n must be at least 1, and tau at least 0 and finite")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError("top_p must be above 0 and at most 1, or None")

    def chunked(self, config: TalkerConfig) -> TalkerConfig:
        """Returns a talker's config with the chunks that are asked for."""
        text_chunk, speech_chunk = self.text_chunk or config.text_chunk, self.speech_chunk or config.speech_chunk
        return replace(config, text_chunk=text_chunk, speech_chunk=speech_chunk)

    @classmethod
    def released(cls, tokens_per_step: int = 3) -> DecodeOptions:
        """Returns the published offline decoding: greedy, its penalty, its way of counting."""
        return cls(tokens_per_step=tokens_per_step, penalty=RepetitionPenalty.released_offline(), count="released")

    @classmethod
    def released_streaming(cls, tokens_per_step: int = 3) -> DecodeOptions:
        """Returns the published streaming decoding: greedy, its penalty, its way of counting."""
        penalty = RepetitionPenalty.released_streaming()
        return cls(tokens_per_step=tokens_per_step, penalty=penalty, mask="streaming", count="released")
