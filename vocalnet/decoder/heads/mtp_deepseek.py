"""DeepSeek-V3's multi-token prediction (Figure 4c): each module is fed the token before the one it predicts."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Block, Output
from vocalnet.decoder.heads.contract import Sampler, Step, Teacher, Text
from vocalnet.decoder.heads.targets import shifted_targets


class Depth(nn.Module):
    """One MTP module: the previous un-normed state and a token's embedding, both normed, through one layer."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.state_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.token_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.merge = nn.Linear(2 * config.dim, config.dim, bias=False)
        self.layer = Block(config)
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)

    def merged(self, h: Tensor, ahead: Tensor) -> Tensor:
        """Maps states h (B, n, D) and the embeddings `ahead` (B, n, D) to the layer's input (B, n, D)."""
        return self.merge(torch.cat([self.state_norm(h), self.token_norm(ahead)], -1))


class MTPDeepSeekHead(nn.Module):
    """The main head and M modules; module k is fed token t + k, true in training, else sampled, and gives t + 1 + k.

    Embeddings and vocabulary projection are the talker's and the main head's, as DeepSeek-V3 shares them. Its modules
    take the embedding k positions ahead in the text too; ours take the text's own, since what comes later may not have
    arrived yet, and speech that follows the text has not been sampled yet.
    """

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
        text, speech = teacher.inputs[:, : teacher.n_text], teacher.speech(teacher.inputs)
        states = [teacher.speech(h)]
        for k in range(1, self.n_heads):
            speech = F.pad(speech[:, 1:], (0, 0, 0, 1))  # (B, L_s, D); rows without a token ahead have no label
            depth = self._depth(k)
            h = depth.layer(depth.merged(h, torch.cat([text, speech], 1)), teacher.rows[k])  # (B, T, D)
            states.append(teacher.speech(h))
        return states

    def project(self, k: int, state: Tensor) -> Tensor:
        """Maps states (..., D) of head k to logits (..., V_s)."""
        return self.main(state) if k == 0 else self.main.proj(self._depth(k).norm(state))

    def prefill(self, h: Tensor, text: Text, n_heads: int) -> None:
        """Runs the modules over text rows h (B, n, D)."""
        x = h
        for k in range(1, n_heads):
            depth, rows = self._depth(k), text.rows(k)
            x = depth.merged(x, text.inputs)
            if text.is_chained and k < n_heads - 1:
                x = depth.layer(x, rows)  # (B, n, D)
            else:
                depth.layer.store(x, rows)
                x = h

    def step(self, h: Tensor, step: Step, n_heads: int, sample: Sampler) -> tuple[Tensor, Tensor]:
        """Proposes a token per module, each from the last of the n rows; all rows pass, for the caches."""
        tokens: list[Tensor] = []
        logits: list[Tensor] = []
        text, ahead = step.inputs[:, : step.n_text], step.inputs[:, step.n_text :]  # (B, n_text, D), (B, n - n_text, D)
        for k in range(n_heads):
            if not sample.wants(k):
                break
            if k > 0:
                ahead = torch.cat([ahead[:, 1:], step.embed(tokens[-1][:, None])], 1)
                depth = self._depth(k)
                x, is_last = depth.merged(h, torch.cat([text, ahead], 1)), k == n_heads - 1
                h = depth.layer(x, step.rows(k), last_only=is_last)  # (B, n, D), or (B, 1, D) of the last module
            logits.append(self.project(k, h[:, -1]))  # (B, V_s)
            tokens.append(sample(k, logits[-1]))
        return torch.stack(tokens, 1), torch.stack(logits, 1)

    def _depth(self, k: int) -> Depth:
        return cast(Depth, self.depths[k - 1])
