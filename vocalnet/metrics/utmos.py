"""UTMOS (strong learner), a predictor of the mean opinion score, 1 to 5: what the paper scores speech by.

Source: Saeki et al., "UTMOS: UTokyo-SaruLab system for VoiceMOS Challenge 2022"; wav2vec 2.0, embeddings of data set
and listener, a bidirectional LSTM and two layers, averaged over time. Its weights are not ours to ship: give the file
utmos22_strong_step7459_v1.pt of github.com/tarepan/SpeechMOS. Its key names are mapped here onto transformers' wav2vec
2.0; no such file was at hand, so what is proved is the mapping, not the scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from vocalnet import shards
from vocalnet.audio import SAMPLE_RATE_HZ, resample
from vocalnet.decoder.keys import Table, check_keys, our_key

MIN_SAMPLES = 400  # what wav2vec 2.0 makes one frame of; shorter clips are padded with silence
N_EMBEDDING, N_LSTM, N_HIDDEN = 128, 512, 2048

KEYS: Table = (
    ("wav2vec2.mask_emb", "wav2vec2.masked_spec_embed"),
    ("wav2vec2.feature_extractor.conv_layers.{i}.0.weight", "wav2vec2.feature_extractor.conv_layers.{i}.conv.weight"),
    (
        "wav2vec2.feature_extractor.conv_layers.{i}.2.{rest}",
        "wav2vec2.feature_extractor.conv_layers.{i}.layer_norm.{rest}",
    ),
    ("wav2vec2.layer_norm.{rest}", "wav2vec2.feature_projection.layer_norm.{rest}"),
    ("wav2vec2.post_extract_proj.{rest}", "wav2vec2.feature_projection.projection.{rest}"),
    ("wav2vec2.encoder.pos_conv.0.bias", "wav2vec2.encoder.pos_conv_embed.conv.bias"),
    (
        "wav2vec2.encoder.pos_conv.0.weight_g",
        "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    ),
    (
        "wav2vec2.encoder.pos_conv.0.weight_v",
        "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    ),
    (
        "wav2vec2.encoder.layers.{i}.self_attn_layer_norm.{rest}",
        "wav2vec2.encoder.layers.{i}.layer_norm.{rest}",
    ),
    ("wav2vec2.encoder.layers.{i}.self_attn.{rest}", "wav2vec2.encoder.layers.{i}.attention.{rest}"),
    ("wav2vec2.encoder.layers.{i}.fc1.{rest}", "wav2vec2.encoder.layers.{i}.feed_forward.intermediate_dense.{rest}"),
    ("wav2vec2.encoder.layers.{i}.fc2.{rest}", "wav2vec2.encoder.layers.{i}.feed_forward.output_dense.{rest}"),
)


class UtmosNetwork(nn.Module):
    """The network: samples (B, n) at 16 kHz to scores (B,)."""

    def __init__(self, config: Wav2Vec2Config | None = None) -> None:
        super().__init__()
        config = config or Wav2Vec2Config(apply_spec_augment=False)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.domain_emb = nn.Parameter(torch.zeros(1, N_EMBEDDING))
        self.judge_emb = nn.Parameter(torch.zeros(1, N_EMBEDDING))
        self.blstm = nn.LSTM(config.hidden_size + 2 * N_EMBEDDING, N_LSTM, batch_first=True, bidirectional=True)
        self.projection = nn.Sequential(nn.Linear(2 * N_LSTM, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """Scores samples (B, n)."""
        frames = self.wav2vec2(samples).last_hidden_state  # (B, T, D)
        B, T, _ = frames.shape
        context = torch.cat([self.domain_emb, self.judge_emb], 1).expand(B, T, -1)  # (B, T, 2 * N_EMBEDDING)
        scores = self.projection(self.blstm(torch.cat([frames, context], 2))[0])  # (B, T, 1), about -1 to 1
        return 3 + 2 * scores.mean((1, 2))  # (B,)


class Utmos:
    """The predictor with its weights.

    Args:
        path: the weights, .pt or .safetensors.
        network: to be filled with them; None: of the published size.

    Raises:
        ValueError: there is no such file, or its keys are others.
    """

    def __init__(self, path: str | Path, network: UtmosNetwork | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"There are no UTMOS weights {path}. Give SpeechMOS's utmos22_strong_step7459_v1.pt.")
        self.network = network or UtmosNetwork()
        weights = {our_key(key, KEYS) or "": value for key, value in shards.tensors([path], lambda key: True)}
        check_keys(self.network.state_dict(), weights, str(path), KEYS)
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, samples: np.ndarray, sample_rate_hz: int) -> float:
        """Scores samples (n,)."""
        mono = resample(samples, sample_rate_hz, SAMPLE_RATE_HZ).astype(np.float32)
        padded = np.pad(mono, (0, max(0, MIN_SAMPLES - len(mono))))
        return float(self.network(torch.from_numpy(padded)[None])[0])
