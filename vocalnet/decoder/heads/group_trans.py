"""Group modelling by a small transformer (Figure 4a, after IntrinsicVoice): G tokens in and out per row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Output, Rows, Stack, rotation
from vocalnet.decoder.heads.contract import Sampler, Step, Teacher, Text
from vocalnet.decoder.heads.groups import Merge
from vocalnet.decoder.heads.targets import shifted_targets

N_LAYERS = 2  # one for the slots to read the row's state, one to read what the others made of it


class GroupTransHead(nn.Module):
    """G learnable queries read the row's state, and each other, without order: all slots of a group come at once."""

    n_depths = 0

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.config = config
        self.n_heads = self.stride = config.group_size
        self.merge = Merge(config.dim, config.group_size)
        self.queries = nn.Parameter(torch.empty(config.group_size, config.dim))  # drawn by the talker
        self.stack = Stack(config, N_LAYERS)
        self.out = Output(config)

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
        """Returns the slots' states on the speech rows, G times (B, L_s, D)."""
        return list(self._slots(teacher.speech(h)).unbind(2))

    def project(self, k: int, state: Tensor) -> Tensor:
        """Maps states (..., D) of any slot to logits (..., V_s)."""
        return self.out(state)

    def prefill(self, h: Tensor, text: Text, n_heads: int) -> None:
        """Has nothing to fill."""

    def step(self, h: Tensor, step: Step, n_heads: int, sample: Sampler) -> tuple[Tensor, Tensor]:
        """Proposes a whole group after the last row of h (B, n, D), so that the next row has one to merge."""
        logits = self.out(self._slots(h[:, -1:])[:, 0])  # (B, G, V_s)
        return torch.stack([sample(k, logits[:, k]) for k in range(self.n_heads)], 1), logits

    def _slots(self, h: Tensor) -> Tensor:
        """Maps states (B, n, D) to those of each row's slots, (B, n, G, D); rows do not see each other."""
        B, n, D = h.shape
        config, G = self.config, self.n_heads
        places = torch.arange(1 + G, device=h.device)[None]
        rows = Rows(*rotation(places, D // config.n_heads, config.rope_theta, h.dtype))
        x = torch.cat([h.reshape(B * n, 1, D), self.queries.expand(B * n, -1, -1)], 1)  # (B * n, 1 + G, D)
        return self.stack(x, rows)[:, 1:].reshape(B, n, G, D)
