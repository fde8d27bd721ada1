"""Speech encoder of the Whisper architecture: log-mel (B, n_mels, T_a) -> (B, T_e, D_e), T_e = ceil(T_a / 2).

The layers are transformers' WhisperEncoder under their own key names; the forward pass is ours, since Whisper's accepts
only whole windows. Clips shorter than the window may be encoded at their own length (nano), batches of them are masked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from vocalnet.config import EncoderConfig

MEL_RATE_HZ = 100  # hop 160 at 16 kHz
CONV_STRIDE = 2


def whisper_config(config: EncoderConfig) -> WhisperConfig:
    """Returns the transformers config of an encoder (its decoder part is never built)."""
    config_class: Any = WhisperConfig  # its signature leaves out what all configs take
    return config_class(
        num_mel_bins=config.n_mels,
        d_model=config.dim,
        encoder_layers=config.n_layers,
        encoder_attention_heads=config.n_heads,
        encoder_ffn_dim=config.ffn_dim,
        max_source_positions=round(config.window_s * MEL_RATE_HZ / CONV_STRIDE),
        attn_implementation="sdpa",
    )


class SpeechEncoder(nn.Module):
    """Whisper's encoder for whole windows and for shorter clips."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.whisper = WhisperEncoder(whisper_config(config))

    @property
    def max_frames(self) -> int:
        """Mel frames of one window."""
        return self.whisper.max_source_positions * CONV_STRIDE

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns encoder states (B, T_e, D_e); arguments of `layer_states`."""
        return self.layer_states(mel, lengths)[-1]

    def layer_states(self, mel: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """Returns normed states (B, T_e, D_e) after every layer, of log-mels (B, n_mels, T_a) of at most one window.

        Args:
            mel: log-mel frames, 100 per second, zero where a clip is padded.
            lengths: (B,) valid mel frames of each clip; None: all. States past a clip's end are meaningless, and its
                valid states do not depend on its batch mates.
        """
        B, _, T_a = mel.shape
        assert T_a <= self.max_frames, f"{T_a} mel frames do not fit into a window of {self.max_frames}"
        encoder = self.whisper
        x = functional.gelu(encoder.conv1(mel))  # (B, D_e, T_a)
        mask = None
        if lengths is not None:
            x = x * (torch.arange(T_a, device=mel.device) < lengths[:, None])[:, None]
            T_e = (T_a + 1) // CONV_STRIDE
            visible = torch.arange(T_e, device=mel.device) < ((lengths + 1) // CONV_STRIDE)[:, None]  # (B, T_e)
            mask = torch.zeros(B, 1, 1, T_e, dtype=x.dtype, device=x.device)
            mask = mask.masked_fill(~visible[:, None, None], torch.finfo(x.dtype).min)
            mask = mask.expand(B, 1, T_e, T_e)
        x = functional.gelu(encoder.conv2(x)).transpose(1, 2)  # (B, T_e, D_e)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        x = functional.dropout(x, encoder.dropout, self.training)
        states = []
        for layer in encoder.layers:
            x = layer(x, mask)
            states.append(encoder.layer_norm(x))
        return states
