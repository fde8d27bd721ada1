"""Token encoder of the flow: relative-position Transformer at 25 Hz, upsampling by two, four more layers at 50 Hz.

CosyVoice 2, section 2.3, and its released checkpoints: "conformer" in name only, there is no convolution module inside
the layers. Attribute names are those of the released state dict.

Letters: B batch, T tokens, N = ratio * T mel frames, D width, H heads, d = D / H.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.config import FlowEncoderConfig
from vocalnet.vocoder.causal import (
    CausalConv1d,
    PassCache,
    RowConv1d,
    attention_mask,
    length_mask,
    merge_heads,
    split_heads,
)

LOOKAHEAD = 3  # tokens that the first convolution sees ahead


def distance_table(n_queries: int, n_keys: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoids of every distance query - key, from n_keys - 1 down to -(n_queries - 1): (n_keys + n_queries - 1, D).

    Transformer-XL, section 3.3; sine and cosine are interleaved.
    """
    distance = torch.arange(n_keys - 1, -n_queries, -1, dtype=torch.float32, device=device)
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device=device) * -(math.log(10000.0) / dim))
    angle = distance[:, None] * frequency  # (n_keys + n_queries - 1, D / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (n_keys + n_queries - 1, D)


class RelativeAttention(nn.Module):
    """Self-attention with relative positions (Transformer-XL): (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(n_heads, dim // n_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(n_heads, dim // n_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, distances: Tensor, mask: Tensor | None, cache: PassCache | None) -> Tensor:
        _, N, _ = x.shape
        rows = {linear: linear(x) for linear in (self.linear_q, self.linear_k, self.linear_v)}  # (B, N, D)
        if cache is not None:
            rows |= {linear: cache.append(linear, rows[linear]) for linear in (self.linear_k, self.linear_v)}
        query, key, value = (split_heads(row, self.n_heads) for row in rows.values())  # (B, H, N or N_k, d)
        position = split_heads(self.linear_pos(distances)[None], self.n_heads)  # (1, H, N_k + N - 1, d)
        scores = (query + self.pos_bias_v[:, None]) @ position.transpose(2, 3)  # (B, H, N, N_k + N - 1)
        # Row i needs the distances from column N - 1 - i on: one zero column shifts each row by one more.
        shifted = functional.pad(scores, (1, 0)).flatten(2)[..., N:].view_as(scores)[..., : key.shape[2]]
        bias = shifted / math.sqrt(key.shape[-1])  # (B, H, N, N_k)
        if mask is not None:
            bias = bias.masked_fill(~mask, -torch.inf)
        attended = functional.scaled_dot_product_attention(query + self.pos_bias_u[:, None], key, value, bias)
        return self.linear_out(merge_heads(attended))  # (B, N, D)


class FeedForward(nn.Module):
    """Two linear layers with SiLU between: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(dim, hidden_dim)
        self.w_2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(functional.silu(self.w_1(x)))


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward: (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, n_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(dim, n_heads)
        self.feed_forward = FeedForward(dim, hidden_dim)
        self.norm_mha = nn.LayerNorm(dim, eps=1e-12)
        self.norm_ff = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, distances: Tensor, mask: Tensor | None, cache: PassCache | None) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), distances, mask, cache)
        return x + self.feed_forward(self.norm_ff(x))


class InputLayer(nn.Module):
    """Linear, LayerNorm, times sqrt(D); no absolute position is added. (B, N, D_in) -> (B, N, D)."""

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(input_dim, dim), nn.LayerNorm(dim))
        self.scale = math.sqrt(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * self.scale


class LookaheadLayer(nn.Module):
    """Convolutions that let each token see the next three, with a residual: (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = RowConv1d(dim, dim, LOOKAHEAD + 1)
        self.conv2 = CausalConv1d(dim, dim, 3)

    def forward(self, x: Tensor, context: Tensor | None, cache: PassCache | None) -> Tensor:
        """`context` (B, 3, D): the tokens after x; None: zeros."""
        ahead = functional.pad(x, (0, 0, 0, LOOKAHEAD)) if context is None else torch.cat([x, context], dim=1)
        hidden = functional.leaky_relu(self.conv1(ahead))  # (B, T, D)
        return x + self.conv2(hidden, cache)  # (B, T, D)


class UpsampleLayer(nn.Module):
    """Repeats each frame, then smooths: (B, T, D) -> (B, ratio * T, D)."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = CausalConv1d(dim, dim, 2 * ratio + 1)

    def forward(self, x: Tensor, cache: PassCache | None) -> Tensor:
        return self.conv(x.repeat_interleave(self.ratio, dim=1), cache)  # (B, N, D)


class UpsampleEncoder(nn.Module):
    """Embedded tokens (B, T, D_in) -> frames (B, ratio * T, D)."""

    def __init__(self, config: FlowEncoderConfig, input_dim: int, ratio: int) -> None:
        super().__init__()
        dim = config.output_size
        layer = (dim, config.attention_heads, config.linear_units)
        self.dim, self.ratio = dim, ratio
        self.embed = InputLayer(input_dim, dim)
        self.pre_lookahead_layer = LookaheadLayer(dim)
        self.encoders = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.num_blocks))
        self.up_layer = UpsampleLayer(dim, ratio)
        self.up_embed = InputLayer(dim, dim)
        self.up_encoders = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.num_up_blocks))
        self.after_norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        lengths: Tensor | None = None,
        chunk: int | None = None,
        cache: PassCache | None = None,
    ) -> Tensor:
        """Encodes the tokens after those in `cache`.

        Args:
            x: embedded tokens (B, T, D_in).
            context: the three tokens after x (B, 3, D_in), seen by the look-ahead only; None: zeros.
            lengths: valid tokens (B,), padding on the right; None: all.
            chunk: attention sees whole chunks of so many tokens and all before; None: everything.
            cache: with a cache, x must start at a multiple of `chunk`.
        """
        _, T, _ = x.shape
        n_past = cache.n_seen if cache else 0
        x = self.embed(x)  # (B, T, D)
        if lengths is not None:  # the look-ahead must see zeros after the end, as without padding
            x = x * length_mask(lengths, T)[..., None]
        x = self.pre_lookahead_layer(x, None if context is None else self.embed(context), cache)
        x = self._layers(self.encoders, x, n_past, chunk, lengths, cache)  # (B, T, D)
        x = self.up_layer(x, cache)  # (B, N, D)
        up_chunk = None if chunk is None else self.ratio * chunk
        up_lengths = None if lengths is None else self.ratio * lengths
        x = self._layers(self.up_encoders, self.up_embed(x), self.ratio * n_past, up_chunk, up_lengths, cache)
        if cache is not None:
            cache.n_seen += T
        return self.after_norm(x)

    def _layers(
        self,
        layers: nn.ModuleList,
        x: Tensor,
        n_past: int,
        chunk: int | None,
        lengths: Tensor | None,
        cache: PassCache | None,
    ) -> Tensor:
        """Runs one stack at one frame rate: (B, N, D) -> (B, N, D)."""
        _, N, _ = x.shape
        mask = attention_mask(N, n_past, chunk, lengths, x.device)
        distances = distance_table(N, n_past + N, self.dim, x.device).to(x.dtype)
        for layer in layers:
            x = layer(x, distances, mask, cache)
        return x
