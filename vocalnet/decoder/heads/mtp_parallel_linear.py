"""Parallel multi-token prediction (Figure 4b, after Gloeckle et al.): independent linear heads on one state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.heads.contract import Sampler, Step, Teacher, Text
from vocalnet.decoder.heads.targets import shifted_targets


class MTPParallelLinearHead(nn.Module):
    """1 + M vocabulary projections of the decoder's normed output; head k gives token t + 1 + k."""

    n_depths = 0
    stride = 1

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.n_heads = 1 + config.mtp_num
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.projs = nn.ModuleList(nn.Linear(config.dim, config.vocab_size) for _ in range(self.n_heads))

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
        """Returns the decoder's output on the speech rows, (B, L_s, D), once per head."""
        return [teacher.speech(h)] * self.n_heads

    def project(self, k: int, state: Tensor) -> Tensor:
        """Maps states (..., D) to logits (..., V_s) of head k."""
        return self.projs[k](self.norm(state))

    def prefill(self, h: Tensor, text: Text, n_heads: int) -> None:
        """Has nothing to fill."""

    def step(self, h: Tensor, step: Step, n_heads: int, sample: Sampler) -> tuple[Tensor, Tensor]:
        """Proposes a token per head, all from the last row of h (B, n, D)."""
        state = self.norm(h[:, -1])  # (B, D)
        if sample.at_once is not None:
            proposed = torch.stack([self.projs[k](state) for k in range(n_heads)], 1)  # (B, K, V_s)
            return sample.at_once(proposed), proposed
        tokens, logits = [], []
        for k in range(n_heads):
            if not sample.wants(k):
                break
            logits.append(self.projs[k](state))  # (B, V_s)
            tokens.append(sample(k, logits[-1]))
        return torch.stack(tokens, 1), torch.stack(logits, 1)
