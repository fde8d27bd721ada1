"""The flow's estimator in static shapes, for CUDA graphs (`vocalnet.graphs`): kernel "graphed".

The Euler steps of one mel call the estimator with the same shapes again and again, and each call launches about a
thousand small kernels. Frames are padded to a multiple of `BUCKET`, so that few passes serve answers of all lengths:
all but attention is causal, and attention has a mask for padding. A stream with a cache (style "exact") grows with
every call; it runs the ordinary way.

Letters: B rows (condition, no condition), N frames, N_p frames with padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vocalnet.graphs import Captured

if TYPE_CHECKING:
    from vocalnet.vocoder.flow import Flow

BUCKET = 128  # frames, 2.6 s

Velocity = Callable[[int, Tensor, Tensor], Tensor]  # Euler step, x (B, n_mels, N), times (B,) -> (B, n_mels, N)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a pass is made for; utterances of one kind can hand it on."""

    n_rows: int
    n_frames: int  # N_p
    chunk: int | None


@contextmanager
def static_velocity(flow: Flow, mu: Tensor, spk: Tensor, cond: Tensor, chunk: int | None) -> Iterator[Velocity]:
    """Gives `Flow.velocity` of one utterance, mu and cond (B, n_mels, N), spk (B, n_mels); from a prepared flow."""
    assert flow.passes is not None
    B, _, N = mu.shape
    kind = Kind(B, -(-N // BUCKET) * BUCKET, chunk)
    static = flow.passes.take(kind, lambda: StaticEstimate(flow, kind))
    static.begin(mu, spk, cond)
    yield lambda step, x, t: static.velocity(flow, x, t)
    flow.passes.give(kind, static)  # not after an error: who knows what is in it


class StaticEstimate:
    """The buffers of an estimator's call, and what is recorded of it. The flow is not kept."""

    def __init__(self, flow: Flow, kind: Kind) -> None:
        n_mels, like = flow.config.n_mels, flow.encoder_proj.weight
        B, N_p = kind.n_rows, kind.n_frames
        self.kind = kind
        with torch.inference_mode(False):  # so that they can be written to in any mode
            self.x, self.mu, self.cond = (like.new_zeros(B, n_mels, N_p) for _ in range(3))
            self.spk, self.t = like.new_zeros(B, n_mels), like.new_zeros(B)
            self.lengths = torch.zeros(B, dtype=torch.long, device=like.device)
        self.n_frames = 0  # N
        self._captured = Captured(like.device)

    def begin(self, mu: Tensor, spk: Tensor, cond: Tensor) -> None:
        """Takes an utterance, mu and cond (B, n_mels, N), spk (B, n_mels)."""
        N = self.n_frames = mu.shape[2]
        for buffer in (self.x, self.mu, self.cond):
            buffer[..., N:].zero_()  # padding is masked, which does not help against what is not finite
        self.mu[..., :N], self.spk[:], self.cond[..., :N] = mu, spk, cond
        self.lengths.fill_(N)

    def velocity(self, flow: Flow, x: Tensor, t: Tensor) -> Tensor:
        """Returns the velocity at x (B, n_mels, N) and times t (B,), (B, n_mels, N); it holds until the next call."""
        self.x[..., : self.n_frames] = x
        self.t.copy_(t)
        (v,) = self._captured(lambda: (self._run(flow),))
        return v[..., : self.n_frames]

    def _run(self, flow: Flow) -> Tensor:
        """The pass: a function of this object's tensors alone, and of the weights."""
        return flow.velocity(self.x, self.t, self.mu, self.spk, self.cond, self.lengths, self.kind.chunk)
