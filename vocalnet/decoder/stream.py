"""The decoding state of a batch and its single step; sessions decide when to step and what to return.

Behaviours (TalkerConfig.behaviour). `own`: inference follows the training rule to the letter - text is bidirectional
under the full mask and causal under the streaming one, modules are chained over text, speech positions start at a fixed
offset - so cached logits equal teacher-forced ones. `released`: as the published code - text always causal, module
caches of text filled from the decoder's output, speech rotated by the length of its own cache at insertion.

Adaptive policies. What verification rejects is rewound before the modules run, so caches hold kept tokens only. Where
`confidence` stops before the last module, the modules that did not run are behind: their rows run together with those
of a later step, at the latest when text arrives or `MAX_BEHIND` rows wait; in a step with text all modules run, for the
text alone. Either way cached logits stay those of teacher forcing. The exception are modules that are fed tokens
(mtp_deepseek): what they made of one that was rejected, or not known yet when text arrived, stays; it costs good
proposals.

Letters: B batch, n positions or rows of a pass, K tokens per step, m proposed tokens to verify, D LLM width.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vocalnet.decoder.backbone import Rows, attention_bias
from vocalnet.decoder.cache import HIDDEN, Lane
from vocalnet.decoder.heads.contract import Step, Text
from vocalnet.decoder.lanes import make_lane, make_lanes, rows_by_depth
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.pickers import Picker, Retracer
from vocalnet.decoder.policies import Check, count_accepted, policy_for
from vocalnet.decoder.sampling import NEVER, Draws, weigh
from vocalnet.decoder.static import Inputs, StaticPass, borrow, capacity_for, is_static
from vocalnet.masks import first_speech_row

if TYPE_CHECKING:
    from vocalnet.decoder.talker import Talker

RELEASED_MAX_TOKENS = 2048  # where nobody says how many, the start token included
FIRST_CAPACITY = 256  # slots; caches double when full


@dataclass(frozen=True, slots=True)
class Picks:
    """Tokens whose fate a step has decided, in the order of their places."""

    tokens: Tensor  # (B, n)
    logits: Tensor  # (B, n, V_s), raw
    heads: list[int]
    is_kept: list[bool]

    def said(self) -> list[list[tuple[int, int, bool]]]:
        """Returns (token, head, kept) of each pick, by sample: the host synchronisation of a step."""
        return [list(zip(row, self.heads, self.is_kept, strict=True)) for row in self.tokens.tolist()]

    def then(self, later: Picks) -> Picks:
        """Returns these picks and the later ones."""
        tokens, logits = torch.cat([self.tokens, later.tokens], 1), torch.cat([self.logits, later.logits], 1)
        return Picks(tokens, logits, self.heads + later.heads, self.is_kept + later.is_kept)


@dataclass(frozen=True, slots=True)
class Proposed:
    """Tokens of modules 1 .. m that wait for the main head's word."""

    tokens: Tensor  # (1, m)
    logits: Tensor  # (1, m, V_s), raw
    scores: Tensor  # (1, m, V_s) log-weights that they were picked by

    def judged(self, n_kept: int) -> Picks:
        """Returns them as picks, the first `n_kept` kept."""
        m = self.tokens.shape[1]
        return Picks(self.tokens, self.logits, list(range(1, m + 1)), [i < n_kept for i in range(m)])


