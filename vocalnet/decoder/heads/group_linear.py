"""Group modelling by linear layers (Figure 4a, after SLAM-Omni): G tokens in and out per row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.heads.contract import Sampler, Step, Teacher, Text
from vocalnet.decoder.heads.groups import Merge
from vocalnet.decoder.heads.targets import shifted_targets


class GroupLinearHead(nn.Module):
    """One linear layer merges a group's embeddings, another gives the logits of all slots from the row's state.

    The second is kept slot by slot, so that a loss can project each slot's labelled rows alone.
    """

    n_depths = 0

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.n_heads = self.stride = config.group_size
        self.merge = Merge(config.dim, config.group_size)
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.projs = nn.ModuleList(nn.Linear(config.dim, config.vocab_size) for _ in range(self.n_heads))

    def embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        """Maps tokens (B, n * G) to inputs (B, n, D)."""
        return self.merge(table(tokens))

    def targets(self, tokens: Tensor, ends: Tensor, eos_id: int) -> Tensor:
        """Returns labels (G, B, 1 + ceil(S / G)); slots after the end token have none."""
        return shifted_targets(tokens, ends, eos_id, self.n_heads, self.stride)

    def weights(self, decay: float) -> tuple[float, ...]:
        """Returns 1 / G for every slot: Eq. 7 discounts repeated predictions of a token, and here each has only one."""
        return (1 / self.n_heads,) * self.n_heads

    def states(self, h: Tensor, teacher: Teacher) -> list[Tensor]:
        """Returns the decoder's output on the speech rows, (B, L_s, D), once per slot."""
        return [teacher.speech(h)] * self.n_heads

    def project(self, k: int, state: Tensor) -> Tensor:
        """Maps states (..., D) to logits (..., V_s) of slot k."""
        return self.projs[k](self.norm(state))

    def prefill(self, h: Tensor, text: Text, n_heads: int) -> None:
        """Has nothing to fill."""

    def step(self, h: Tensor, step: Step, n_heads: int, sample: Sampler) -> tuple[Tensor, Tensor]:
        """Proposes a whole group after the last row of h (B, n, D), so that the next row has one to merge."""
        state = self.norm(h[:, -1])  # (B, D)
        logits = [proj(state) for proj in self.projs]  # (B, V_s) each
        tokens = [sample(k, row) for k, row in enumerate(logits)]
        return torch.stack(tokens, 1), torch.stack(logits, 1)
