"""Decoding sessions: when to step, what a push returns, when to end. Offline decoding is one push that is the last.

Letters: B batch, n new text positions, D LLM width, V_s speech vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.sampling import Draws, likeliest, measure
from vocalnet.decoder.stream import Stream
from vocalnet.events import Candidates, TokenStat
from vocalnet.masks import first_speech_row
from vocalnet.threads import few_threads

if TYPE_CHECKING:
    from vocalnet.decoder.talker import Talker

Speaker = TypeVar("Speaker", bound="BatchSession | ReleasedSession")
Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def _speaking(
    method: Callable[Concatenate[Speaker, Given], Returned],
) -> Callable[Concatenate[Speaker, Given], Returned]:
    """Makes a session's method run without gradients, and without threads that only cost."""

    @functools.wraps(method)
    def speak(session: Speaker, *args: Given.args, **kwargs: Given.kwargs) -> Returned:
        with torch.inference_mode(), few_threads(session.stream.config.n_largest_layer):
            return method(session, *args, **kwargs)

    return speak


class Spoken:
    """What one sample has said so far."""

    def __init__(self, n_units: int = 0) -> None:
        """`n_units`: V_s, the width of its logits where there are none."""
        self._n_units = n_units
        self.tokens: list[int] = []  # without a final end token
        self.is_done = False
        self.has_ended = False  # by an end token, not by a limit
        self._proposals: list[tuple[int, int, bool]] = []  # token, head, kept; not yet handed out
        self._logits: list[Tensor] = []  # theirs, (V_s,)

    def take(
        self, said: Iterable[tuple[int, int, bool]], logits: Tensor, eos_id: int, limit: int | None = None
    ) -> None:
        """Appends one step's tokens, each with its head and whether it is kept, up to an end token or the limit.

        `logits` (n, V_s): theirs, raw.
        """
        if self.is_done:
            return
        for (token, head, is_kept), row in zip(said, logits, strict=True):
            is_kept = is_kept and not self.is_done
            self._proposals.append((token, head, is_kept))
            self._logits.append(row)
            if is_kept:
                if token != eos_id:
                    self.tokens.append(token)
                self.has_ended = token == eos_id
                self.is_done = self.has_ended or len(self.tokens) == limit

    def logits(self) -> Tensor:
        """Returns the raw logits of the kept picks, the end token's too, (n_picked, V_s)."""
        kept = [row for row, (*_, is_kept) in zip(self._logits, self._proposals, strict=True) if is_kept]
        return torch.stack(kept) if kept else torch.empty(0, self._n_units)

    def candidates(self, n: int) -> list[Candidates]:
        """Returns the n most likely tokens at each pick that the next `take_picks` will tell of."""
        if not (self._logits and n):
            return []
        rows = likeliest(torch.stack(self._logits), n)
        return [Candidates(token, row) for (token, *_), row in zip(self._proposals, rows, strict=True)]

    def take_picks(self) -> list[TokenStat]:
        """Returns what the heads believed of each token proposed since the last call, and lets go of the logits."""
        if not self._proposals:
            return []
        tokens = torch.tensor([token for token, *_ in self._proposals], device=self._logits[0].device)
        numbers = measure(torch.stack(self._logits), tokens).tolist()
        stats = [
            TokenStat(head, entropy, max_prob, logprob, kept)
            for (_, head, kept), (entropy, max_prob, logprob) in zip(self._proposals, numbers, strict=True)
        ]
        self._proposals.clear()
        self._logits.clear()
        return stats


class TalkerSession(Protocol):
    """One answer being spoken while its text arrives."""

    def push(self, hidden: Tensor | None, last: bool = False) -> Tensor:
        """Takes new LLM states (1, n, D), or None for no new text; returns the new speech tokens (n_tokens,)."""

    def rest(self, hidden: Tensor | None, n_tokens: int) -> Iterator[Tensor]:
        """Takes the last LLM states (1, n, D), or None; yields what `push(hidden, last=True)` returns in pieces.

        A piece is decoded when it is asked for; `n_tokens` is its length, but for the last.
        """

    def candidates(self, n: int) -> list[Candidates]:
        """Returns the n most likely tokens at each pick that the next `take_picks` will tell of."""

    def take_picks(self) -> list[TokenStat]:
        """Returns what the heads believed of each token proposed since the last call of this method."""


