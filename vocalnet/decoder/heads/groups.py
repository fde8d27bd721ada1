"""How the group heads take tokens in: G of them become one position."""

from __future__ import annotations

from torch import Tensor, nn


class Merge(nn.Module):
    """A linear layer from the embeddings of a group to one decoder input."""

    def __init__(self, dim: int, group_size: int) -> None:
        super().__init__()
        self.group_size = group_size
        self.linear = nn.Linear(group_size * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Maps embeddings (B, n * G, D) to inputs (B, n, D)."""
        return self.linear(x.unflatten(1, (-1, self.group_size)).flatten(2))
