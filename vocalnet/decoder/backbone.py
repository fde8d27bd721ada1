"""Llama layers of the talker: RMSNorm, rotary attention, SwiGLU. Caches are arguments; modules keep nothing.

Letters: B batch, n rows of this pass, T keys, D width, H heads, d = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.cache import Cache

INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that one pass runs: their rotation, what they see, and where their keys are kept."""

    cos: Tensor  # (B or 1, 1, n, d)
    sin: Tensor  # its first half negated
    bias: Tensor | None = None  # (B, 1, n, T) from `attention_bias`
    is_causal: bool = False
    cache: Cache | None = None
    first_layer: int = 0  # of this stack in the cache
    first_slot: int = 0  # of these rows in the cache


def rotation(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of positions (B or 1, n), each (B or 1, 1, n, d), in Llama's half-split order.

    The first half of the sines is negated, so that `rotate` needs no negation.
    """
    half = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * theta ** (-half / head_dim)  # (B, n, d / 2)
    cos, sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]  # (B, 1, n, d / 2)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)  # (B, 1, n, d)


def rotate(x: Tensor, rows: Rows) -> Tensor:
    """Applies the rotation of `rows` to x (B, H, n, d)."""
    return torch.addcmul(x * rows.cos, x.roll(x.shape[-1] // 2, -1), rows.sin)


def attention_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Maps a mask (..., n, T), True = visible, to what attention adds to its scores: once per pass, not per layer."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))


class JoinedLinear(nn.Module):
    """Several linear layers without bias on one input, as one product: for inference. It is saved as its parts."""

    def __init__(self, parts: dict[str, nn.Linear]) -> None:
        super().__init__()
        weight = torch.cat([part.weight.detach() for part in parts.values()])  # (n_out, D)
        self.sizes = {name: part.out_features for name, part in parts.items()}
        self.linear = nn.utils.skip_init(nn.Linear, *weight.shape[::-1], bias=False)
        self.linear.weight = nn.Parameter(weight, requires_grad=False)
        self.register_state_dict_post_hook(_save_parts)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., D) to the outputs of all parts, side by side (..., n_out)."""
        return self.linear(x)


def _save_parts(joined: JoinedLinear, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Puts the parts' weights, under the owner's names, in the place of the joined one."""
    weight = state.pop(f"{prefix}linear.weight", None)
    if weight is not None:  # else 8 bits, which cannot be saved
        owner = prefix.removesuffix("joined.")
        for name, rows in zip(joined.sizes, weight.split(list(joined.sizes.values())), strict=True):
            state[f"{owner}{name}.weight"] = rows.clone()


class Joinable(Protocol):
    """A module that applies several linear layers to one input, and `joined` instead once it has it."""

    SAME_INPUT: ClassVar[tuple[str, ...]]
    joined: JoinedLinear | None


def join(owner: Joinable) -> None:
    """Replaces the linear layers that `owner` applies to one input by a `JoinedLinear`, in place."""
    owner.joined = JoinedLinear({name: getattr(owner, name) for name in owner.SAME_INPUT})
    for name in owner.SAME_INPUT:
        delattr(owner, name)


class Attention(nn.Module):
    """Multi-head attention with as many key-value heads as heads, no biases."""

    SAME_INPUT: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj")

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"{n_heads} attention heads cannot share a width of {dim}: it must be a multiple of them")
        self.joined: JoinedLinear | None = None
        self.head_dim = dim // n_heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rows: Rows, layer: int = 0, last_only: bool = False) -> Tensor:
        """Attends from x (B, n, D), or its last row, over x itself or, with a cache, over all that its slots hold."""
        q, k, v = self.project_and_store(x, rows, layer)
        bias = rows.bias
        if last_only:
            assert not rows.is_causal, "a lone query would be taken for the first row"
            q, bias = q[:, :, -1:], None if bias is None else bias[:, :, -1:]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=rows.is_causal)  # (B, H, n or 1, d)
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def project_and_store(self, x: Tensor, rows: Rows, layer: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the queries of x (B, n, D), (B, H, n, d), and the keys and values they are for, (B, H, T, d)."""
        q, k, v = self._queries_keys_values(x, rows)
        if rows.cache is not None:
            k, v = rows.cache.write(rows.first_layer + layer, rows.first_slot, k, v)
        return q, k, v

    def weights(self, x: Tensor, rows: Rows) -> Tensor:
        """Returns what `forward` without a cache averages the values of x (B, n, D) by, (B, H, n, n).

        Rows need a bias; what it forbids weighs exactly 0.
        """
        assert rows.bias is not None
        q, k, _ = self._queries_keys_values(x, rows)
        return (q @ k.transpose(-1, -2) / self.head_dim**0.5 + rows.bias).softmax(-1)

    def _queries_keys_values(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the heads of x (B, n, D), queries and keys rotated: three of (B, H, n, d)."""
        B, n, _ = x.shape
        if self.joined is None:
            qkv = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)  # (B, n, 3 D)
        else:
            qkv = self.joined(x)
        heads = qkv.view(B, n, qkv.shape[-1] // self.head_dim, self.head_dim).transpose(1, 2)  # (B, 3 H, n, d)
        n_heads = heads.shape[1] // 3
        q, k = rotate(heads[:, : 2 * n_heads], rows).chunk(2, 1)
        return q, k, heads[:, 2 * n_heads :]


class SwiGLU(nn.Module):
    """Gated feed-forward network, no biases."""

    SAME_INPUT: ClassVar[tuple[str, ...]] = ("gate_proj", "up_proj")

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.joined: JoinedLinear | None = None
        self.gate_proj = nn.Linear(dim, ffn_dim, bias=False)
        self.up_proj = nn.Linear(dim, ffn_dim, bias=False)
        self.down_proj = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, n, D) to (B, n, D)."""
        if self.joined is None:
            gate, up = self.gate_proj(x), self.up_proj(x)
        else:
            gate, up = self.joined(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """One pre-norm Llama layer.

    Dropout is on the two residual branches; the published code drops attention weights instead, which takes SDPA off
    its fast path on CPU.
    """

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.self_attn = Attention(config.dim, config.n_heads)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = SwiGLU(config.dim, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rows: Rows, layer: int = 0, last_only: bool = False) -> Tensor:
        """Maps x (B, n, D) to (B, n, D); `layer` is this block's place in the stack that `rows` is for.

        `last_only`: to (B, 1, D), the output of the last row alone; the cache takes all.
        """
        attended = self._dropped(self.self_attn(self.input_layernorm(x), rows, layer, last_only))
        x = (x[:, -1:] if last_only else x) + attended
        return x + self._dropped(self.mlp(self.post_attention_layernorm(x)))

    def store(self, x: Tensor, rows: Rows) -> None:
        """Leaves in the cache what `forward` does of x (B, n, D), where nobody asks for its output."""
        self.self_attn.project_and_store(self.input_layernorm(x), rows)

    def _dropped(self, branch: Tensor) -> Tensor:
        return self.dropout(branch) if self.training else branch


class Stack(nn.Module):
    """Blocks one after another, without a final norm."""

    def __init__(self, config: TalkerConfig, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(n_layers))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Maps x (B, n, D) to (B, n, D)."""
        for layer, block in enumerate(self.layers):
            x = block(x, rows, layer)
        return x


class Output(nn.Module):
    """Norm and vocabulary projection: un-normed state (..., D) -> logits (..., V_s)."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.proj = nn.Linear(config.dim, config.vocab_size)

    def forward(self, state: Tensor) -> Tensor:
        """Maps states (..., D) to logits (..., V_s)."""
        return self.proj(self.norm(state))


def initialise(module: nn.Module, n_layers: int) -> None:
    """Draws weights for training from scratch: N(0, 0.02), residual outputs over sqrt(2 * n_layers), zero biases."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=INIT_STD / (2 * n_layers) ** 0.5 if is_residual else INIT_STD)