class BatchSession:
    """Decodes a batch whose texts arrive together; an own talker's session is the batch of one.

    A speech row runs as soon as all text that its mask can show has arrived, and under the full mask when the text is
    complete, so how the text is cut into pushes never changes a token, but for what mtp_deepseek's modules propose
    after a row that waited for them when text came (`Stream`).
    """

    def __init__(self, talker: Talker, options: DecodeOptions, batch: int = 1) -> None:
        self.stream = Stream(talker, options, batch)
        self.samples = [Spoken(len(self.stream.embedding)) for _ in range(batch)]
        self._left: dict[int, Draws] = {}  # samples that no longer step with the batch, and the draws they have left
        self._waiting: list[Tensor] = []  # text that has come while the full mask waits for the rest
        self._n_returned = 0
        self._is_closed = False

    def push(self, hidden: Tensor | None, last: bool = False) -> Tensor:
        """Takes new LLM states (1, n, D), or None; returns the new speech tokens, C_s for C_t texts until the end.

        Raises:
            ValueError: the last push has been made.
        """
        self._hear(hidden, last)
        self._decode(None if last else self._n_rows_ready())
        is_whole = last or self.samples[0].is_done
        return self._said(None if is_whole else self._n_rows_ready())  # what a step proposed beyond waits for its chunk

    def rest(self, hidden: Tensor | None, n_tokens: int) -> Iterator[Tensor]:
        """Takes the last LLM states (1, n, D), or None; yields what `push(hidden, last=True)` returns in pieces.

        Raises:
            ValueError: the last push has been made.
        """
        self._hear(hidden, last=True)
        return self._pieces(n_tokens)

    def _pieces(self, n_tokens: int) -> Iterator[Tensor]:
        """Decodes and yields n tokens at a time."""
        while True:
            end = self._n_returned + n_tokens
            self._decode(end)
            piece = self._said(end)
            if not len(piece):
                return
            yield piece

    @_speaking
    def _hear(self, hidden: Tensor | None, last: bool) -> None:
        """Adds text (1, n, D) to what can be spoken; the full mask waits for all of it."""
        if self._is_closed:
            raise ValueError("this session has had its last push; open a new one for the next answer")
        self._is_closed = last
        if hidden is not None:
            self._waiting.append(hidden)
        if last or self.stream.options.mask == "streaming":
            empty = self.stream.embedding.new_empty(1, 0, self.stream.config.llm_dim)
            self.stream.add_text(torch.cat([empty, *(text.to(empty) for text in self._waiting)], 1))
            self._waiting.clear()

    def _said(self, end: int | None) -> Tensor:
        """Returns the tokens not yet returned, up to the place `end`."""
        start, tokens = self._n_returned, self.samples[0].tokens
        self._n_returned = len(tokens) if end is None else min(end, len(tokens))
        return torch.tensor(tokens[start : self._n_returned], dtype=torch.long)

    def candidates(self, n: int) -> list[Candidates]:
        """Returns the n most likely tokens at each pick that the next `take_picks` will tell of."""
        return self.samples[0].candidates(n)

    def take_picks(self) -> list[TokenStat]:
        """Returns the statistics since the last call of this method."""
        return self.samples[0].take_picks()

    @_speaking
    def run(self, hidden: Tensor, lengths: Tensor | None = None, last: bool = False) -> None:
        """Adds text (B, n, D), `lengths` (B,) of it real, and decodes as far as the text allows."""
        self.stream.add_text(hidden, lengths)
        self._decode(None if last else self._n_rows_ready())
        for sample in self._left:  # after the others, which share every step
            length = hidden.shape[1] if lengths is None else int(lengths[sample])
            self._go_on_alone(sample, hidden[sample : sample + 1, :length])

    @_speaking
    def _decode(self, n_ready: int | None) -> None:
        """Steps until all samples are done, or `n_ready` rows have been run, after which more text is needed."""
        stream = self.stream
        is_cut = stream.options.count == "own" or stream.options.tokens_per_step == 1 or stream.policy.is_adaptive
        limit = stream.max_tokens if is_cut else None
        while any(self._steps_on(sample) for sample in range(len(self.samples))):
            if n_ready is not None and stream.n_tokens >= n_ready:
                return
            if limit is None and stream.n_tokens + 1 >= stream.max_tokens:  # published: between steps, start included
                return
            picks = stream.step()
            for sample, (said, logits) in enumerate(zip(picks.said(), picks.logits, strict=True)):
                if self._steps_on(sample):
                    said = self._guarded(sample, said) if stream.is_guarded else said
                    self.samples[sample].take(said, logits, stream.config.eos_id, limit)

    def _steps_on(self, sample: int) -> bool:
        """Says whether a sample takes part in the next step."""
        return not (self.samples[sample].is_done or sample in self._left)

    def _guarded(self, sample: int, said: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
        """Returns one step's picks without a module's end token and all after it: the main head decides in its place.

        Alone, it does so in the next step. The samples of a batch step together, so one that is cut leaves it.
        """
        stream = self.stream
        ends = [n for n, (token, head, _) in enumerate(said) if head > 0 and token == stream.config.eos_id]
        if not ends:
            return said
        if len(self.samples) == 1:
            stream.take_back(len(said) - ends[0])
        else:
            self._left[sample] = stream.draws.of(sample)
        return [(token, head, is_kept and n < ends[0]) for n, (token, head, is_kept) in enumerate(said)]

    def _go_on_alone(self, sample: int, hidden: Tensor) -> None:
        """Decodes the rest of a sample that has left the batch, after all that it has said; hidden (1, L_t, D)."""
        stream, spoken = self.stream, self.samples[sample]
        alone = BatchSession(stream.talker, stream.options)
        alone.samples = [spoken]
        alone.stream.draws = self._left[sample]
        alone.stream.is_end_near = True
        said = torch.tensor([spoken.tokens], dtype=torch.long, device=stream.embedding.device)
        alone.stream.sequence = torch.cat([alone.stream.sequence, said], 1)
        alone.run(hidden, last=True)

    def _n_rows_ready(self) -> int:
        """Returns how many speech tokens the text so far is enough for: rows that would not see the next position."""
        if self.stream.options.mask == "full":
            return 0
        config = self.stream.config
        n_text = self.stream.n_text[:1]
        return int(first_speech_row(n_text, config.mask_rule, config.text_chunk, config.speech_chunk))


class ReleasedSession:
    """The published streaming decoding: one push is one call of it, its drift at chunk ends included.

    A call that is not the last returns C_s tokens, cut inside a step if need be; the modules past the cut miss that
    step and the next call feeds the last K tokens again. An end token ends its call only, and is returned with it.
    Adaptive policies, which the published code does not have, do not drift and count as one token per step does.
    """

    def __init__(self, talker: Talker, options: DecodeOptions) -> None:
        self.stream = Stream(talker, options)
        self.spoken = Spoken(len(self.stream.embedding))

    @_speaking
    def push(self, hidden: Tensor | None, last: bool = False) -> Tensor:
        """Takes new LLM states (1, n, D), or None; returns this call's tokens, an end token included."""
        stream = self.stream
        config = stream.config
        stream.add_text(stream.embedding.new_empty(1, 0, config.llm_dim) if hidden is None else hidden)
        is_first = stream.n_fed == 0
        stream.call_start = stream.sequence.shape[1]
        # Where there are fewer than K tokens so far, the start token included, a later call goes on with so few a step.
        n_repeated = min(stream.call_start, stream.options.tokens_per_step)
        if not stream.policy.is_adaptive:
            stream.n_fed = stream.call_start - n_repeated
        limit = self._limit(last)
        called: list[int] = []
        while len(called) < limit and config.eos_id not in called:
            picks = stream.step(room=limit - len(called))
            if not (is_first or stream.policy.is_adaptive):
                stream.n_fed = stream.sequence.shape[1] - n_repeated
            (said,) = picks.said()
            called += [token for token, _, is_kept in said if is_kept]
            self.spoken.is_done = False  # an earlier call's end token does not end the answer
            self.spoken.take(said, picks.logits[0], config.eos_id)
        return torch.tensor(called, dtype=torch.long)

    def rest(self, hidden: Tensor | None, n_tokens: int) -> Iterator[Tensor]:
        """Yields the last call's tokens in one piece: the published code makes one call of it."""
        yield self.push(hidden, last=True)

    def candidates(self, n: int) -> list[Candidates]:
        """Returns the n most likely tokens at each pick that the next `take_picks` will tell of."""
        return self.spoken.candidates(n)

    def take_picks(self) -> list[TokenStat]:
        """Returns the statistics since the last call of this method."""
        return self.spoken.take_picks()

    def _limit(self, last: bool) -> int:
        """Returns how many tokens a call may return."""
        stream, options = self.stream, self.stream.options
        chunk, K = stream.config.speech_chunk, 1 if stream.policy.is_adaptive else options.tokens_per_step
        if not last:
            return chunk
        n_left = max(0, stream.max_tokens - stream.n_tokens - (options.count == "released"))
        if options.count == "own":
            return n_left
        n_steps = -(-n_left // K)
        # The published code tells a last call from the others by its number of steps, so one of as many stops as early.
        return chunk if n_steps == -(-chunk // K) else n_steps * K
