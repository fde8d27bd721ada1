"""One decoding step in static shapes, for CUDA graphs (`vocalnet.graphs`): kernel "graphed".

A whole pass - embedding, decoder, modules, heads, picks - is one function of tensors that stay where they are: keys and
values of a fixed capacity, written at slots that a counter on the device tells; a bias over all of it, computed from
what the lanes know of their slots; noise drawn beforehand. The stream reads and writes the same lanes as it does
otherwise, so an ordinary step or new text may come between any two passes, and the answers are the same.

When a step is a static pass:
- `is_static` says which streams take them at all: those of a talker that has been prepared, under `fixed`, unless
  repetition-aware sampling or a penalty on the whole of a call looks at a history without end;
- `Stream.step` says for each step: the ordinary one takes over where other than `tokens_per_step` tokens are fed (after
  the start token, after a token taken back) or, in the published streaming, where a call has room for fewer, or draws
  could be left over by an end token. Text always runs the ordinary way.

All heads can: their `step` never looks at a value. Letters: B batch, K tokens per step, n rows of a pass, C capacity in
slots, W window of the penalty, V_s speech vocabulary, D width, d head width.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vocalnet.decoder.backbone import Rows, attention_bias
from vocalnet.decoder.cache import KVCache, Lane
from vocalnet.decoder.heads.contract import Step
from vocalnet.decoder.lanes import make_lanes, rows_by_depth
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.policies import Policy
from vocalnet.decoder.sampling import NEVER, Draws, gumbel, pick, weigh
from vocalnet.graphs import Captured

if TYPE_CHECKING:
    from vocalnet.decoder.talker import Talker

NO_TOKEN = -1  # in a history that is shorter than its window


@dataclass(frozen=True, slots=True)
class Kind:
    """What a pass is made for; streams of one kind can hand it on."""

    batch: int
    capacity: int
    options: DecodeOptions  # those that a pass depends on


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a stream gives a pass beside its lanes."""

    fed: Tensor  # (B, K) the tokens that enter
    history: Tensor  # (B, any number) the tokens that a penalty may look at
    n_missing: int  # tokens before an end token is allowed; negative: none
    rotations: tuple[Tensor, Tensor]  # of speech rows 0, 1, ..., (B or 1, 1, C or more, d) each
    draws: Draws


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass gives; it holds until the next one."""

    h: Tensor  # (B, n, D) the decoder's output
    inputs: Tensor  # (B, n, D) what entered it
    tokens: Tensor  # (B, K)
    logits: Tensor  # (B, K, V_s), raw


def is_static(talker: Talker, options: DecodeOptions, policy: Policy) -> bool:
    """Says whether a stream with these options takes static passes; see the module docstring."""
    penalty = options.penalty
    is_endless = penalty is not None and penalty.scope == "call" and penalty.window == 0
    is_plain = not (policy.is_adaptive or is_endless or options.repetition_aware)
    return talker.passes is not None and is_plain and not talker.training


def borrow(talker: Talker, options: DecodeOptions, batch: int, capacity: int, borrower: object) -> StaticPass:
    """Returns an empty pass of a capacity for `borrower`, after whose end, or `give_back`, others may have it."""
    assert talker.passes is not None
    own = DecodeOptions(
        tokens_per_step=options.tokens_per_step,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        penalty=options.penalty,
        min_tokens=min(1, options.min_tokens),  # how many is told at every step
    )
    kind = Kind(batch, capacity, own)
    static = talker.passes.take(kind, lambda: StaticPass(talker, kind))
    for lane in static.lanes:
        lane.reset()
    static.give_back = weakref.finalize(borrower, talker.passes.give, kind, static)
    static.give_back.atexit = False
    return static


class StaticPass:
    """The buffers of a pass, the lanes among them, and what is recorded of it. The talker is not kept."""

    give_back: weakref.finalize

    def __init__(self, talker: Talker, kind: Kind) -> None:
        config, head, options = talker.config, talker.head, kind.options
        B, K, C = kind.batch, options.tokens_per_step, kind.capacity
        table, device = talker.embedding.weight, talker.device
        V_s, n_firsts = config.vocab_size, B if config.behaviour == "released" else 1
        self.kind = kind
        self.n_rows = K // head.stride
        with torch.inference_mode(False):  # so that it can be written to in any mode
            n_depths = min(head.n_depths, K - 1)
            self.lanes = make_lanes(config, n_depths, B, C, like=table)
            self.fed = torch.zeros(B, K, dtype=torch.long, device=device)
            window = 0 if options.penalty is None else options.penalty.window
            self.recent = torch.full((B, window), NO_TOKEN, device=device)  # (B, W)
            self.uniform = torch.zeros(K, B, V_s if options.temperature > 0 else 0, device=device)
            self.cos = table.new_zeros(n_firsts, 1, C, config.dim // config.n_heads)
            self.sin = torch.zeros_like(self.cos)
            self.counters = torch.zeros(2 * len(self.lanes) + 1, dtype=torch.long, device=device)
            self._advance = torch.tensor([self.n_rows] * (2 * len(self.lanes)) + [-K], device=device)
            self._steps = torch.arange(self.n_rows, device=device)
            self._is_end = torch.arange(V_s, device=device) == config.eos_id
        self._counted = [0] * (2 * len(self.lanes) + 1)  # what is in `counters`
        self._rotations: tuple[Tensor, Tensor] | None = None  # what is in `cos` and `sin`
        self._captured = Captured(device)

    @torch.no_grad()
    def run(self, talker: Talker, inputs: Inputs) -> Passed:
        """Runs the next K tokens of all samples, and counts their rows."""
        self.fed.copy_(inputs.fed)
        self._remember(inputs.history)
        if self._rotations is not inputs.rotations:
            self._rotations = inputs.rotations
            for mine, theirs in zip((self.cos, self.sin), inputs.rotations, strict=True):
                mine.copy_(theirs[:, :, : mine.shape[2]])
        if self.kind.options.temperature > 0:
            inputs.draws.fill(self.uniform)
        self._count([n for lane in self.lanes for n in (lane.n_slots, lane.n_rows)] + [inputs.n_missing])
        outputs = self._captured(lambda: self._run(talker))
        self.counters.add_(self._advance)  # here, as recording runs the pass more than once
        self._counted = [n + self.n_rows for n in self._counted[:-1]] + [self._counted[-1] - self.fed.shape[1]]
        for lane in self.lanes:
            lane.advance(self.n_rows)
        return Passed(*outputs)

    def _run(self, talker: Talker) -> tuple[Tensor, ...]:
        """The pass: a function of this object's tensors alone, and of the weights."""
        counters = dict(zip(self.lanes, self.counters[:-1].view(-1, 2), strict=True))
        rows = rows_by_depth(talker.config, self.lanes, lambda lane: self._rows(lane, counters[lane]))
        inputs = talker.head.embed(talker.embedding, self.fed)  # (B, n, D)
        h = talker.decoder(inputs, rows(0))  # (B, n, D)
        step = Step(self.fed, inputs, rows, talker.embedding)
        tokens, logits = talker.head.step(h, step, self.fed.shape[1], StaticPicker(self))
        return h, inputs, tokens, logits

    def _rows(self, lane: Lane, counters: Tensor) -> Rows:
        """Returns the next n speech rows of a lane with `counters` (slots, rows)."""
        slots, rows = counters[0] + self._steps, counters[1] + self._steps  # (n,) each
        lane.opens.index_copy_(1, slots, rows.expand(self.kind.batch, -1))
        visible = lane.opens[:, None] <= rows[:, None]  # (B, n, C); later slots are hidden, or of later, forgotten rows
        bias = attention_bias(visible[:, None], self.cos.dtype)  # (B, 1, n, C)
        cos, sin = self.cos.index_select(2, rows), self.sin.index_select(2, rows)
        return Rows(cos, sin, bias, cache=StaticCache(lane.cache, slots))

    def _remember(self, history: Tensor) -> None:
        """Takes the last W tokens of a history (B, any number)."""
        window = self.recent.shape[1]
        n = min(history.shape[1], window)
        if n < window:
            self.recent.fill_(NO_TOKEN)
        if n:
            self.recent[:, -n:] = history[:, -n:]

    def _count(self, numbers: list[int]) -> None:
        """Sets the counters that are not there yet: after text, ordinary steps or what was forgotten."""
        for i, (counted, n) in enumerate(zip(self._counted, numbers, strict=True)):
            if counted != n:
                self.counters[i].fill_(n)
        self._counted = numbers


