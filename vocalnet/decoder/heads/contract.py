"""The contract of a head: how tokens enter the decoder and how logits leave it.

A head is an `nn.Module` built from a `TalkerConfig`; a new one is a file here and a row in `HEADS`. Row r of the speech
part holds the input of `stride` tokens (row 0 the start token) and predicts the tokens after it.

Letters: B batch, T all columns, L_s speech rows, K heads (or slots of a group), n rows of a pass, V_s vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from vocalnet.decoder.backbone import Rows

IGNORE = -100  # label of a position that no loss counts


@dataclass(frozen=True, slots=True)
class Teacher:
    """A padded batch with its inputs known in advance."""

    inputs: Tensor  # (B, T, D) what entered the decoder: begin, text, start, speech
    n_text: int  # columns before the first speech row
    rows: tuple[Rows, ...]  # by depth: rotation and mask of the decoder (0) and of MTP module k

    def speech(self, x: Tensor) -> Tensor:
        """Returns the speech rows of x (B, T, D): (B, L_s, D)."""
        return x[:, self.n_text :]


@dataclass(frozen=True, slots=True)
class Text:
    """Text rows of cached decoding that the decoder has just run."""

    inputs: Tensor  # (B, n, D) what entered the decoder
    rows: Callable[[int], Rows]  # by depth: the same rows for MTP module k
    is_chained: bool  # each depth reads the one before, as in training; otherwise all read the decoder (published)


class Sampler(Protocol):
    """Picks the tokens of one step, head after head."""

    @property
    def at_once(self) -> Callable[[Tensor], Tensor] | None:
        """What picks (B, K) from the logits (B, K, V_s) of all heads; None where a pick may hang on an earlier one."""

    def wants(self, k: int) -> bool:
        """Says whether the token of head k is still wanted in this step."""

    def __call__(self, k: int, logits: Tensor) -> Tensor:
        """Picks from the logits (B, V_s) of head k; returns tokens (B,)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of cached decoding: the decoder has run n rows, text that is new before speech; the head's turn."""

    fed: Tensor  # (B, (n - n_text) * stride) the tokens that entered
    inputs: Tensor  # (B, n, D) what entered the decoder: text, if any, and the embeddings of `fed`
    rows: Callable[[int], Rows]  # by depth: the same rows for MTP module k
    embed: Callable[[Tensor], Tensor]  # tokens (B, m) -> embeddings (B, m, D) of the shared table
    n_text: int = 0  # the rows that are text; `prefill` is not called for them


class Head(Protocol):
    """What the talker asks of a head.

    `states` and `project` together are the teacher-forced forward; they are apart so that a loss can pick the labelled
    rows before the vocabulary projection, its dearest part.
    """

    n_heads: int  # K: logits per row, 1 + M for MTP heads, G for group heads
    n_depths: int  # layers of its own with a cache: M or 0
    stride: int  # speech tokens per row

    def embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        """Maps tokens (B, n * stride) to decoder inputs (B, n, D)."""

    def targets(self, tokens: Tensor, ends: Tensor, eos_id: int) -> Tensor:
        """Returns labels (K, B, L_s), `IGNORE` where there is none; tokens (B, S) padded, ends (B,) their counts."""

    def weights(self, decay: float) -> tuple[float, ...]:
        """Returns the weight of each head in the total loss (Eq. 7)."""

    def states(self, h: Tensor, teacher: Teacher) -> list[Tensor]:
        """Maps the decoder's output h (B, T, D) to each head's state on the speech rows, K times (B, L_s, D)."""

    def project(self, k: int, state: Tensor) -> Tensor:
        """Maps states (..., D) of head k to logits (..., V_s)."""

    def prefill(self, h: Tensor, text: Text, n_heads: int) -> None:
        """Fills the text caches of the depths that `n_heads` use from the decoder's output h (B, n, D).

        For text that runs on its own; otherwise its rows are the first of a step's.
        """

    def step(self, h: Tensor, step: Step, n_heads: int, sample: Sampler) -> tuple[Tensor, Tensor]:
        """Proposes up to `n_heads` tokens after the last row of h (B, n, D): tokens (B, K), logits (B, K, V_s).

        All rows pass through layers with a cache, those of text included.
        """
