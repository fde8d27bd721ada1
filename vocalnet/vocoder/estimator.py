"""Velocity estimator of the flow: a causal 1-D "U-Net" with a single level, so that nothing is down- or upsampled.

CosyVoice 2, section 2.3, and its released checkpoints; attribute names are those of the released state dict.

Letters: B batch, C channels, N mel frames, H heads, d head width, E width of the time embedding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.config import EstimatorConfig
from vocalnet.decoder.backbone import JoinedLinear, attention_bias
from vocalnet.vocoder.causal import CausalConv1d, PassCache, RowConv1d, attend, attention_mask, merge_heads

TIME_SCALE = 1000.0  # flow time 0..1 is embedded like a diffusion step 0..1000
MEAN_LOG_MEL = -5.0  # of speech, natural log
MISH_LINEAR_FROM = 20.0  # mish(x) is x in float32 from here on
TIME_WIDTH = 4  # width of the time embedding, in channels


def time_sinusoids(t: Tensor, dim: int) -> Tensor:
    """Returns sinusoids of flow times in 0..1, sines first: (B,) -> (B, dim)."""
    half = dim // 2
    frequency = torch.exp(torch.arange(half, dtype=t.dtype, device=t.device) * -(math.log(10000.0) / (half - 1)))
    angle = TIME_SCALE * t[:, None] * frequency  # (B, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)  # (B, dim)


def mish(x: Tensor) -> Tensor:
    """Returns x * tanh(softplus(x)); for inference on a CPU from one exponential, a third of torch's time."""
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return functional.mish(x)
    e = x.clamp(max=MISH_LINEAR_FROM).exp_()
    w = (e + 2).mul_(e)  # tanh(log(1 + e)) = w / (w + 2)
    return torch.div(w, w + 2, out=e).mul_(x)


class FusedLinear(ABC):
    """A linear layer, of `decoder.kernels`, that can do what follows in the same operator."""

    @abstractmethod
    def gelu(self, x: Tensor) -> Tensor:
        """Maps x (..., C_in) to the exact GELU of the product (..., C)."""

    @abstractmethod
    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Maps x (..., C_in) to the product plus `residual` (..., C)."""


def linear_plus(linear: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """Linear, added to `residual` (..., C): (..., C_in) -> (..., C)."""
    return linear.plus(x, residual) if isinstance(linear, FusedLinear) else residual + linear(x)


class TimeEmbedding(nn.Module):
    """Sinusoids -> time embedding: (B, in_dim) -> (B, E)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(functional.silu(self.linear_1(x)))


class CausalBlock(nn.Module):
    """Causal convolution, LayerNorm over channels, Mish: (B, N, C_in) -> (B, N, C)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        # Indices of the released sequence, whose other members have no parameters.
        self.block = nn.ModuleDict({"0": CausalConv1d(in_channels, channels, 3), "2": nn.LayerNorm(channels)})

    def forward(self, x: Tensor, cache: PassCache | None) -> Tensor:
        return mish(self.block["2"](self.block["0"](x, cache)))  # (B, N, C)


class ResnetBlock(nn.Module):
    """Two causal blocks with the time added between: (B, N, C_in) -> (B, N, C)."""

    def __init__(self, in_channels: int, channels: int, time_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, channels))
        self.block1 = CausalBlock(in_channels, channels)
        self.block2 = CausalBlock(channels, channels)
        self.res_conv = RowConv1d(in_channels, channels, 1)

    def forward(self, x: Tensor, shift: Tensor, cache: PassCache | None) -> Tensor:
        """`shift` (B, 1, C): the time embedding through `mlp`."""
        hidden = self.block1(x, cache).add_(shift)  # (B, N, C)
        return self.block2(hidden, cache).add_(self.res_conv(x))


class Attention(nn.Module):
    """Self-attention without positions: (B, N, C) -> (B, N, C)."""

    SAME_INPUT: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v")

    def __init__(self, dim: int, n_heads: int, head_dim: int) -> None:
        super().__init__()
        self.joined: JoinedLinear | None = None
        self.n_heads = n_heads
        self.to_q = nn.Linear(dim, n_heads * head_dim, bias=False)
        self.to_k = nn.Linear(dim, n_heads * head_dim, bias=False)
        self.to_v = nn.Linear(dim, n_heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(n_heads * head_dim, dim))

    def forward(self, x: Tensor, residual: Tensor, mask: Tensor | None, cache: PassCache | None) -> Tensor:
        """`residual` (B, N, C) is added; `mask` as in `causal.attend`."""
        if self.joined is None:
            rows = torch.cat([self.to_q(x), self.to_k(x), self.to_v(x)], dim=-1)  # (B, N, 3 * H * d)
        else:
            rows = self.joined(x)
        heads = rows.unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, N, d)
        key, value = heads[1:] if cache is None else cache.append(self, heads[1:])  # (B, H, N_k, d) each
        return linear_plus(self.to_out[0], merge_heads(attend(heads[0], key, value, mask)), residual)  # (B, N, C)


class GeluLinear(nn.Module):
    """Linear, then exact GELU: (B, N, C) -> (B, N, hidden)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj.gelu(x) if isinstance(self.proj, FusedLinear) else functional.gelu(self.proj(x))


