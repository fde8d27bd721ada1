"""One conversation: all state of generation, as an iterator of events. Offline answers fold the same iterator.

    audio -> encoder states -> LLM tokens -> (C_t at a time) talker -> speech tokens -> vocoder -> samples

With `DecodeOptions(mask="streaming")` the three overlap; with "full" the talker waits for the whole text and the
vocoder for all tokens, for the best quality. Closing the iterator cancels.

A text longer than a talker says well is spoken in segments, independently of each other: offline as one batch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from vocalnet.audio import SAMPLE_RATE_HZ, load_audio
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.session import Spoken, TalkerSession
from vocalnet.events import AudioChunk, Candidates, Event, Finished, Result, SpeechTokens, TextDelta, Timings, TokenStat
from vocalnet.experts import speech_positions
from vocalnet.llm import (
    Message,
    backbone,
    cache_argument,
    embed_prompt,
    end_ids,
    prompt_pieces,
    speech_mask,
    text_end_embedding,
    user_content,
)
from vocalnet.model import VocalNet
from vocalnet.tokens import RELEASED_FILLER
from vocalnet.vocoder.options import VocoderOptions
from vocalnet.vocoder.prompt import VoicePrompt
from vocalnet.vocoder.token2wav import Token2Wav

STAGES = ("load", "audio", "encoder", "llm", "talker", "vocoder")
SEGMENT_TOKENS = 50  # a text longer than this is spoken in segments
TOKENS_PER_TEXT = 25  # an answer's speech may be this many tokens (1 s) per text token long, and SPARE_TOKENS more
SPARE_TOKENS = 75


@dataclass(frozen=True, slots=True)
class SpeakingRules:
    """How an answer's text is handed to the talker, and which of its tokens are spoken; the defaults are ours.

    Attributes:
        mark: regular expression of the text of a token that a segment may end after.
        min_tokens: a segment ends only once it has so many text tokens.
        hears_end: the talker is also given the state that produced the text's end token.
        drops_last: the last speech token of a segment is not spoken, an end token or not.
        filler: spoken where there is no text to speak.
    """

    mark: str = r"(?s).*[.?!]\s*"
    min_tokens: int = SEGMENT_TOKENS + 1
    hears_end: bool = False
    drops_last: bool = False
    filler: tuple[int, ...] = ()

    @classmethod
    def released(cls) -> SpeakingRules:
        """Returns those of the published offline inference: commas cut too, and a mark is a token of its own."""
        return cls(mark="[.?!,]", hears_end=True, drops_last=True)

    @classmethod
    def released_streaming(cls) -> SpeakingRules:
        """Returns those of the published streaming inference."""
        return cls("(?s).*[.?!]", SEGMENT_TOKENS, hears_end=True, drops_last=True, filler=RELEASED_FILLER)

    def is_cut(self, n_tokens: int, text: str) -> bool:
        """Says whether a segment of `n_tokens` ends after a token of this text."""
        return n_tokens >= self.min_tokens and re.fullmatch(self.mark, text) is not None


AudioSource = str | Path | tuple[np.ndarray, int]


@dataclass
class _Run:
    """What one answer accumulates."""

    clock: Callable[[], float]
    began: float
    stages: dict[str, float]
    device: torch.device
    text: str = ""
    speech_tokens: list[int] = field(default_factory=list)
    stats: list[TokenStat] = field(default_factory=list)
    audio: list[np.ndarray] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def now(self) -> float:
        return self.clock() - self.began

    def timed(self, stage: str, work: Callable[[], Any]) -> Any:
        """Runs `work` and adds its seconds to a stage."""
        start = self.clock()
        try:
            done = work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # else the next stage would pay for it
            return done
        finally:
            self.stages[stage] += self.clock() - start

    def stamp(self) -> dict[str, Any]:
        """Returns what every event carries: the time, and the seconds by stage so far."""
        return {"t_s": self.now(), "stages": dict(self.stages)}

    def first(self, name: str) -> None:
        """Notes when something happened for the first time."""
        self.stages.setdefault(name, self.now())


@dataclass(frozen=True)
class _Speaking:
    """How an answer is spoken."""

    options: DecodeOptions
    sound: VocoderOptions | None
    prompt: VoicePrompt | None  # the voice


class Session:
    """A conversation with one model. Several sessions of one model may run at once; they share its weights only."""

    def __init__(self, model: VocalNet, clock: Callable[[], float] = time.perf_counter):
        self.model = model
        self.clock = clock
        self._messages: list[Message] = []
        self._audio: list[Tensor] = []  # embeddings (L_a, D) of every spoken user turn

    def respond(self, **kwargs: Any) -> Result:
        """Returns one whole answer; arguments of `stream`."""
        for event in self.stream(**kwargs):
            if isinstance(event, Finished):
                return event.result
        raise AssertionError("a stream ends with Finished")

    def stream(
        self,
        audio: AudioSource | None = None,
        text: str | None = None,
        prompt: str = "",
        voice: str | None = None,
        speech: bool = True,
        options: DecodeOptions | None = None,
        sound: VocoderOptions | None = None,
    ) -> Iterator[Event]:
        """Yields the events of one answer, `Finished` last.

        Args:
            audio: the spoken question, a path or (samples, sample_rate_hz).
            text: a typed question instead.
            prompt: an instruction before the question, such as "Transcribe:".
            voice: where the vocoder takes voices, one of `VocalNet.voices` or the path of a recording of a few seconds;
                None: its default.
            speech: False: answer in text only.
            options: how speech is decoded; None: as the talker prefers.
            sound: how the vocoder speaks; None: as the checkpoint says.

        Raises:
            ValueError: no or two questions, unusable audio, options that the model does not have; before any event.
        """
        stages = dict.fromkeys(STAGES, 0.0) | {"load": self.model.load_s}
        run = _Run(self.clock, self.clock(), stages, self.model.device)
        if (audio is None) == (text is None or not text.strip()):
            raise ValueError("Give one question: either audio (a path or (samples, sample_rate_hz)) or text.")
        if not speech and options is not None and self.model.talker is not None:
            self.model.talker.session(options)  # says what it cannot do, though nothing is to be spoken
        speaking = self._speaking(voice, options, sound) if speech else None
        samples = None if audio is None else self._heard(run, audio)
        return self._stream(run, samples, text, speaking, prompt)

    def _heard(self, run: _Run, audio: AudioSource) -> np.ndarray:
        """Returns the samples of a question (n,)."""
        parts = self.model.parts
        samples: np.ndarray = run.timed("audio", lambda: load_audio(audio, parts.max_audio_s))
        window_s = parts.encoder.window_s
        audio_s = len(samples) / SAMPLE_RATE_HZ
        if audio_s > window_s:
            run.warnings.append(f"The recording is {audio_s:.1f} s long; it was heard in windows of {window_s:g} s.")
        return samples

    def _speaking(self, voice: str | None, options: DecodeOptions | None, sound: VocoderOptions | None) -> _Speaking:
        """Checks how an answer is to be spoken."""
        talker, vocoder = self.model.talker, self.model.vocoder
        if talker is None:
            raise ValueError("This checkpoint answers in text only. Ask with speech=False (vocalnet s2t).")
        if vocoder is None:
            raise ValueError(
                "This checkpoint came without a vocoder, which turns its speech tokens into sound. Give the folder of "
                "CosyVoice2-0.5B: load(..., vocoder=PATH), or --vocoder PATH; or ask with speech=False (vocalnet s2t)."
            )
        if sound is not None and not isinstance(vocoder, Token2Wav):
            raise ValueError('The official vocoder speaks as its checkout does. Leave sound=None, or use "native".')
        options = options or talker.default_options()
        talker.session(options)  # refuses what this talker cannot do, before the LLM has run
        return _Speaking(options, sound, self.model.voice(voice))

    @torch.inference_mode()
    def _stream(
        self, run: _Run, samples: np.ndarray | None, text: str | None, speaking: _Speaking | None, prompt: str
    ) -> Iterator[Event]:
        model = self.model
        messages, audio = [*self._messages, Message("user", user_content(prompt, text))], list(self._audio)
        if samples is not None:
            audio.append(run.timed("encoder", lambda: model.adapt(model.features(samples))))
        messages, audio = self._fitting(messages, audio, run)
        speaker = _Speaker(model, speaking, run) if speaking else None
        end = None
        for delta, state, is_end in self._answer(messages, audio, run):
            if delta:
                run.text += delta
                run.first("first_text")
                yield TextDelta(delta, **run.stamp())
            if is_end:
                end = state
            elif speaker:
                yield from speaker.hear(state, delta)
        if speaker:
            yield from speaker.finish(end)
        self._messages = [*messages, Message("assistant", run.text)]
        self._audio = audio
        run.first("first_text")
        if run.audio:
            run.first("first_audio")
        run.stages["total"] = run.now()  # from the call: loading is not in it
        yield Timings(dict(run.stages), run.now())
        result = Result(
            text=run.text,
            audio=np.concatenate(run.audio) if run.audio else (np.zeros(0, np.float32) if speaker else None),
            sample_rate_hz=model.sample_rate_hz,
            speech_tokens=run.speech_tokens,
            stats=run.stats,
            timings=dict(run.stages),
            warnings=run.warnings,
        )
        yield Finished(result, run.now())

    def _fitting(self, messages: list[Message], audio: list[Tensor], run: _Run) -> tuple[list[Message], list[Tensor]]:
        """Returns the conversation less its oldest turns, as many as leave the LLM no room for an answer."""
        model = self.model
        room = model.llm.config.get_text_config().max_position_embeddings - model.parts.max_text_tokens
        n_turns = len(messages)
        while True:
            pieces = prompt_pieces(model.tokenizer, model.family, messages)
            audio = audio[len(audio) - (len(pieces) - 1) :]
            is_fit = sum(map(len, pieces)) + sum(map(len, audio)) <= room
            if is_fit or len(messages) == 1:
                break
            messages = messages[2:]  # a question and its answer
        if len(messages) < n_turns:
            run.warnings.append(
                "The conversation is longer than this model can follow: its oldest turns were left out."
            )
        if not is_fit:
            run.warnings.append("The question is longer than this model was made for: the answer may be wrong.")
        return messages, audio

    def _answer(self, messages: list[Message], audio: list[Tensor], run: _Run) -> Iterator[tuple[str, Tensor, bool]]:
        """Yields (new text, state (1, D) that produced the token, is the end token) of each token, greedily."""
        model, tokenizer = self.model, self.model.tokenizer
        pieces = prompt_pieces(tokenizer, model.family, messages)
        stops = end_ids(tokenizer, model.family)
        ids, shown = list[int](), ""
        kept = {cache_argument(model.llm): DynamicCache()}  # keys and values
        inputs = run.timed("llm", lambda: embed_prompt(model.llm, pieces, audio))  # (1, L, D)
        is_speech: Tensor | None = speech_mask(pieces, audio)[None].to(model.device)  # of the prompt; then text only

        def step(embeddings: Tensor, is_speech: Tensor | None) -> tuple[int, Tensor]:
            with speech_positions(is_speech):
                out = backbone(model.llm)(inputs_embeds=embeddings, use_cache=True, **kept)
            state = out.last_hidden_state[:, -1]  # (1, D)
            return int(model.llm.get_output_embeddings()(state).argmax()), state

        for _ in range(model.parts.max_text_tokens):
            token, state = run.timed("llm", partial(step, inputs, is_speech))
            if token in stops:
                yield "", state, True
                return
            ids.append(token)
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
            delta = "" if text.endswith("\ufffd") else text[len(shown) :]  # a character may span several tokens
            shown += delta
            yield delta, state, False
            inputs = model.llm.get_input_embeddings()(torch.tensor([[token]], device=model.device))
            is_speech = None
        run.warnings.append(f"The answer was cut after {model.parts.max_text_tokens} text tokens.")


class _Speaker:
    """Turns answer states into speech while they come: talker and vocoder of one answer."""

    def __init__(self, model: VocalNet, speaking: _Speaking, run: _Run):
        assert model.talker is not None
        assert model.vocoder is not None
        self.model, self.options, self.run = model, speaking.options, run
        self.speaking = speaking
        self.talker, self.vocoder = model.talker, model.vocoder
        self.is_streaming = self.options.mask == "streaming"
        self.text_chunk = self.options.chunked(self.talker.config).text_chunk
        self.rules = SpeakingRules()
        if self.talker.config.behaviour == "released":
            self.rules = SpeakingRules.released_streaming() if self.is_streaming else SpeakingRules.released()
        self._segments: list[Tensor] = []  # whole ones that wait to be spoken, (L_t, D) each
        self._states: list[Tensor] = []  # of the segment so far; when streaming, those not yet pushed
        self._n_segment = 0  # text tokens of the segment so far
        self._session: TalkerSession | None = None
        self._wave = self._token_stream() if self.is_streaming else None

    def hear(self, state: Tensor, delta: str) -> Iterator[Event]:
        """Takes the state (1, D) of one more text token; yields what can be spoken by now."""
        self._states.append(state)
        self._n_segment += 1
        if self.rules.is_cut(self._n_segment, delta):
            yield from self._end_segment()
        elif self.is_streaming and len(self._states) == self.text_chunk:
            yield from self._push(last=False)

    def finish(self, end: Tensor | None) -> Iterator[Event]:
        """Yields all that is left to be spoken; `end` (1, D) is the state that produced the end token, if one did."""
        if end is not None and self.rules.hears_end:
            yield from self._hear_end(end)
        elif self._n_segment:
            yield from self._end_segment()
        if self._segments:
            yield from self._speak_segments()
        run = self.run
        if self._wave is not None:
            if run.speech_tokens:
                yield from self._sound([], last=True)
        elif run.speech_tokens:
            yield from self._sounded(run.timed("vocoder", self._whole_wave))
        if not run.speech_tokens:
            run.warnings.append("The answer holds no speech.")

    def _hear_end(self, end: Tensor) -> Iterator[Event]:
        """Takes the end token's state as the published code does.

        Offline, it is part of the last segment, be that cut already. Streaming, it is a text token like the others; but
        where it fills or opens a chunk, the embedding that closes the text is not fed, and where it opens one, neither
        is the state itself.
        """
        if not self.is_streaming:
            if not self._states and self._segments:
                self._segments[-1] = torch.cat([self._segments[-1][:-1], end, self._segments[-1][-1:]])
            else:
                self._states.append(end)
                yield from self._end_segment()
        elif self._states:
            self._states.append(end)
            if len(self._states) < self.text_chunk:
                yield from self._end_segment()
            else:
                yield from self._push(last=False)
                yield from self._push(last=True)
        elif self._n_segment:
            yield from self._push(last=True)
        else:
            yield from self._say(list(self.rules.filler), [], [])

    def _end_segment(self) -> Iterator[Event]:
        """Closes the text of a segment: speaks the rest of it when streaming, otherwise keeps it for the batch."""
        model = self.model
        self._states.append(text_end_embedding(model.llm, model.tokenizer, model.family))
        if self.is_streaming:
            yield from self._push(last=True)
        else:
            self._segments.append(torch.cat(self._states))
            self._states.clear()
        self._session, self._n_segment = None, 0

    def _push(self, last: bool) -> Iterator[Event]:
        """Hands the waiting states, if any, to the talker; yields its tokens and their sound."""
        if self._session is None:
            self._session = self.talker.session(self._options(self._n_segment))
        session, hidden = self._session, torch.cat(self._states)[None] if self._states else None  # (1, n, D)
        self._states.clear()
        pieces = self._pieces(session, hidden, last)
        while (tokens := self.run.timed("talker", lambda: next(pieces, None))) is not None:
            yield from self._say_of(session, tokens)
        yield from self._say_of(session, [])  # what ended it

    def _pieces(self, session: TalkerSession, hidden: Tensor | None, last: bool) -> Iterator[list[int]]:
        """Yields the tokens that a push makes possible; after the last, a chunk at a time, to be heard meanwhile."""
        if last and not self.rules.drops_last:
            for piece in session.rest(hidden, self.options.chunked(self.talker.config).speech_chunk):
                yield piece.tolist()
        else:
            tokens = session.push(hidden, last=last).tolist()
            yield tokens[:-1] if last else tokens

    def _say_of(self, session: TalkerSession, tokens: list[int]) -> Iterator[Event]:
        """Yields a session's new tokens and what its heads believed of them."""
        candidates = session.candidates(self.options.n_candidates)
        yield from self._say(tokens, session.take_picks(), candidates)

    def _speak_segments(self) -> Iterator[Event]:
        """Decodes all segments as one batch; yields the tokens of one after another."""
        options = self._options(max(len(segment) for segment in self._segments) - 1)
        batch: list[Spoken] = self.run.timed("talker", lambda: self.talker.decode(self._segments, options))
        for spoken in batch:
            is_cut = self.rules.drops_last and not spoken.has_ended  # an end token has been taken off already
            candidates = spoken.candidates(options.n_candidates)
            yield from self._say(spoken.tokens[:-1] if is_cut else spoken.tokens, spoken.take_picks(), candidates)

    def _options(self, n_text: int) -> DecodeOptions:
        """Returns the options for a text of so many tokens: without a limit of their own, one that it may not need."""
        own = TOKENS_PER_TEXT * max(n_text, SEGMENT_TOKENS) + SPARE_TOKENS
        return replace(self.options, max_tokens=self.options.max_tokens or max(own, self.options.min_tokens))

    def _say(self, tokens: list[int], stats: list[TokenStat], candidates: list[Candidates]) -> Iterator[Event]:
        """Yields the talker's tokens, less special ones (the published streaming code says them), and their sound."""
        run, units = self.run, self.talker.config.n_units
        tokens = [token for token in tokens if token < units]
        run.speech_tokens += tokens
        run.stats += stats
        if tokens or stats:  # a push may say nothing but the end
            yield SpeechTokens(tokens, stats, candidates=candidates, **run.stamp())
        if tokens and self._wave is not None:
            yield from self._sound(tokens, last=False)

    def _sound(self, tokens: list[int], last: bool) -> Iterator[Event]:
        """Pushes tokens through the streaming vocoder; yields the samples that are ready."""
        wave = self._wave
        assert wave is not None
        pieces = self.run.timed("vocoder", lambda: list(wave.push(tokens, last=last)))
        for _, samples in pieces:
            if samples.numel():
                yield from self._sounded(samples[0])

    def _token_stream(self) -> Any:
        """Starts the sound of a streamed answer."""
        prompt, sound = self.speaking.prompt, self.speaking.sound
        named: dict[str, Any] = {} if sound is None else sound.of_stream()
        if prompt is not None:
            named["prompt"] = prompt
        return self.vocoder.token_stream(**named)

    def _whole_wave(self) -> Tensor:
        """Returns the samples (n,) of all speech tokens together."""
        prompt, sound = self.speaking.prompt, self.speaking.sound
        mel = self.vocoder.flow(self.run.speech_tokens, *(prompt or ()), **({} if sound is None else sound.of_flow()))
        return self.vocoder.vocode(mel)[0][0]

    def _sounded(self, samples: Tensor) -> Iterator[Event]:
        """Yields samples as an event; after the first, what each stage has taken up to there."""
        run, array = self.run, samples.float().cpu().numpy()
        is_first = not run.audio
        run.audio.append(array)
        run.first("first_audio")
        yield AudioChunk(array, self.model.sample_rate_hz, **run.stamp())
        if is_first:
            yield Timings(dict(run.stages), run.now())
