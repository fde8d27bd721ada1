"""Labels that several heads share."""

from __future__ import annotations

import torch
from torch import Tensor

from vocalnet.decoder.heads.contract import IGNORE


def shifted_targets(tokens: Tensor, ends: Tensor, eos_id: int, n_heads: int, stride: int = 1) -> Tensor:
    """Returns labels (K, B, L_s): head k, row i is token i * stride + 1 + k; the one after the last is the end token.

    Args:
        tokens: speech tokens, padded with anything, (B, S).
        ends: how many of them are real, (B,).
        eos_id: the end token.
        n_heads: K.
        stride: tokens per row; L_s = 1 + ceil(S / stride).
    """
    B, S = tokens.shape
    last = -(-S // stride) * stride  # the first token that the last row predicts, counted from 0
    column = torch.arange(S, device=tokens.device)
    line = tokens.new_full((B, last + n_heads), IGNORE)
    line[:, :S] = torch.where(column < ends[:, None], tokens, IGNORE)
    line.scatter_(1, ends[:, None], eos_id)
    return torch.stack([line[:, k : k + last + 1 : stride] for k in range(n_heads)])  # (K, B, L_s)
