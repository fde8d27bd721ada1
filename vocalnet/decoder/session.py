"""Decoding sessions: when to step, what a push returns, when to end. Offline generation is one push that is the last.

Letters: B batch, n new text positions, D LLM width, V_s speech vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.stream import Stream
from vocalnet.masks import n_text_needed

if TYPE_CHECKING:
    from vocalnet.decoder.talker import Talker


class TalkerSession(Protocol):
    """One answer being spoken while its text arrives."""

    def push(self, hidden: Tensor | None, last: bool = False) -> Tensor:
        """Takes new LLM states (1, n, D), or None for no new text; returns the new speech tokens (n_tokens,)."""


class Spoken:
    """What one sample has said: tokens without the end token, and the raw logits of every pick."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.heads: list[int] = []  # by pick
        self.logits: list[Tensor] = []  # by pick, (V_s,)
        self.is_done = False

    def take(self, tokens: list[int], logits: Tensor, eos_id: int, limit: int | None) -> None:
        """Appends one step's tokens and logits (K, V_s) until an end token or the limit."""
        for head, token in enumerate(tokens):
            if self.is_done:
                return
            self.heads.append(head)
            self.logits.append(logits[head])
            self.is_done = token == eos_id
            if not self.is_done:
                self.tokens.append(token)
                self.is_done = len(self.tokens) == limit


class BatchSession:
    """Decodes a batch whose texts arrive together; the streaming session of own talkers is the batch of one.

    A speech row runs as soon as the text that its mask shows has arrived, and under the full mask when the text is
    complete, so how the text is cut into pushes never changes a token.
    """

    def __init__(self, talker: Talker, options: DecodeOptions, batch: int = 1) -> None:
        self.stream = Stream(talker, options, batch)
        self.samples = [Spoken() for _ in range(batch)]
        self._waiting: list[Tensor] = []  # text under the full mask
        self._n_returned = 0

    @torch.inference_mode()
    def push(self, hidden: Tensor | None, last: bool = False) -> Tensor:
        """Takes new LLM states (1, n, D), or None; returns the new speech tokens, C_s for C_t texts until the end."""
        config, options = self.stream.config, self.stream.options
        if hidden is not None:
            self._waiting.append(hidden)
        if last or (options.mask == "streaming" and self._waiting):
            empty = self.stream.talker.embedding.weight.new_empty(1, 0, config.llm_dim)
            self.run(torch.cat([empty, *self._waiting], 1), None, last)
            self._waiting.clear()
        tokens = self.samples[0].tokens
        end = len(tokens) if last or self.samples[0].is_done else self._n_speakable()
        start, self._n_returned = self._n_returned, max(self._n_returned, min(end, len(tokens)))
        return torch.tensor(tokens[start : self._n_returned], dtype=torch.long)

    @torch.inference_mode()
    def run(self, hidden: Tensor, lengths: Tensor | None, last: bool) -> None:
        """Adds text (B, n, D) and decodes as far as it allows."""
        stream, limit = self.stream, self._limit()
        stream.add_text(hidden, lengths)
        while not self._is_finished() and (last or self._may_step()):
            tokens, logits = stream.step()
            for sample, row, row_logits in zip(self.samples, tokens.tolist(), logits, strict=True):  # the one host sync
                sample.take(row, row_logits, stream.config.eos_id, limit)

    def _limit(self) -> int | None:
        """Returns the count at which a sample is cut; the published count is checked between steps instead."""
        options, config = self.stream.options, self.stream.config
        most = config.max_positions - config.speech_offset
        if options.count == "released" and options.tokens_per_step > 1:
            return None
        return most if options.max_tokens is None else options.max_tokens

    def _is_finished(self) -> bool:
        stream = self.stream
        if all(sample.is_done for sample in self.samples):
            return True
        if stream.options.count == "own" or stream.options.tokens_per_step == 1:
            return False
        most = stream.options.max_tokens or stream.config.max_positions
        return stream.n_tokens + 1 >= most  # the start token counts

    def _may_step(self) -> bool:
        config = self.stream.config
        needed = n_text_needed(self.stream.n_tokens, config.mask_rule, config.text_chunk, config.speech_chunk)
        return needed <= int(self.stream.n_text[0])

    def _n_speakable(self) -> int:
        """Returns how many tokens rows with complete text account for; what a step proposed beyond is held back."""
        config = self.stream.config
        row = self._n_returned
        n_text = int(self.stream.n_text[0])
        while n_text_needed(row, config.mask_rule, config.text_chunk, config.speech_chunk) <= n_text:
            row += config.speech_chunk
        return row
