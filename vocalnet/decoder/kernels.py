"""Linear layers that decode a few rows at the speed of memory on a CPU.

A decoding step multiplies one to eight rows with every weight, so its time is that of reading the weights.
`torch.nn.functional.linear` loses half of the bandwidth and more at two to eight rows; oneDNN's own layout does not.
The operators have private names in torch: they are used here and nowhere else, and `plain` does without them.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vocalnet import shards
from vocalnet.decoder.backbone import Attention, SwiGLU, join

PACKED_FOR_ROWS = 4  # the layout is chosen for about so many rows; any number is computed correctly
PACKED_DTYPES = (torch.float32, torch.bfloat16)
PACKED_FROM = 256  # inputs and outputs; a narrower layer is a `NarrowLinear`


class PackedLinear(nn.Module):
    """A linear layer whose weight is kept in oneDNN's layout only; for inference on a CPU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_FOR_ROWS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., in_features) to (..., out_features)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.to_dense()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        before = torch.empty(0, dtype=self.weight.dtype)
        after = fn(before)
        if (after.dtype, after.device) != (before.dtype, before.device):
            raise ValueError(
                'packed weights can be neither moved nor cast: load the model with kernel="plain" for that'
            )
        return self


class NarrowLinear(nn.Module):
    """A linear layer so small that what counts is a cheap call: its weight is kept as (in, out); for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nn.Parameter(linear.weight.detach().T.contiguous(), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., in_features) to (..., out_features)."""
        y = torch.matmul(x, self.weight)
        return y if self.bias is None else y + self.bias

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.T.contiguous()


def use_kernel(module: nn.Module, kernel: str) -> None:
    """Prepares all linear layers inside `module` for decoding, in place; what is prepared already stays.

    Args:
        module: in eval mode, on its device and in its dtype; from then on it can be neither moved nor trained.
        kernel: "plain": leave all as it is; "packed": the same numbers from oneDNN's layout (narrow layers are
            transposed instead, those that it cannot take stay plain); "int8": weights in 8 bits, one scale per output,
            inputs quantised as they come. A packed module is saved as a plain one; an int8 one cannot be
            (`check_saveable`).

    Raises:
        ValueError: there is no such kernel, or int8 is asked for on something else than a CPU in float32.
    """
    check_kernel(kernel)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            check_kernel(kernel, part.weight.device, part.weight.dtype)
    KERNELS[kernel](module)


def check_kernel(kernel: str, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
    """Raises ValueError unless there is a kernel of that name, for weights of that device and dtype (None: any)."""
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; available: {', '.join(KERNELS)}")
    is_fit = (device is None or device.type == "cpu") and dtype in (None, torch.float32)
    if kernel == "int8" and not is_fit:
        raise ValueError('the int8 kernel starts from float32 weights on a CPU: choose device="cpu", dtype="float32"')


def check_saveable(module: nn.Module) -> None:
    """Raises ValueError if a part of `module` has int8 weights: what they were made from is gone."""
    from torch.ao.nn.quantized.dynamic import Linear as QuantisedLinear

    if any(isinstance(part, QuantisedLinear) for part in module.modules()):
        raise ValueError('int8 weights cannot be saved: load with kernel="packed" or "plain", and save that model')


def is_packable(linear: nn.Linear) -> bool:
    """Whether `PackedLinear` can stand for a layer."""
    return linear.weight.device.type == "cpu" and _has_operators(linear.weight.dtype)


@functools.cache
def _has_operators(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the private operators, and they run here in that dtype."""
    if dtype not in PACKED_DTYPES or not torch.backends.mkldnn.is_available():
        return False
    linear = nn.utils.skip_init(nn.Linear, 16, 16, bias=False, dtype=dtype)
    nn.init.eye_(linear.weight)
    x = torch.arange(16, dtype=dtype)[None]
    try:
        return torch.equal(PackedLinear(linear)(x), x)
    except (AttributeError, RuntimeError):
        return False


def _plain(module: nn.Module) -> None:
    pass


def _join(module: nn.Module) -> None:
    """Joins layers that read the same input: fewer and larger products."""
    for part in module.modules():
        if isinstance(part, Attention | SwiGLU) and part.joined is None:
            join(part)


def _pack(module: nn.Module) -> None:
    _join(module)
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    n_bytes = 0
    for parent, name in _linears(module):
        linear = getattr(parent, name)
        if id(linear.weight) not in tables and is_packable(linear):  # a table's weight would be held twice
            n_bytes += linear.weight.nbytes
            is_narrow = min(linear.weight.shape) < PACKED_FROM
            setattr(parent, name, NarrowLinear(linear) if is_narrow else PackedLinear(linear))
            del linear
            if n_bytes > shards.LET_GO_BYTES:
                _give_back()
                n_bytes = 0


def _linears(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yields parent and name of each linear layer inside a module, without holding on to any."""
    for name in list(module._modules):
        if type(getattr(module, name)) is nn.Linear:
            yield module, name
        else:
            yield from _linears(getattr(module, name))


def _give_back() -> None:
    """Returns freed memory to the system: the holes that plain weights leave are too small for their packed ones."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def _quantise(module: nn.Module) -> None:
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    _join(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor package that is not needed
        quantize_dynamic(module, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)


KERNELS = {"plain": _plain, "packed": _pack, "int8": _quantise}
