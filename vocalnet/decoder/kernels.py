"""Linear layers that decode a few rows at the speed of memory on a CPU.

A decoding step multiplies one to eight rows with every weight, so its time is that of reading the weights.
`torch.nn.functional.linear` loses half of the bandwidth and more at two to eight rows; oneDNN's own layout does not.
The operators have private names in torch: they are used here and nowhere else, and `plain` does without them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

PACKED_FOR_ROWS = 4  # the layout is chosen for about so many rows; any number is computed correctly
PACKED_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """A linear layer whose weight is kept in oneDNN's layout only; for inference on a CPU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_FOR_ROWS)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., in_features) to (..., out_features)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.packed.to_dense()


def is_packable(linear: nn.Linear) -> bool:
    """Whether `PackedLinear` can stand for a layer: torch has oneDNN, its weight is on the CPU, of a fitting dtype."""
    weight = linear.weight
    return torch.backends.mkldnn.is_available() and weight.device.type == "cpu" and weight.dtype in PACKED_DTYPES


def use_kernel(module: nn.Module, kernel: str) -> None:
    """Prepares all linear layers inside `module` for decoding, in place.

    Args:
        module: in eval mode, on its device and in its dtype; it can still be saved, but neither moved nor trained.
        kernel: "plain": leave all as it is; "packed": the same numbers from oneDNN's layout (layers that it cannot
            take stay plain); "int8": weights in 8 bits, one scale per output, inputs quantised as they come.

    Raises:
        ValueError: there is no such kernel, or int8 is asked for on something else than a CPU in float32.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; available: {', '.join(KERNELS)}")
    KERNELS[kernel](module)


def _plain(module: nn.Module) -> None:
    pass


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if is_packable(child):
                setattr(module, name, PackedLinear(child))
        else:
            _pack(child)


def _quantise(module: nn.Module) -> None:
    weights = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in weights):
        raise ValueError('the int8 kernel starts from float32 weights on a CPU: load with dtype="float32"')
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor package that is not needed
        quantize_dynamic(module, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)


KERNELS = {"plain": _plain, "packed": _pack, "int8": _quantise}
