"""Streaming from speech tokens to waveform: which tokens go through the flow together, and when.

Three styles, see `STYLES`. "exact" runs each frame once and caches what later frames need; the two released styles run
the flow again over prompt and all tokens so far, and keep the new frames.

Letters: P prompt tokens, T tokens so far without the prompt, n new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from vocalnet.vocoder.conformer import LOOKAHEAD
from vocalnet.vocoder.flow import FlowCache

if TYPE_CHECKING:
    from vocalnet.vocoder.prompt import VoicePrompt
    from vocalnet.vocoder.token2wav import Token2Wav

MAX_HOP_CHUNKS = 4  # the official hop doubles from one chunk to four
VOCALNET_CHUNK = 50  # VocalNet's copy attends in chunks of 50 tokens, also offline
VOCALNET_WINDOW, VOCALNET_ADVANCE = 15, 12  # one window of 15 per push gives 12 tokens' frames
VOCALNET_FLUSH_HOP = 50


@dataclass(frozen=True, slots=True)
class Window:
    """One run of the flow: over `n_seen` tokens after the prompt, of which those from `offset` on are new."""

    n_seen: int
    offset: int
    chunk: int | None
    is_final: bool = False


class Windows(Protocol):
    """Which windows of the flow to run when tokens arrive; keeps its place in one utterance."""

    lookahead: str

    def due(self, n_tokens: int, last: bool) -> Iterator[Window]:
        """Yields the windows that `n_tokens` tokens so far allow; after the last push, all that is left."""
        ...


class OfficialWindows:
    """Hops of one chunk, aligned with the prompt, doubling to four; the last window has full attention."""

    lookahead = "context"

    def __init__(self, chunk: int, n_prompt: int) -> None:
        self.chunk = chunk
        self.hop = chunk
        self.padding = -n_prompt % chunk  # brings prompt and first hop to a multiple of the chunk
        self.offset = 0

    def due(self, n_tokens: int, last: bool) -> Iterator[Window]:
        while n_tokens >= (end := self.offset + self.hop + self.padding) + LOOKAHEAD:
            yield Window(end + LOOKAHEAD, self.offset, self.chunk)
            self.offset, self.padding = end, 0
            self.hop = min(2 * self.hop, MAX_HOP_CHUNKS * self.chunk)
        if last and n_tokens:
            yield Window(n_tokens, self.offset, None, is_final=True)


class VocalNetWindows:
    """At most one window of 15 tokens per push, 12 on each time; the last push works off the rest in hops of 50."""

    lookahead = "cut"

    def __init__(self) -> None:
        self.offset = 0

    def due(self, n_tokens: int, last: bool) -> Iterator[Window]:
        if not last:
            if n_tokens - self.offset >= VOCALNET_WINDOW:
                yield Window(self.offset + VOCALNET_WINDOW, self.offset, VOCALNET_CHUNK)
                self.offset += VOCALNET_ADVANCE
            return
        while n_tokens - self.offset >= VOCALNET_FLUSH_HOP + LOOKAHEAD:
            yield Window(self.offset + VOCALNET_FLUSH_HOP + LOOKAHEAD, self.offset, VOCALNET_CHUNK)
            self.offset += VOCALNET_FLUSH_HOP
        if n_tokens:
            yield Window(n_tokens, self.offset, VOCALNET_CHUNK, is_final=True)


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """How each run of the flow samples; see `Token2Wav.flow`."""

    noise: Tensor | None = None
    n_steps: int | None = None
    cfg_rate: float | None = None


class RerunMels:
    """Mel pieces of one utterance by running the flow again over prompt and tokens so far."""

    def __init__(self, token2wav: Token2Wav, prompt: VoicePrompt, options: FlowOptions, windows: Windows) -> None:
        self.token2wav = token2wav
        self.prompt = prompt
        self.options = options
        self.windows = windows
        self.tokens = prompt.tokens[:, :0]  # (1, T)

    def push(self, tokens: Tensor, last: bool) -> Iterator[tuple[Tensor, bool]]:
        """Yields (mel (1, n_mels, n), is it the end) for new tokens (1, n)."""
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        for window in self.windows.due(self.tokens.shape[1], last):
            mel = self.token2wav.flow(
                self.tokens[:, : window.n_seen],
                *self.prompt,
                finalize=window.is_final,
                chunk=window.chunk,
                lookahead=self.windows.lookahead,
                noise=self.options.noise,
                n_steps=self.options.n_steps,
                cfg_rate=self.options.cfg_rate,
            )
            yield mel[..., self.token2wav.flow_config.token_mel_ratio * window.offset :], window.is_final


class CachedMels:
    """Mel pieces of one utterance, each frame computed once: together they equal `flow(chunk=..., finalize=True)`.

    Attention in whole chunks and causal convolutions never change a frame of a complete chunk later, so a chunk can go
    through the encoder and every Euler step as soon as it and three more tokens are there. The price is memory: keys
    and values per Euler step, 4.6 MB per mel frame at the released size.
    """

    def __init__(self, token2wav: Token2Wav, prompt: VoicePrompt, options: FlowOptions, chunk: int) -> None:
        self.token2wav = token2wav
        self.prompt = prompt
        self.options = options
        self.chunk = chunk
        self.speaker = token2wav.speaker(prompt.embedding)
        self.cache = FlowCache(token2wav.spare)
        self.tokens = prompt.tokens  # (1, P + T)
        self.n_done = 0  # tokens that went through the flow, the prompt's included

    @torch.no_grad()
    def push(self, tokens: Tensor, last: bool) -> Iterator[tuple[Tensor, bool]]:
        """Yields (mel (1, n_mels, n), is it the end) for new tokens (1, n); nothing while a chunk is incomplete."""
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        n_prompt, n_tokens = self.prompt.tokens.shape[1], self.tokens.shape[1]
        if n_tokens == n_prompt:
            return
        end = n_tokens if last else max(n_tokens - LOOKAHEAD, 0) // self.chunk * self.chunk
        if end <= self.n_done:
            return
        mel = self._run(self.n_done, end, None if last else self.tokens[:, end : end + LOOKAHEAD])
        n_prompt_left = max(n_prompt - self.n_done, 0)
        self.n_done = end
        mel = mel[..., self.token2wav.flow_config.token_mel_ratio * n_prompt_left :]
        if mel.shape[2]:
            yield mel, last

    def _run(self, start: int, end: int, context: Tensor | None) -> Tensor:
        """Runs tokens start..end through the flow: their mel (1, n_mels, n)."""
        model = self.token2wav.flow_model
        _, mu = model.encode(self.tokens[:, start:end], None, self.chunk, context, self.cache.encoder)
        first, stop = (self.token2wav.flow_config.token_mel_ratio * place for place in (start, end))
        noise = self.token2wav.noise_frames(self.options.noise, first, stop)
        cond = self.prompt.frames(first, stop)
        n_steps, cfg_rate = self.options.n_steps, self.options.cfg_rate
        return model.sample(noise, mu.transpose(1, 2), self.speaker, cond, self.chunk, n_steps, cfg_rate, self.cache)


@dataclass(frozen=True, slots=True)
class Style:
    """A way to stream: how the mel is made, and where the vocoder's source accumulates its phase."""

    source_mode: str
    mels: Callable[[Token2Wav, VoicePrompt, FlowOptions, int], RerunMels | CachedMels]


