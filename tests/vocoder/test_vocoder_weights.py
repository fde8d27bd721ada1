"""Weights of the released layout load in every style, and wrong ones are named."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vocalnet.config import FlowConfig, HiftConfig
from vocalnet.vocoder.flow import Flow
from vocalnet.vocoder.hift import Hift
from vocalnet.vocoder.token2wav import load_token2wav
from vocalnet.vocoder.weights import NORMED, load_weights


@pytest.mark.parametrize(
    ("name", "build"), [("flow", lambda: Flow(FlowConfig())), ("hift", lambda: Hift(HiftConfig()))]
)
def test_released_layout(golden_folder, name, build):
    """Keys and shapes of our default sizes are CosyVoice2-0.5B's, one by one."""
    expected = json.loads((golden_folder / "cosyvoice2_keys.json").read_text())[name]
    with torch.device("meta"):
        state = build().state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == expected


def old_style(state):
    return {key.replace(f"{NORMED}0", "weight_g").replace(f"{NORMED}1", "weight_v"): t for key, t in state.items()}


def fused(state, config):
    hift = Hift(config)
    hift.load_state_dict(state)
    hift.fuse_weight_norm()
    return hift.state_dict()


@pytest.mark.parametrize("style", ["new", "old", "fused", "prefixed", "pt"])
def test_every_weight_norm_style(golden_folder, token2wav, inputs, official, tmp_path, style):
    state = load_file(golden_folder / "hift.safetensors")
    styles = {
        "old": lambda: old_style(state),
        "fused": lambda: fused(state, token2wav.hift_config),
        "prefixed": lambda: {f"generator.{key}": tensor for key, tensor in state.items()},
    }
    state = styles.get(style, lambda: state)()
    for name in ("config.json", "flow.safetensors"):
        (tmp_path / name).symlink_to(golden_folder / name)
    if style == "pt":
        torch.save(state, tmp_path / "hift.pt")
    else:
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "hift.safetensors")
    wave, _ = load_token2wav(tmp_path).vocode(inputs["hift_mel"], inputs["hift_source"])
    torch.testing.assert_close(wave, official["wave"], atol=2e-4, rtol=0)


def test_wrong_weights_are_named(golden_folder):
    state = load_file(golden_folder / "hift.safetensors")
    hift = Hift(HiftConfig(base_channels=32, f0_channels=24))
    state["conv_pro.bias"] = state.pop("conv_pre.bias")
    state["conv_post.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"missing: conv_pre\.bias.*unexpected: conv_pro\.bias.*conv_post\.bias"):
        load_weights(hift, state, "HiFT")


def test_missing_file(tmp_path):
    (tmp_path / "config.json").write_text('{"flow": {"vocab_size": 9}}')
    with pytest.raises(ValueError, match=r"neither flow\.safetensors nor flow\.pt"):
        load_token2wav(tmp_path)


def test_unknown_config_key(tmp_path):
    (tmp_path / "config.json").write_text('{"hift": {"base_chanels": 9}}')
    with pytest.raises(ValueError, match="did you mean 'base_channels'"):
        load_token2wav(tmp_path)


def test_loaded_model_is_ready_for_inference(token2wav):
    assert not token2wav.training
    assert not any(p.requires_grad for p in token2wav.parameters())
    assert token2wav.sample_rate_hz == 24_000
    assert not any("parametrizations" in key for key in token2wav.hift.state_dict())
