"""Downsample adaptor (Eq. 1): encoder features to the LLM's embedding width at a lower rate.

Letters: B batch, T_e encoder frames, D_e encoder width, L_a audio embeddings, D LLM width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def group_frames(features: Tensor, rate: int) -> Tensor:
    """Joins every `rate` frames: (B, T_e, D_e) to (B, T_e // rate, rate * D_e); an unfilled tail is dropped."""
    B, T_e, D_e = features.shape
    L_a = T_e // rate
    return features[:, : L_a * rate].reshape(B, L_a, rate * D_e)


class Adaptor(nn.Module):
    """Joins groups of `rate` frames, then Linear, ReLU, Linear."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, rate: int = 5) -> None:
        super().__init__()
        self.rate = rate
        self.linear1 = nn.Linear(in_dim * rate, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (B, T_e, D_e) to embeddings (B, L_a, D), L_a = T_e // rate.

        The tail that does not fill a group is dropped, as the published checkpoints expect.
        """
        groups = group_frames(features, self.rate)  # (B, L_a, rate * D_e)
        return self.linear2(F.relu(self.linear1(groups)))  # (B, L_a, D)
