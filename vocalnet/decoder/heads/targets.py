"""Labels that several heads share."""

from __future__ import annotations

import torch
from torch import Tensor

from vocalnet.decoder.heads.contract import IGNORE


def shifted_targets(tokens: Tensor, ends: Tensor, eos_id: int, n_heads: int) -> Tensor:
    """Returns labels (K, B, S + 1): row k, column i is token i + 1 + k; the token after the last is the end token.

    Args:
        tokens: speech tokens, padded with anything, (B, S).
        ends: how many of them are real, (B,).
        eos_id: the end token.
        n_heads: K.
    """
    B, S = tokens.shape
    column = torch.arange(S, device=tokens.device)
    line = tokens.new_full((B, S + n_heads), IGNORE)
    line[:, :S] = torch.where(column < ends[:, None], tokens, IGNORE)
    line.scatter_(1, ends[:, None], eos_id)
    return torch.stack([line[:, k : k + S + 1] for k in range(n_heads)])  # (K, B, S + 1)