STYLES = {
    "exact": Style("frame", CachedMels),
    "official": Style(
        "frame", lambda t2w, p, o, chunk: RerunMels(t2w, p, o, OfficialWindows(chunk, p.tokens.shape[1]))
    ),
    "vocalnet": Style("sample", lambda t2w, p, o, _: RerunMels(t2w, p, o, VocalNetWindows())),
}


class TokenStream:
    """One utterance from tokens to waveform; the model itself keeps nothing."""

    def __init__(
        self,
        token2wav: Token2Wav,
        prompt: VoicePrompt,
        style: str = "exact",
        noise: Tensor | None = None,
        source_noise: Tensor | float | None = None,
        phase: Tensor | float | None = None,
        fade: str | None = None,
        chunk: int | None = None,
        n_steps: int | None = None,
        cfg_rate: float | None = None,
    ) -> None:
        """Starts an utterance.

        Args:
            prompt: from `Token2Wav.voice`.
            style: a name of `STYLES`.
            noise, n_steps, cfg_rate: see `Token2Wav.flow`.
            source_noise, phase, fade: see `WaveStream`.
            chunk: tokens per attention chunk and first hop of "exact" and "official"; None: the config's. The first
                samples of "exact" need chunk + 3 tokens, so a smaller chunk answers sooner.

        Raises:
            ValueError: unknown style, or a chunk below 1.
        """
        if style not in STYLES:
            raise ValueError(f"Unknown streaming style {style!r}. Choose one of: {', '.join(STYLES)}.")
        chunk = token2wav.flow_config.chunk_size if chunk is None else chunk
        if chunk < 1:
            raise ValueError(f"A chunk of {chunk} tokens is not possible. Choose at least 1.")
        self.token2wav = token2wav
        self.mels = STYLES[style].mels(token2wav, prompt, FlowOptions(noise, n_steps, cfg_rate), chunk)
        self.waves = token2wav.wave_stream(STYLES[style].source_mode, source_noise, phase, fade)

    def push(self, tokens: Tensor | Iterable[int], last: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (mel (1, n_mels, n), samples (1, m)) that the new tokens make possible; `last` flushes the rest.

        Work is done as the iterator is drawn: draw it to its end before the next push.
        """
        for mel, is_end in self.mels.push(self.token2wav.token_row(tokens), last):
            yield mel, self.waves.push(mel, is_end)
