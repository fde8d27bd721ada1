"""Weights on a grid, and their files: components in our layout may hold whole numbers of 8 bits in place of floats.

A tensor KEY whose values are multiples of a power of two, none further from zero than 127 of them, is stored as KEY
(int8) and KEY.step (float32), exactly. `round_weights` makes such tensors of trained ones; such a file is half as large
as in half precision, and compresses to two thirds of what floats on the same grid do.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

GRID_FROM = 4096  # numbers of a tensor; smaller ones are few, and matter more
STEP = ".step"  # after a packed tensor's key
LARGEST = 127


@torch.no_grad()
def round_weights(module: nn.Module, steps: int) -> None:
    """Rounds weights in place to multiples of a power of two: `steps` or up to twice as many to a tensor's deviation.

    They are fewer where a tensor could not be packed else. Tensors of fewer than GRID_FROM numbers stay as they are.
    """
    for weight in module.parameters():
        deviation = weight.std().item() if weight.numel() >= GRID_FROM else 0.0
        if deviation > 0:
            step = max(2.0 ** math.floor(math.log2(deviation / steps)), _step(weight))
            weight.copy_((weight / step).round() * step)


def _step(weight: Tensor) -> float:
    """Returns the finest power of two of which no number of a tensor, not zero, is more than LARGEST."""
    return 2.0 ** math.ceil(math.log2(weight.abs().max().item() / LARGEST))


def pack(key: str, value: Tensor) -> dict[str, Tensor]:
    """Returns what stands for a tensor in a file: whole numbers and their step where that is exact, else itself."""
    if not value.is_floating_point() or value.numel() < GRID_FROM or not value.any():
        return {key: value}
    step = _step(value)
    counts = value.double() / step
    if not torch.equal(counts, counts.round()):
        return {key: value}
    return {key: counts.to(torch.int8), f"{key}{STEP}": torch.tensor(step)}


def unpack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a file by key, those that were packed in float32."""
    steps = {key for key in weights if f"{key}{STEP}" in weights and weights[key].dtype == torch.int8}
    floats = {key: weights[key] * weights[f"{key}{STEP}"] for key in steps}
    others = {key: value for key, value in weights.items() if key.removesuffix(STEP) not in steps}
    return others | floats


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file, unpacked."""
    return unpack(load_file(path))