class StaticCache:
    """A cache written at slots that the device tells; all of its capacity is attended to, under the bias."""

    def __init__(self, cache: KVCache, slots: Tensor) -> None:
        self.cache = cache
        self.slots = slots  # (n,)

    def write(self, layer: int, slot: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v (B, H, n, d); returns all of the layer's, (B, H, C, d)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        return keys.index_copy_(2, self.slots, k), values.index_copy_(2, self.slots, v)


class StaticPicker:
    """The sample callback of a pass: `pickers.Picker` without a look at any value."""

    at_once = None  # recorded once: nothing is gained by a second way

    def __init__(self, static: StaticPass) -> None:
        self.static = static
        self.history = static.recent  # (B, W), then longer
        self.k = 0

    def wants(self, k: int) -> bool:
        """Says that every head is to run."""
        return True

    def __call__(self, k: int, logits: Tensor) -> Tensor:
        """Picks a token (B,) from the raw logits (B, V_s) of head k."""
        static, options = self.static, self.static.kind.options
        penalty = options.penalty
        if penalty is not None and (k == 0 or penalty.heads == "all"):
            logits = penalty.apply(logits, self.history)
        if options.min_tokens:
            logits = logits.masked_fill(static._is_end & (static.counters[-1] > k), NEVER)
        self.k = k
        tokens = pick(weigh(logits, self.history, options), options, self)
        self.history = torch.cat([self.history, tokens[:, None]], 1)
        return tokens

    def gumbel(self, like: Tensor) -> Tensor:
        """Returns head k's Gumbel noise (B, V_s)."""
        return gumbel(self.static.uniform[self.k])


def capacity_for(n_slots: int, first: int) -> int:
    """Returns the capacity, `first` doubled as often as need be, that holds so many slots."""
    while first < n_slots:
        first *= 2
    return first
