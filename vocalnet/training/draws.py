"""Random draws that belong to a sample: hashes of (seed, epoch, sample id), whatever the rank or the worker."""

from __future__ import annotations

import hashlib

import torch

BITS = 64


def _number(*key: object) -> int:
    """Returns 64 bits that depend on all parts of the key."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=BITS // 8).digest())


def uniform(*key: object) -> float:
    """Returns a number in [0, 1) that depends on all parts of the key."""
    return (_number(*key) >> 11) / (1 << (BITS - 11))  # 53 bits: what a double holds


def integer(*key: object) -> int:
    """Returns a seed for torch that depends on all parts of the key."""
    return _number(*key) >> 1


def generator(*key: object) -> torch.Generator:
    """Returns a generator whose draws depend on all parts of the key."""
    return torch.Generator().manual_seed(integer(*key))


def mask_name(seed: int, epoch: int, sample: str, streaming_share: float) -> str:
    """Returns the mask of a sample in an epoch, "full" (Eq. 2) or "streaming" (Eq. 3)."""
    return "streaming" if uniform(seed, epoch, sample, "mask") < streaming_share else "full"


def lisa_layers(seed: int, period: int, n_layers: int, n_chosen: int) -> list[int]:
    """Returns the decoder layers that train in a period of LISA, each choice as likely, in order."""
    ranked = sorted(range(n_layers), key=lambda layer: uniform(seed, period, layer, "lisa"))
    return sorted(ranked[:n_chosen])