class Stream:
    """All state of one batch of decodings; the talker itself keeps nothing."""

    def __init__(self, talker: Talker, options: DecodeOptions, batch: int = 1) -> None:
        config, head = options.chunked(talker.config), talker.head
        if not head.stride <= options.tokens_per_step <= head.n_heads:
            allowed = f"{head.stride} to {head.n_heads}" if head.stride < head.n_heads else str(head.n_heads)
            raise ValueError(
                f"tokens_per_step is {options.tokens_per_step}; this talker ({config.head}) takes {allowed}"
            )
        self.talker = talker
        self.options = options
        self.config = config
        self.policy = policy_for(head, options)
        assert batch == 1 or not self.policy.is_adaptive, "samples of a batch step together"
        self.is_released = config.behaviour == "released"
        # whether a session has to take back a module's end token; adaptive policies keep none in the first place
        self.is_guarded = not (self.is_released or self.policy.is_adaptive or head.stride > 1)
        self.draws = Draws(batch, options.seed, talker.device)
        self.sequence = torch.full((batch, head.stride), config.sos_id, device=talker.device)  # (B, tokens so far)
        self.n_fed = 0  # tokens of the sequence that went through the decoder
        self.proposed: Proposed | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []  # text for the next pass: inputs (B, n, D_s), order (B, n)
        self.behind: tuple[Tensor, Tensor, Tensor] | None = None  # states, tokens, inputs of rows some module lacks
        self.is_end_near = False  # a module has said the end, and the main head is to decide in the next step
        self._newest: tuple[Tensor, Tensor, Tensor] | None = None  # those of the last step
        self._borders = self._chunk_borders()
        self._rotations: tuple[Tensor, Tensor] | None = None  # of speech rows 0, 1, ...
        self._biases: dict[int, Tensor] = {}  # of n rows that see everything but each other's later ones, (1, 1, n, C)
        self.n_text = torch.zeros(batch, dtype=torch.long, device=talker.device)  # text positions, begin included
        self.call_start = head.stride  # where the current call's tokens start in the sequence

        self.n_depths = min(head.n_depths, options.tokens_per_step - 1)
        self.static: StaticPass | None = None  # has lanes of its own
        if is_static(talker, options, self.policy):
            self.static = borrow(talker, options, batch, FIRST_CAPACITY, self)
            self.lanes = self.static.lanes
        else:
            self.lanes = make_lanes(config, self.n_depths, batch, FIRST_CAPACITY, like=self.embedding)
        self.projector_lane = make_lane(config, config.n_projector_layers, batch, FIRST_CAPACITY, like=self.embedding)

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
        """The most tokens to return: the options' number, or as many as there are positions for, or are published."""
        if self.options.count == "released":
            return self.options.max_tokens or RELEASED_MAX_TOKENS
        return self.options.max_tokens or max(1, self.config.max_positions - self.config.speech_offset)

    @property
    def _history_start(self) -> int:
        """Where the tokens that a penalty looks at start in the sequence."""
        penalty = self.options.penalty
        return self.call_start if penalty is not None and penalty.scope == "call" else 0

    def add_text(self, hidden: Tensor, lengths: Tensor | None = None) -> None:
        """Takes new text, hidden (B, n, D); the first call puts the begin token before it.

        It waits for the next step and runs in one pass with its rows, unless that step is static or verifies; released
        behaviour, whose modules do not chain over text, runs it at once. `lengths` (B,) counts the real positions; only
        the first call of a batch may be padded.
        """
        B, n, _ = hidden.shape
        x = self._project(hidden.to(self.embedding)) if n else self.embedding.new_empty(B, 0, self.config.dim)
        if not self.lanes[0].n_slots and not self._waiting:
            begin = self.embedding[self.config.bos_id].expand(B, 1, -1)
            x = torch.cat([begin, x], 1)  # (B, 1 + n, D_s)
            lengths = None if lengths is None else lengths + 1
        n = x.shape[1]
        if n == 0:
            return
        self._catch_up()  # while the rows that are behind are still the newest
        order = self.n_text[:, None] + torch.arange(n, device=x.device)  # (B, n)
        if lengths is not None:
            order = order.where(order < lengths[:, None], HIDDEN)
        self.n_text = self.n_text + (n if lengths is None else lengths)
        self._waiting.append((x, order))
        if self.is_released:
            self._rotations = None  # speech positions follow the text's
            self.run_text()

    def run_text(self) -> None:
        """Runs the text that waits for a step, if any, on its own."""
        if not self._waiting:
            return
        x, order = self._take_text()
        self._make_room(x.shape[1])
        rows = rows_by_depth(self.config, self.lanes, lambda lane: self._text_rows(lane, order))
        h = self.talker.decoder(x, rows(0))  # (B, n, D_s)
        text = Text(x, rows, is_chained=not self.is_released)
        self.talker.head.prefill(h, text, self.options.tokens_per_step)

    def step(self, room: int | None = None) -> Picks:
        """Feeds text that waits and the newest tokens, verifies what was proposed after them, and proposes the next.

        `room`: at most so many tokens are kept, and none after an end token; under `fixed`, and under `confidence` but
        for rows that wait, the modules beyond are not run.
        """
        n_to_feed = self.sequence.shape[1] - self.n_fed
        n_waiting = sum(order.shape[1] for _, order in self._waiting)
        self._make_room(n_waiting + n_to_feed // self.talker.head.stride)
        K, is_greedy = self.options.tokens_per_step, self.options.temperature == 0
        is_whole = (room is None or (room >= K and is_greedy)) and not self.is_end_near
        if self.static is not None and n_to_feed == K and is_whole:
            self.run_text()
            return self._step_static(self.static, ends_at_end=room is not None)
        proposed, self.proposed = self.proposed, None
        if proposed is not None or room is not None:
            self.run_text()  # rows that may be rewound, or not reach all modules, are of speech alone
        if proposed is None:
            return self._propose(*self._feed(self.sequence[:, self.n_fed :]), Picker(self, room))
        m = self._n_verifiable(proposed.tokens.shape[1], room)
        h, step = self._feed(torch.cat([self.sequence[:, self.n_fed :], proposed.tokens[:, :m]], 1))
        n_kept = self._n_accepted(h, proposed, m)
        self.sequence = torch.cat([self.sequence, proposed.tokens[:, :n_kept]], 1)
        if n_kept < m:
            n = h.shape[1] - (m - n_kept)
            self.lanes[0].rewind(self.lanes[0].n_rows - (m - n_kept))
            # A module that is fed tokens keeps what it made of rejected ones: worse proposals, never worse speech.
            h, step = self._last_rows(h[:, :n], step.fed[:, :n], step.inputs[:, :n])
        rejected = proposed.scores[:, n_kept] if n_kept < m and self.policy.resamples else None
        return proposed.judged(n_kept).then(self._propose(h, step, Picker(self, room, rejected)))

    def take_back(self, n: int) -> None:
        """Forgets the newest n tokens, a module's end and what follows it, none of them fed yet.

        In the next step the main head decides first, and no module runs after its end. A module that was fed the tokens
        runs its rows again. Where text arrives in between, it has to before it knows what comes in their place: its
        proposals may be worse.
        """
        assert self._newest is not None
        self.sequence = self.sequence[:, : self.sequence.shape[1] - n]
        self.is_end_near = True
        h, fed, inputs = (part.clone() for part in self._newest)  # a pass may be handed on before they are run
        self.behind = h, fed, inputs

    def scores(self, k: int, logits: Tensor, history: Tensor) -> Tensor:
        """Returns the log-weights (B, V_s) by which head k picks from raw logits (B, V_s) after `history` (B, n)."""
        penalty = self.options.penalty
        if penalty is not None and (k == 0 or penalty.heads == "all"):
            logits = penalty.apply(logits, history[:, self._history_start :])
        if history.shape[1] - self.talker.head.stride < self.options.min_tokens:
            logits = logits.clone()
            logits[:, self.config.eos_id] = NEVER
        return weigh(logits, history, self.options)

    def _step_static(self, static: StaticPass, ends_at_end: bool) -> Picks:
        """Does what `step` does in one static pass; `ends_at_end`: modules after an end token count as not run."""
        assert self.behind is None, "where rows wait, some token was taken back"
        fed, history = self.sequence[:, self.n_fed :], self.sequence[:, self._history_start :]
        n_missing = self.options.min_tokens - self.n_tokens
        inputs = Inputs(fed, history, n_missing, self._rotation_table(static.kind.capacity), self.draws)
        passed = static.run(self.talker, inputs)
        n = passed.tokens.shape[1]
        if ends_at_end:
            (said,) = passed.tokens.tolist()
            n = said.index(self.config.eos_id) + 1 if self.config.eos_id in said else n
            for lane in self.lanes[n:]:
                lane.rewind(lane.n_rows - static.n_rows)
        tokens, logits = passed.tokens[:, :n].clone(), passed.logits[:, :n].clone()
        self._newest = passed.h, static.fed, passed.inputs
        self.n_fed = self.sequence.shape[1]
        self.sequence = torch.cat([self.sequence, tokens], 1)
        return Picks(tokens, logits, list(range(n)), [True] * n)

    def _make_room(self, n: int) -> None:
        """Makes sure of n more slots in a static pass: a larger one takes over when they are not there."""
        if self.static is None:
            return
        n_slots = n + max(lane.n_slots for lane in self.lanes)
        if n_slots > self.static.kind.capacity:
            capacity = capacity_for(n_slots, FIRST_CAPACITY)
            larger = borrow(self.talker, self.options, len(self.sequence), capacity, self)
            for mine, theirs in zip(larger.lanes, self.lanes, strict=True):
                mine.take_over(theirs)
            self.static.give_back()
            self.static, self.lanes = larger, larger.lanes

    def _feed(self, fed: Tensor) -> tuple[Tensor, Step]:
        """Runs the decoder over text that waits and tokens fed (B, (n - n_text) * stride).

        Returns its output (B, n, D_s) and the head's context.
        """
        talker = self.talker
        inputs = talker.head.embed(talker.embedding, fed)  # (B, n_speech, D_s)
        n_speech = inputs.shape[1]
        if not self._waiting:
            rows = rows_by_depth(self.config, self.lanes, lambda lane: self._new_speech_rows(lane, n_speech))
            return talker.decoder(inputs, rows(0)), Step(fed, inputs, rows, talker.embedding)
        text, order = self._take_text()
        inputs = torch.cat([text, inputs], 1)  # (B, n, D_s)
        rows = rows_by_depth(self.config, self.lanes, lambda lane: self._text_and_speech_rows(lane, order, n_speech))
        return talker.decoder(inputs, rows(0)), Step(fed, inputs, rows, talker.embedding, text.shape[1])

    def _take_text(self) -> tuple[Tensor, Tensor]:
        """Returns the text that waits, which it then does no longer: inputs (B, n, D_s) and order (B, n)."""
        x, order = (torch.cat(parts, 1) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        return x, order

    def _propose(self, h: Tensor, step: Step, picker: Picker) -> Picks:
        """Runs the head on the newest rows h (B, n, D_s) and takes the tokens that are kept at once."""
        self.n_fed = self.sequence.shape[1]
        if self.behind is not None:
            assert step.n_text == 0, "rows that are behind catch up before text"
            pairs = zip(self.behind, (h, step.fed, step.inputs), strict=True)
            h, step = self._last_rows(*(torch.cat(pair, 1) for pair in pairs))
        picker.must_run_all |= step.n_text > 0 and self.n_depths > 0
        self.is_end_near = False
        tokens, logits = self.talker.head.step(h, step, self.options.tokens_per_step, picker)
        n_run = picker.n_proposed if step.n_text else tokens.shape[1]  # a module that ran for the text alone is behind
        is_behind = self.policy.is_adaptive and n_run <= self.n_depths
        self._newest = (h[:, step.n_text :], step.fed, step.inputs[:, step.n_text :])
        self.behind = self._newest if is_behind else None
        n, n_kept = picker.n_proposed, picker.n_kept
        self.sequence = torch.cat([self.sequence, tokens[:, :n_kept]], 1)
        if self.policy.accepts is not None and n > 1:
            self.proposed = Proposed(tokens[:, 1:], logits[:, 1:], torch.stack(picker.scores[1:], 1))
            n = 1
        return Picks(tokens[:, :n], logits[:, :n], list(range(n)), [k < n_kept for k in range(n)])

    def _n_accepted(self, h: Tensor, proposed: Proposed, m: int) -> int:
        """Returns how many of the first m proposed tokens, the last m rows of h (1, n, D_s), are kept."""
        if m == 0:
            return 0
        logits = self.talker.head.project(0, h[:, -m - 1 : -1])  # (1, m, V_s): a row speaks of the place after it
        history, n = torch.cat([self.sequence, proposed.tokens], 1), self.sequence.shape[1]
        scores = torch.cat([self.scores(0, logits[:, i], history[:, : n + i]) for i in range(m)])  # (m, V_s)
        coins = self.draws.uniform(m)[0]
        check = Check(proposed.tokens[0, :m], proposed.scores[0, :m], scores, coins, self.config.eos_id)
        return count_accepted(self.policy, check, self.options)

    def _n_verifiable(self, m: int, room: int | None) -> int:
        """Returns how many of m proposed tokens can be fed: not past the room, nor past a chunk whose text is to come.

        Chunks bound a pass whether or not later text has come, so that how it is pushed never changes a token.
        """
        if room is not None:
            m = min(m, room - 1)
        n_passed = bisect_right(self._borders, self.n_tokens)
        return m if n_passed == len(self._borders) else min(m, self._borders[n_passed] - 1 - self.n_tokens)

    def _chunk_borders(self) -> list[int]:
        """Returns the speech rows that open a chunk, where verification has to mind them."""
        config = self.config
        if self.policy.accepts is None or self.is_released or self.options.mask == "full":
            return []
        text = torch.arange(config.max_positions)
        return first_speech_row(text, config.mask_rule, config.text_chunk, config.speech_chunk).unique().tolist()

    def _last_rows(self, h: Tensor, fed: Tensor, inputs: Tensor) -> tuple[Tensor, Step]:
        """Returns the newest rows h (B, n, D_s) and their context, to be run by all modules anew."""
        n = h.shape[1]
        first = self.lanes[0].n_rows - n

        def make(lane: Lane) -> Rows:
            if lane is self.lanes[0]:
                return self._speech_rows(lane, n)
            lane.rewind(first)
            return self._new_speech_rows(lane, n)

        return h, Step(fed, inputs, rows_by_depth(self.config, self.lanes, make), self.talker.embedding)

    def _catch_up(self) -> None:
        """Runs the modules over the rows that are behind."""
        if self.behind is not None:
            h, step = self._last_rows(*self.behind)
            self.talker.head.step(h, step, self.options.tokens_per_step, Retracer(self))
            self.behind = None

    def _project(self, hidden: Tensor) -> Tensor:
        lane = self.projector_lane
        order = torch.arange(lane.n_slots, lane.n_slots + hidden.shape[1], device=hidden.device)
        order = order.expand(len(hidden), -1)
        start, mask = lane.add_text(order, order, is_causal=True)
        return self.talker.projector(hidden, self._text_rows_at(lane, start, mask, order))

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
        return self._text_rows_at(lane, start, mask, order.masked_fill(is_padding, 0))

    def _text_and_speech_rows(self, lane: Lane, order: Tensor, n_speech: int) -> Rows:
        """Returns rows of text, its order (B, n_text), and speech rows after it, for one pass over all n of them."""
        text, speech = self._text_rows(lane, order), self._new_speech_rows(lane, n_speech)
        assert text.bias is not None
        B, n_text = order.shape
        bias = text.cos.new_zeros(B, 1, n_text + n_speech, lane.n_slots)
        bias[:, :, :n_text] = F.pad(text.bias, (0, n_speech), value=NEVER)
        if speech.bias is not None:
            bias[:, :, n_text:] = speech.bias
        pairs = (text.cos, speech.cos), (text.sin, speech.sin)
        cos, sin = (torch.cat([ours, theirs.expand(B, -1, -1, -1)], 2) for ours, theirs in pairs)  # (B, 1, n, d)
        return Rows(cos, sin, bias, cache=lane.cache, first_slot=text.first_slot)

    def _text_rows_at(self, lane: Lane, start: int, visible: Tensor, positions: Tensor) -> Rows:
        cos, sin = self.talker.rotation(positions)
        bias = attention_bias(visible, self.embedding.dtype)
        return Rows(cos, sin, bias, cache=lane.cache, first_slot=start)

    def _new_speech_rows(self, lane: Lane, n: int) -> Rows:
        lane.add_speech(n)
        return self._speech_rows(lane, n)

    def _speech_rows(self, lane: Lane, n: int) -> Rows:
        """Returns the newest n speech rows of a lane: every step needs them, so little is computed anew."""
        cos, sin = self._speech_rotation(lane.n_rows, n)
        return Rows(cos, sin, self._speech_bias(lane, n), cache=lane.cache, first_slot=lane.n_slots - n)

    def _speech_rotation(self, end: int, n: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of the n speech rows before row `end`, (B or 1, 1, n, d), from a growing table."""
        cos, sin = self._rotation_table(end)
        return cos.narrow(2, end - n, n), sin.narrow(2, end - n, n)

    def _rotation_table(self, n: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of the first n speech rows at least, (B or 1, 1, n or more, d)."""
        if self._rotations is None or self._rotations[0].shape[2] < n:
            rows = torch.arange(max(FIRST_CAPACITY, 2 * n), device=self.embedding.device)
            first = self.n_text[:, None] if self.is_released else self.config.speech_offset
            self._rotations = self.talker.rotation((first + rows).view(-1, len(rows)))
        return self._rotations

    def _speech_bias(self, lane: Lane, n: int) -> Tensor | None:
        """Returns the attention bias of the newest n speech rows, None if they see everything."""
        visible = lane.visible_to_speech(n)
        if visible is not None:
            return attention_bias(visible, self.embedding.dtype)
        if n == 1:
            return None
        bias = self._biases.get(n)
        if bias is None or bias.shape[-1] < lane.n_slots:
            bias = self.embedding.new_zeros(1, 1, n, lane.cache.capacity)
            bias[..., -n:] = torch.full((n, n), NEVER, device=bias.device).triu(1)
            self._biases[n] = bias
        return bias.narrow(-1, bias.shape[-1] - lane.n_slots, lane.n_slots)
