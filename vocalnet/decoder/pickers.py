"""What a step asks of its heads: which of them run, and what each picks.

Letters: B batch, K heads, V_s speech vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vocalnet.decoder.sampling import NEVER, pick, residual

if TYPE_CHECKING:
    from vocalnet.decoder.stream import Stream

MAX_BEHIND = 16  # rows: so few cost a module little more than one does


class Picker:
    """The sample callback of one step: penalty, minimum length, then the draw."""

    def __init__(self, stream: Stream, room: int | None, rejected: Tensor | None = None) -> None:
        """`rejected` (B, V_s): what a rejected token of the main head's place was picked by, if that matters."""
        self.stream = stream
        self.room = room
        self.rejected = rejected
        self.history = stream.sequence  # (B, n)
        self._is_end_near = stream.is_end_near
        is_free = room is None and not self._is_end_near
        is_plain = is_free and not stream.policy.is_adaptive and stream.options.penalty is None
        self._is_blind = is_plain and stream.options.temperature == 0  # no pick hangs on an earlier one
        self.scores: list[Tensor] = []  # (B, V_s) of each proposed token, unless all were picked at once
        self.n_proposed = 0
        self.n_kept = 0  # proposed tokens that need no later word
        self._is_open = True  # still proposing
        self.must_run_all = stream.behind is not None and stream.behind[0].shape[1] >= MAX_BEHIND  # for the caches

    def wants(self, k: int) -> bool:
        """Says whether head k is to run."""
        if k == 0 or self.stream.policy.is_adaptive:
            return self._is_open or self.must_run_all
        if self._is_end_near and k == 1 and int(self.history[0, -1]) == self.stream.config.eos_id:
            return False  # the answer is over
        return self.room is None or (k < self.room and int(self.history[0, -1]) != self.stream.config.eos_id)

    def __call__(self, k: int, logits: Tensor) -> Tensor:
        """Picks a token (B,) from the raw logits (B, V_s) of head k."""
        stream, options = self.stream, self.stream.options
        if not self._is_open:  # run for its cache only
            return logits.argmax(-1)
        scores = stream.scores(k, logits, self.history)
        if k == 0 and self.rejected is not None:
            scores = residual(scores, self.rejected, options, stream.config.eos_id)
        tokens = pick(scores, options, stream.draws)
        self.history = torch.cat([self.history, tokens[:, None]], 1)
        self.scores.append(scores)
        self.n_proposed += 1
        self._judge(k, tokens, logits)
        return tokens

    @property
    def at_once(self) -> Callable[[Tensor], Tensor] | None:
        """What picks all tokens of a plain greedy step, none of which hangs on another."""
        return self._pick_all if self._is_blind else None

    def _pick_all(self, logits: Tensor) -> Tensor:
        """Picks the tokens (B, K) of all heads from their raw logits (B, K, V_s): what K calls would have picked."""
        stream = self.stream
        n_missing = stream.options.min_tokens - stream.n_tokens
        if n_missing > 0:
            logits = logits.clone()
            logits[:, :n_missing, stream.config.eos_id] = NEVER
        self.n_proposed = self.n_kept = logits.shape[1]
        return logits.argmax(-1)

    def _judge(self, k: int, tokens: Tensor, logits: Tensor) -> None:
        """Decides whether the token of head k is kept and whether another is to follow."""
        policy = self.stream.policy
        is_kept = k == 0 or policy.accepts is None
        if policy.goes_on is not None:
            is_sure = policy.goes_on(logits, self.stream.options) and int(tokens) != self.stream.config.eos_id
            self._is_open = is_sure and (self.room is None or k + 1 < self.room)
            is_kept = k == 0 or is_sure
        self.n_kept += is_kept


class Retracer:
    """The sample callback of rows that are run for their caches: it says what has been said after them."""

    at_once = None

    def __init__(self, stream: Stream) -> None:
        self.said = stream.sequence[:, stream.n_fed :]  # (B, n)

    def wants(self, k: int) -> bool:
        """Says that every head is to run."""
        return True

    def __call__(self, k: int, logits: Tensor) -> Tensor:
        """Returns the token (B,) after the rows at head k's place, where there is one already."""
        return self.said[:, k] if k < self.said.shape[1] else logits.argmax(-1)
