"""Linear layers that decode a few rows at the speed of memory on a CPU.

A decoding step multiplies one to eight rows with every weight, so its time is that of reading the weights.
`torch.nn.functional.linear` loses half of the bandwidth and more at two to eight rows; oneDNN's own layout does not.
Weights of nano's size stay in the processor's cache, where a call to oneDNN costs more than its arithmetic: there
FBGEMM takes over, which reads half-precision weights and computes in single precision, where that loses nothing.
The operators have private or deprecated names in torch: they are used here and nowhere else, and only where they run.
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
from vocalnet.graphs import Graphable, Passes
from vocalnet.provenance import keep_fingerprint
from vocalnet.vocoder import estimator
from vocalnet.vocoder.causal import RowConv1d
from vocalnet.vocoder.hift import HiftConv1d

PACKED_FOR_ROWS = 4  # the layout is chosen for about so many rows; any number is computed correctly
PACKED_FOR_FRAMES = 400  # the same for a convolution
PACKED_DTYPES = (torch.float32, torch.bfloat16)
PACKED_FROM = 256  # inputs and outputs; narrower layers are packed only if they have half-precision weights as well
HALF_UP_TO = 1 << 20  # weights of a layer; larger ones do not stay in the cache
HALF_ROWS = 32  # up to so many, half-precision weights are used: a short text, too, is over before oneDNN has begun
SLOW_ROWS = 3  # a tenth slower than four (AMD EPYC, oneDNN of torch 2.13): a row of zeros is added


class Packed(nn.Module):
    """A layer whose weight is kept in oneDNN's layout; for inference on a CPU. It is saved as the plain layer."""

    def __init__(self, layer: nn.Linear | nn.Conv1d, weight: Tensor) -> None:
        super().__init__()
        keep_fingerprint(self, layer)
        self.plain_shape = layer.weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.to_dense().view(self.plain_shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        before = torch.empty(0, dtype=self.weight.dtype)
        after = fn(before)
        if (after.dtype, after.device) != (before.dtype, before.device):
            raise ValueError(
                'packed weights can be neither moved nor cast: load the model with kernel="plain" for that'
            )
        return self


class PackedLinear(Packed, estimator.FusedLinear):
    """A linear layer in oneDNN's layout, a small one in FBGEMM's too."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear, _pack_weight(linear.weight.detach()))
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._half = _pack_half(linear.weight.detach()) if is_half(linear.weight) else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., in_features) to (..., out_features)."""
        half = self._half_for(x)
        if half is not None:
            return torch.fbgemm_linear_fp16_weight_fp32_activation(x, half, self.bias)
        if x.dim() == 3 and x.shape[0] == 1 and x.shape[1] == SLOW_ROWS:
            padded = torch.nn.functional.pad(x, (0, 0, 0, 1))  # (1, SLOW_ROWS + 1, in_features)
            return torch.ops.mkldnn._linear_pointwise(padded, self.weight, self.bias, "none", [], "")[:, :SLOW_ROWS]
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        if self._half_for(x) is not None:
            return torch.nn.functional.gelu(self(x))
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        if self._half_for(x) is not None:
            return self(x).add_(residual)
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")

    def _half_for(self, x: Tensor) -> Tensor | None:
        """Returns FBGEMM's weight if there is one and x has few enough rows for it."""
        return self._half if self._half is not None and x.numel() <= HALF_ROWS * self.in_features else None


class PackedConv1d(Packed):
    """A convolution, (B, C_in, n) -> (B, C_out, n_out), that does not rearrange its weight in every call."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__(conv, _pack_convolution(conv))
        self.places, self.groups = _places(conv), conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """What it returns has its channels side by side in memory, as the next such layer wants them."""
        return torch.ops.mkldnn._convolution_pointwise(
            x.unsqueeze(2), self.weight, self.bias, *self.places, self.groups, "none", [], ""
        ).squeeze(2)


def use_kernel(module: nn.Module, kernel: str) -> None:
    """Prepares all linear layers inside `module` for decoding, in place; what is prepared already stays.

    Args:
        module: in eval mode, on its device and in its dtype; from then on it can be neither moved nor trained.
        kernel: "plain": leave all as it is; "packed": the same numbers from oneDNN's and FBGEMM's layouts (layers that
            they cannot take, or gain nothing for, stay plain); "int8": weights in 8 bits, one scale per output, inputs
            quantised as they come. "graphed", for a GPU: plain layers, whose talker's steps and whose flow's estimator
            are recorded as CUDA graphs (`vocalnet.graphs`; never run yet, for want of a GPU). A packed module is saved
            as a plain one; an int8 one cannot be (`check_saveable`).

    Raises:
        ValueError: there is no such kernel, int8 is asked for on something else than a CPU in float32, or graphed on
            something else than a GPU.
    """
    check_kernel(kernel)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            check_kernel(kernel, part.weight.device, part.weight.dtype)
    if kernel != "plain":
        keep_fingerprint(module)
    KERNELS[kernel](module)


def check_kernel(kernel: str, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
    """Raises ValueError unless there is a kernel of that name, for weights of that device and dtype (None: any)."""
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; available: {', '.join(KERNELS)}")
    is_fit = (device is None or device.type == "cpu") and dtype in (None, torch.float32)
    if kernel == "int8" and not is_fit:
        raise ValueError('the int8 kernel starts from float32 weights on a CPU: choose device="cpu", dtype="float32"')
    if kernel == "graphed" and device is not None and device.type != "cuda":
        raise ValueError(
            'the graphed kernel records CUDA graphs: choose device="cuda", or kernel="packed" or "plain" on a CPU'
        )


def check_saveable(module: nn.Module) -> None:
    """Raises ValueError if a part of `module` has int8 weights: what they were made from is gone."""
    from torch.ao.nn.quantized.dynamic import Linear as QuantisedLinear

    if any(isinstance(part, QuantisedLinear) for part in module.modules()):
        raise ValueError('int8 weights cannot be saved: load with kernel="packed" or "plain", and save that model')


def is_packable(layer: nn.Linear | nn.Conv1d) -> bool:
    """Whether `PackedLinear` or `PackedConv1d` can stand for a layer, and gains something."""
    weight = layer.weight
    is_wide = isinstance(layer, nn.Conv1d) or min(weight.shape) >= PACKED_FROM
    is_useful = is_wide or (len(weight) > 1 and is_half(weight))
    return weight.device.type == "cpu" and _has_operators(weight.dtype) and is_useful


def is_half(weight: Tensor) -> bool:
    """Whether a weight (n_out, n_in) is small, and a half-precision copy of it is used because it loses nothing."""
    is_small = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() <= HALF_UP_TO
    return is_small and _has_half() and torch.equal(weight.half().float(), weight)


@functools.cache
def _has_operators(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's private operators, and they run here in that dtype."""
    if dtype not in PACKED_DTYPES or not torch.backends.mkldnn.is_available():
        return False
    x = torch.arange(16, dtype=dtype)[None]
    try:
        packed = _pack_weight(torch.eye(16, dtype=dtype))
        _pack_convolution(nn.Conv1d(16, 16, 3, dtype=dtype))
        torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "none")
        torch.ops.mkldnn._linear_pointwise.binary(x, x, packed, None, "add")
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), x)
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def _has_half() -> bool:
    """Whether this build of torch has FBGEMM's half-precision operators, and they run here."""
    x = torch.arange(16.0)[None]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, once each; nothing as fast is offered in their place
            return torch.equal(torch.fbgemm_linear_fp16_weight_fp32_activation(x, _pack_half(torch.eye(16)), None), x)
    except (AttributeError, RuntimeError):
        return False


