"""nano's speech tokenizer: 16 kHz speech -> 25 Hz tokens by finite scalar quantisation (FSQ, arXiv 2309.15505).

It stands where the released models use CosyVoice 2's supervised tokenizer (an ONNX file, prompt.py), and is trained
alike: an encoder whose quantised states must still tell the words, here besides reconstructing the mel. Unlike that one
it is purely convolutional, so a token depends on about half a second of speech only and any length works.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.config import SpeechTokenizerConfig

FRAMES_PER_TOKEN = 4  # 100 Hz log-mel


class ConvBlock(nn.Module):
    """Depthwise convolution, then a pointwise MLP, with a residual (ConvNeXt); (B, D, T) -> (B, D, T)."""

    def __init__(self, dim: int, ffn_dim: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, ffn_dim)
        self.down = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).transpose(1, 2))  # (B, T, D)
        return x + self.down(functional.gelu(self.up(y))).transpose(1, 2)


class FiniteScalarQuantizer(nn.Module):
    """Rounds each of a few bounded dimensions to an odd number of levels; gradients pass straight through."""

    levels: Tensor
    bases: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        assert all(level % 2 for level in levels), "odd level counts keep zero in the middle"
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        bases = torch.tensor((1, *levels[:-1])).cumprod(0)
        self.register_buffer("bases", bases, persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns quantised values in [-1, 1] and code numbers (...,) of unbounded z (..., n_dims)."""
        half = (self.levels - 1) / 2
        bounded = torch.tanh(z) * half * 1.001
        rounded = bounded + (bounded.round() - bounded).detach()
        codes = ((rounded.detach() + half).round().long() * self.bases).sum(-1)
        return rounded / half, codes

    def values(self, codes: Tensor) -> Tensor:
        """Returns the quantised values (..., n_dims) of code numbers (...,)."""
        half = (self.levels - 1) / 2
        return ((codes[..., None] // self.bases) % self.levels - half) / half


class SpeechTokenizer(nn.Module):
    """Whisper log-mel (B, n_mels, T_a) at 100 Hz -> speech tokens (B, ceil(T_a / 4)) at 25 Hz."""

    def __init__(self, config: SpeechTokenizerConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.n_mels, config.dim, 4, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            ConvBlock(config.dim, config.ffn_dim, config.kernel) for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.project = nn.Linear(config.dim, len(config.levels))
        self.quantizer = FiniteScalarQuantizer(config.levels)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Returns quantised values (B, T, n_dims) and codes (B, T), T = ceil(T_a / 4)."""
        mel = functional.pad(mel, (0, -mel.shape[-1] % FRAMES_PER_TOKEN))
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel))))  # (B, D, T)
        for block in self.blocks:
            x = block(x)
        return self.quantizer(self.project(self.norm(x.transpose(1, 2))))

    @torch.no_grad()
    def tokenize(self, mel: Tensor) -> Tensor:
        """Returns the speech tokens (B, T) of log-mels (B, n_mels, T_a)."""
        return self(mel)[1]
