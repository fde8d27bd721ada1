"""UTMOS: the published key names lead to the same network, and its parts are put together as published."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config

from vocalnet.decoder.keys import their_key
from vocalnet.metrics.utmos import KEYS, Utmos, UtmosNetwork

TINY = Wav2Vec2Config(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    conv_dim=(8,) * 7,
    num_conv_pos_embedding_groups=2,
    apply_spec_augment=False,
)
PUBLISHED = (  # of every kind of key one
    "wav2vec2.mask_emb",
    "wav2vec2.feature_extractor.conv_layers.0.0.weight",
    "wav2vec2.feature_extractor.conv_layers.0.2.bias",
    "wav2vec2.feature_extractor.conv_layers.6.0.weight",
    "wav2vec2.layer_norm.weight",
    "wav2vec2.post_extract_proj.bias",
    "wav2vec2.encoder.pos_conv.0.bias",
    "wav2vec2.encoder.pos_conv.0.weight_g",
    "wav2vec2.encoder.pos_conv.0.weight_v",
    "wav2vec2.encoder.layer_norm.weight",
    "wav2vec2.encoder.layers.1.self_attn.q_proj.weight",
    "wav2vec2.encoder.layers.1.self_attn_layer_norm.bias",
    "wav2vec2.encoder.layers.1.fc1.weight",
    "wav2vec2.encoder.layers.1.fc2.bias",
    "wav2vec2.encoder.layers.1.final_layer_norm.weight",
    "domain_emb",
    "judge_emb",
    "blstm.weight_ih_l0_reverse",
    "projection.0.weight",
    "projection.2.bias",
)


@pytest.fixture
def trained(tmp_path):
    """Random weights under their published names, and the network that they are of."""
    torch.manual_seed(0)
    network = UtmosNetwork(TINY).eval()
    with torch.no_grad():
        for weight in (network.domain_emb, network.judge_emb):
            weight.normal_()
    torch.save({their_key(key, KEYS): value for key, value in network.state_dict().items()}, tmp_path / "utmos.pt")
    return network, tmp_path / "utmos.pt"


def test_the_published_names_are_understood(trained):
    network, path = trained
    names = torch.load(path, weights_only=True)
    assert set(PUBLISHED) <= set(names)
    assert not [name for name in names if "attention" in name or "parametrizations" in name or "feed_forward" in name]
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    with torch.no_grad():
        want = network(torch.from_numpy(samples)[None]).item()
    assert Utmos(path, UtmosNetwork(TINY))(samples, 16_000) == pytest.approx(want, abs=1e-5)


def test_a_score_is_the_mean_over_time_of_what_the_parts_say(trained):
    network, _ = trained
    samples = torch.randn(1, 8000)
    with torch.no_grad():
        frames = network.wav2vec2(samples).last_hidden_state[0]
        rows = [torch.cat([frame, network.domain_emb[0], network.judge_emb[0]]) for frame in frames]
        scores = network.projection(network.blstm(torch.stack(rows)[None])[0])
        torch.testing.assert_close(network(samples), scores.mean()[None] * 2 + 3)


def test_other_rates_short_clips_and_wrong_files(trained, tmp_path):
    _, path = trained
    score = Utmos(path, UtmosNetwork(TINY))
    assert np.isfinite(score(np.ones(10, np.float32), 24_000))
    with pytest.raises(ValueError, match=r"utmos22_strong_step7459_v1\.pt"):
        Utmos(tmp_path / "none.pt")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"missing: .*wav2vec2\.encoder\.layers\.0\.fc1\.bias.*unexpected: fc\.weight"):
        Utmos(tmp_path / "other.pt", UtmosNetwork(TINY))
