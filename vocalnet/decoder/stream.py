"""The decoding state of a batch and its single step; sessions decide when to step and what to return.

Behaviours (TalkerConfig.behaviour). `own`: inference follows the training rule to the letter - text is bidirectional
under the full mask and causal under the streaming one, modules are chained over text, speech positions start at a fixed
offset - so cached logits equal teacher-forced ones. `released`: as the published code - text always causal, module
caches of text filled from the decoder's output, speech rotated by the length of its own cache at insertion.

Letters: B batch, n positions or rows of a pass, K tokens per step, D LLM width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vocalnet.decoder.backbone import Rows, attention_bias
from vocalnet.decoder.cache import HIDDEN, KVCache, Lane
from vocalnet.decoder.heads.contract import Step, Text
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.policies import Proposal, find_policy
from vocalnet.decoder.sampling import NEVER, Draws, pick
from vocalnet.masks import first_speech_row

if TYPE_CHECKING:
    from vocalnet.decoder.talker import Talker

FIRST_CAPACITY = 256  # slots; caches double when full


class Stream:
    """All state of one batch of decodings; the talker itself keeps nothing."""

    def __init__(self, talker: Talker, options: DecodeOptions, batch: int = 1) -> None:
        config, head = talker.config, talker.head
        if not head.stride <= options.tokens_per_step <= head.n_heads:
            allowed = f"{head.stride} to {head.n_heads}" if head.stride < head.n_heads else str(head.n_heads)
            raise ValueError(
                f"tokens_per_step is {options.tokens_per_step}; this talker ({config.head}) takes {allowed}"
            )
        self.talker = talker
        self.options = options
        self.config = config
        self.policy = find_policy(options.policy)
        self.is_released = config.behaviour == "released"
        self.draws = Draws(batch, options.seed, talker.device)
        self.sequence = torch.full((batch, head.stride), config.sos_id, device=talker.device)  # (B, tokens so far)
        self.n_fed = 0  # tokens of the sequence that went through the decoder (own behaviour)
        self.n_text = torch.zeros(batch, dtype=torch.long, device=talker.device)  # text positions, begin included
        self.call_start = head.stride  # where the current call's tokens start in the sequence

        n_depths = min(head.n_depths, options.tokens_per_step - 1)
        layers = [config.n_layers] + [1] * n_depths if self.is_released else [config.n_layers + n_depths]
        self.lanes = [self._lane(batch, n) for n in layers]
        self.projector_lane = self._lane(batch, config.n_projector_layers)

    @property
    def embedding(self) -> Tensor:
        """The table of speech embeddings (V_s, D_s); its dtype and device are those of all state."""
        return self.talker.embedding.weight

    @property
    def n_tokens(self) -> int:
        """Tokens after the start token so far."""
        return self.sequence.shape[1] - self.talker.head.stride

    @property
    def max_tokens(self) -> int:
        """The most tokens to return: the options' number, or as many as there are positions for."""
        return self.options.max_tokens or self.config.max_positions - self.config.speech_offset

    def add_text(self, hidden: Tensor, lengths: Tensor | None = None) -> None:
        """Runs new text, hidden (B, n, D); the first call puts the begin token before it.

        `lengths` (B,) counts the real positions; only the first call of a batch may be padded.
        """
        B, n, _ = hidden.shape
        x = self._project(hidden.to(self.embedding)) if n else self.embedding.new_empty(B, 0, self.config.dim)
        if not self.lanes[0].n_slots:
            begin = self.embedding[self.config.bos_id].expand(B, 1, -1)
            x = torch.cat([begin, x], 1)  # (B, 1 + n, D_s)
            lengths = None if lengths is None else lengths + 1
        n = x.shape[1]
        if n == 0:
            return
        order = self.n_text[:, None] + torch.arange(n, device=x.device)  # (B, n)
        if lengths is not None:
            order = order.where(order < lengths[:, None], HIDDEN)
        self.n_text = self.n_text + (n if lengths is None else lengths)
        rows = self._rows(lambda lane: self._text_rows(lane, order))
        h = self.talker.decoder(x, rows(0))  # (B, n, D_s)
        text = Text(x, rows, is_chained=not self.is_released)
        self.talker.head.prefill(h, text, self.options.tokens_per_step)

    def step(self, stop_after: int | None = None) -> tuple[Tensor, Tensor]:
        """Feeds the newest tokens and proposes the next: tokens (B, K), raw logits (B, K, V_s).

        `stop_after`: at most so many tokens, and none after an end token; the modules beyond are not run.
        """
        talker, K = self.talker, self.options.tokens_per_step
        fed = self.sequence[:, -K:] if self.is_released else self.sequence[:, self.n_fed :]
        self.n_fed = self.sequence.shape[1]
        inputs = talker.head.embed(talker.embedding, fed)  # (B, n, D_s)
        rows = self._rows(lambda lane: self._speech_rows(lane, inputs.shape[1]))
        h = talker.decoder(inputs, rows(0))  # (B, n, D_s)
        picker = Picker(self, stop_after)
        context = Step(fed, inputs, rows, talker.embedding)
        tokens, logits = talker.head.step(h, context, K, picker)
        kept = self.policy(Proposal(tokens, logits), self.options)
        self.sequence = torch.cat([self.sequence, tokens[:, :kept]], 1)
        return tokens[:, :kept], logits[:, :kept]

    def _project(self, hidden: Tensor) -> Tensor:
        lane = self.projector_lane
        order = torch.arange(lane.n_slots, lane.n_slots + hidden.shape[1], device=hidden.device)
        order = order.expand(len(hidden), -1)
        start, mask = lane.add_text(order, order, is_causal=True)
        return self.talker.projector(hidden, self._rows_at(lane, start, mask, order))

    def _lane(self, batch: int, n_layers: int) -> Lane:
        config = self.config
        shape = (n_layers, batch, config.n_heads, config.dim // config.n_heads)
        return Lane(KVCache(shape, FIRST_CAPACITY, like=self.embedding), batch)

    def _rows(self, make: Callable[[Lane], Rows]) -> Callable[[int], Rows]:
        """Returns rows by depth; depths that share a lane share its rows."""
        made: dict[int, Rows] = {}

        def rows(depth: int) -> Rows:
            lane = depth if self.is_released else 0
            if lane not in made:
                made[lane] = make(self.lanes[lane])
            is_shared = depth > 0 and not self.is_released
            return replace(made[lane], first_layer=self.config.n_layers + depth - 1) if is_shared else made[lane]

        return rows

    def _text_rows(self, lane: Lane, order: Tensor) -> Rows:
        config = self.config
        is_streaming = self.options.mask == "streaming"
        if is_streaming and not self.is_released:
            opens = first_speech_row(order, config.mask_rule, config.text_chunk, config.speech_chunk)
            opens = (opens + self.talker.head.stride - 1) // self.talker.head.stride
        else:
            opens = torch.zeros_like(order)
        is_padding = order == HIDDEN
        start, mask = lane.add_text(order, opens.masked_fill(is_padding, HIDDEN), is_streaming or self.is_released)
        return self._rows_at(lane, start, mask, order.masked_fill(is_padding, 0))

    def _speech_rows(self, lane: Lane, n: int) -> Rows:
        start, mask, rows = lane.add_speech(n)
        first = self.n_text[:, None] if self.is_released else self.config.speech_offset
        return self._rows_at(lane, start, mask, (first + rows).view(-1, n))

    def _rows_at(self, lane: Lane, start: int, visible: Tensor, positions: Tensor) -> Rows:
        cos, sin = self.talker.rotation(positions)
        bias = attention_bias(visible, self.embedding.dtype)
        return Rows(cos, sin, bias, cache=lane.cache, first_slot=start)


class Picker:
    """The sample callback of one step: penalty, minimum length, then the draw."""

    def __init__(self, stream: Stream, stop_after: int | None) -> None:
        self.stream = stream
        self.stop_after = stop_after
        self.history = stream.sequence  # (B, n)

    def wants(self, k: int) -> bool:
        """Says whether head k is to run: always, unless the call stops inside this step."""
        if self.stop_after is None or k == 0:
            return True
        return k < self.stop_after and int(self.history[0, -1]) != self.stream.config.eos_id

    def __call__(self, k: int, logits: Tensor) -> Tensor:
        """Picks a token (B,) from the raw logits (B, V_s) of head k."""
        stream, options = self.stream, self.stream.options
        penalty = options.penalty
        if penalty is not None and (k == 0 or penalty.heads == "all"):
            start = stream.call_start if penalty.scope == "call" else 0
            logits = penalty.apply(logits, self.history[:, start:])
        if stream.n_tokens + k < options.min_tokens:
            logits = logits.clone()
            logits[:, stream.config.eos_id] = NEVER
        tokens = pick(logits, options, stream.draws)
        self.history = torch.cat([self.history, tokens[:, None]], 1)
        return tokens