class TransformerFeedForward(nn.Module):
    """Feed-forward of four times the width: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GeluLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """`residual` (B, N, C) is added."""
        return linear_plus(self.net[2], self.net[0](x), residual)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, n_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, n_heads, head_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = TransformerFeedForward(dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache: PassCache | None) -> Tensor:
        x = self.attn1(self.norm1(x), x, mask, cache)
        return self.ff(self.norm3(x), x)


class Stage(nn.ModuleList):
    """A resnet, transformer blocks and, at the outer stages, a convolution: (B, N, C_in) -> twice (B, N, C)."""

    def __init__(self, config: EstimatorConfig, in_channels: int, has_conv: bool) -> None:
        dim = config.channels[0]
        blocks = (TransformerBlock(dim, config.num_heads, config.attention_head_dim) for _ in range(config.n_blocks))
        parts = [ResnetBlock(in_channels, dim, TIME_WIDTH * dim), nn.ModuleList(blocks)]
        super().__init__([*parts, CausalConv1d(dim, dim, 3)] if has_conv else parts)
        self.has_conv = has_conv

    def forward(self, x: Tensor, shift: Tensor, mask: Tensor | None, cache: PassCache | None) -> tuple[Tensor, Tensor]:
        """Returns the frames before the convolution, which the U-Net's skip carries, and after it."""
        x = self[0](x, shift, cache)  # (B, N, C)
        for block in self[1].children():
            x = block(x, mask, cache)
        return x, self[2](x, cache) if self.has_conv else x


class Estimator(nn.Module):
    """Velocity of the flow at (x, t), given mu, speaker and prompt mel: (B, n_mels, N)."""

    def __init__(self, config: EstimatorConfig, n_mels: int) -> None:
        super().__init__()
        if len(config.channels) != 1 or config.in_channels != 4 * n_mels:
            raise ValueError(
                f"estimator: channels must hold one width and in_channels be 4 * n_mels = {4 * n_mels}; got "
                f"channels {config.channels}, in_channels {config.in_channels}. Correct them in config.json."
            )
        dim = config.channels[0]
        self.time_dim = config.in_channels

        self.time_mlp = TimeEmbedding(config.in_channels, TIME_WIDTH * dim)
        self.down_blocks = nn.ModuleList([Stage(config, config.in_channels, has_conv=True)])
        self.mid_blocks = nn.ModuleList(Stage(config, dim, has_conv=False) for _ in range(config.num_mid_blocks))
        self.up_blocks = nn.ModuleList([Stage(config, 2 * dim, has_conv=True)])
        self.final_block = CausalBlock(dim, dim)
        self.final_proj = RowConv1d(dim, n_mels, 1)
        with torch.no_grad():  # where a training from scratch starts: the mean velocity from noise to speech
            self.final_proj.get_parameter("bias").fill_(MEAN_LOG_MEL)

    def forward(
        self,
        x: Tensor,
        mu: Tensor,
        t: Tensor,
        spk: Tensor,
        cond: Tensor,
        lengths: Tensor | None = None,
        chunk: int | None = None,
        cache: PassCache | None = None,
    ) -> Tensor:
        """Returns the velocity of the frames after those in `cache`, (B, n_mels, N).

        Everything but attention is causal, so padding on the right needs a mask only there.

        Args:
            x, mu, cond: noisy mel, encoder output and prompt mel, each (B, n_mels, N).
            t: flow time in 0..1, (B,).
            spk: projected speaker vector (B, n_mels).
            lengths: valid frames (B,); None: all.
            chunk: attention sees whole chunks of so many frames and all before; None: everything.
            cache: with a cache, x must start at a multiple of `chunk`.
        """
        _, _, N = x.shape
        mask = attention_mask(N, cache.n_seen if cache else 0, chunk, lengths, x.device)
        bias = None if mask is None else attention_bias(mask, x.dtype)
        first, *later = self._shifts(t) if cache is None else cache.once(self, lambda: self._shifts(t))
        x = torch.cat([x, mu, spk[..., None].expand(-1, -1, N), cond], dim=1).transpose(1, 2)  # (B, N, 4 n_mels)
        skip, x = self.down_blocks[0](x, first, bias, cache)  # (B, N, C) each
        for stage, shift in zip(self.mid_blocks, later[:-1], strict=True):
            x, _ = stage(x, shift, bias, cache)
        _, x = self.up_blocks[0](torch.cat([x, skip], dim=2), later[-1], bias, cache)
        x = self.final_block(x, cache)
        if cache is not None:
            cache.n_seen += N
        return self.final_proj(x).transpose(1, 2)  # (B, n_mels, N)

    def _shifts(self, t: Tensor) -> list[Tensor]:
        """Returns what each stage's resnet adds at flow times (B,): (B, 1, C) each."""
        time = self.time_mlp(time_sinusoids(t, self.time_dim))  # (B, E)
        return [stage[0].mlp(time)[:, None] for stage in (*self.down_blocks, *self.mid_blocks, *self.up_blocks)]