def _pack_weight(weight: Tensor) -> Tensor:
    """Returns a weight (n_out, n_in) in oneDNN's layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)


def _pack_convolution(conv: nn.Conv1d) -> Tensor:
    """Returns the weight of a convolution, (C_out, C_in, 1, k), in oneDNN's layout."""
    size = [1, conv.in_channels, 1, PACKED_FOR_FRAMES]
    weight = conv.weight.detach().unsqueeze(2)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *_places(conv), conv.groups, size)


def _places(conv: nn.Conv1d) -> tuple[list[int], list[int], list[int]]:
    """Returns padding, stride and dilation of a convolution over a picture one pixel high."""
    assert isinstance(conv.padding, tuple)
    return [0, *conv.padding], [1, *conv.stride], [1, *conv.dilation]


def _pack_half(weight: Tensor) -> Tensor:
    """Returns FBGEMM's half-precision copy of a weight (n_out, n_in)."""
    return torch.fbgemm_pack_gemm_matrix_fp16(weight)


def _plain(module: nn.Module) -> None:
    pass


def _join(module: nn.Module) -> None:
    """Joins layers that read the same input: fewer and larger products."""
    for part in module.modules():
        if isinstance(part, Attention | SwiGLU | estimator.Attention) and part.joined is None:
            join(part)


def _unfold(module: nn.Module) -> None:
    """Makes products of those convolutions that are then packed."""
    for part in module.modules():
        if isinstance(part, RowConv1d) and part.unfolded is None and is_packable(part.unfolding()):
            part.unfold()


def _pack(module: nn.Module) -> None:
    _join(module)
    _unfold(module)
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    n_bytes = 0
    for parent, name in _layers(module):
        layer = getattr(parent, name)
        if id(layer.weight) not in tables and is_packable(layer):  # a table's weight would be held twice
            n_bytes += layer.weight.nbytes
            setattr(parent, name, PackedLinear(layer) if isinstance(layer, nn.Linear) else PackedConv1d(layer))
            del layer
            if n_bytes > shards.LET_GO_BYTES:
                _give_back()
                n_bytes = 0


def _layers(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yields parent and name of each linear layer and convolution inside a module, without holding on to any."""
    for name in list(module._modules):
        if type(getattr(module, name)) in (nn.Linear, HiftConv1d):
            yield module, name
        else:
            yield from _layers(getattr(module, name))


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


def _graph(module: nn.Module) -> None:
    _join(module)
    for part in module.modules():
        if isinstance(part, Graphable) and part.passes is None:
            part.passes = Passes()


KERNELS = {"plain": _plain, "packed": _pack, "int8": _quantise, "graphed": _graph}
