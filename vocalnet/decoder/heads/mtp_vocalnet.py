"""VocalNet's multi-token prediction (Eq. 5-7, Figure 4d): sequential layers on hidden states."""

from __future__ import annotations

from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Block, Output
from vocalnet.decoder.heads.contract import Sampler, Step, Teacher, Text
from vocalnet.decoder.heads.targets import shifted_targets


class Depth(nn.Module):
    """One MTP module: a layer on the previous un-normed state, then its own norm and vocabulary projection."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.layer = Block(config)
        self.out = Output(config)


class MTPVocalNetHead(nn.Module):
    """The main head and M modules; module k sees no token, only module k - 1's state, and gives token t + 1 + k."""

    stride = 1

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.n_heads = 1 + config.mtp_num
        self.n_depths = config.mtp_num
        self.main = Output(config)
        self.depths = nn.ModuleList(Depth(config) for _ in range(config.mtp_num))

    def embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        """Maps tokens (B, n) to embeddings (B, n, D)."""
        return table(tokens)

    def targets(self, tokens: Tensor, ends: Tensor, eos_id: int) -> Tensor:
        """Returns labels (1 + M, B, S + 1)."""
        return shifted_targets(tokens, ends, eos_id, self.n_heads)

    def weights(self, decay: float) -> tuple[float, ...]:
        """Returns lambda^k for k = 0 .. M (Eq. 7)."""
        return tuple(decay**k for k in range(self.n_heads))

    def states(self, h: Tensor, teacher: Teacher) -> list[Tensor]:
        """Chains the modules over text and speech; returns 1 + M states (B, L_s, D)."""
        states = [teacher.speech(h)]
        for k, depth in enumerate(self._depths(self.n_heads), 1):
            h = depth.layer(h, teacher.rows[k])  # (B, T, D)
            states.append(teacher.speech(h))
        return states

    def project(self, k: int, state: Tensor) -> Tensor:
        """Maps states (..., D) of head k to logits (..., V_s)."""
        output = self.main if k == 0 else cast(Depth, self.depths[k - 1]).out
        return output(state)

    def prefill(self, h: Tensor, text: Text, n_heads: int) -> None:
        """Runs the modules over text rows h (B, n, D)."""
        x = h
        for k, depth in enumerate(self._depths(n_heads), 1):
            if text.is_chained and k < n_heads - 1:
                x = depth.layer(x, text.rows(k))  # (B, n, D)
            else:
                depth.layer.store(x, text.rows(k))

    def step(self, h: Tensor, step: Step, n_heads: int, sample: Sampler) -> tuple[Tensor, Tensor]:
        """Proposes a token per module, each from the last of the n rows; all rows pass, for the caches."""
        depths = self._depths(n_heads)
        if sample.at_once is not None:
            states = [h[:, -1]]
            for k, depth in enumerate(depths, 1):
                h = self._run(k, depth, h, step, n_heads)
                states.append(h[:, -1])
            proposed = self._project_all(torch.stack(states, 1), depths)  # (B, K, V_s)
            return sample.at_once(proposed), proposed
        tokens, logits = [], []
        for k, output in enumerate([self.main, *(depth.out for depth in depths)]):
            if not sample.wants(k):
                break
            if k > 0:
                h = self._run(k, depths[k - 1], h, step, n_heads)
            logits.append(output(h[:, -1]))  # (B, V_s)
            tokens.append(sample(k, logits[-1]))
        return torch.stack(tokens, 1), torch.stack(logits, 1)

    def _run(self, k: int, depth: Depth, h: Tensor, step: Step, n_heads: int) -> Tensor:
        """Maps states h (B, n, D) by module k to (B, n, D); of the last one, only (B, 1, D) is asked for."""
        return depth.layer(h, step.rows(k), last_only=k == n_heads - 1)

    def _project_all(self, states: Tensor, depths: list[Depth]) -> Tensor:
        """Maps states (B, K, D) of the first K heads to logits (B, K, V_s), normed as one: a norm costs a product."""
        outputs = [self.main, *(depth.out for depth in depths)]
        scales = torch.stack([output.norm.weight for output in outputs])  # (K, D)
        normed = F.rms_norm(states, states.shape[-1:], eps=self.main.norm.eps) * scales
        return torch.stack([output.proj(normed[:, k]) for k, output in enumerate(outputs)], 1)

    def _depths(self, n_heads: int) -> list[Depth]:
        """Returns the modules of the first n heads: an index into a `ModuleList` costs as much as a small product."""
        return [cast(Depth, depth) for depth in islice(self.depths, n_heads - 1)]
