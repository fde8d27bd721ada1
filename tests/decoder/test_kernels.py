"""Kernels compute what `F.linear` computes, and a prepared talker decodes the same tokens and can be saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vocalnet.decoder.kernels import PackedLinear, use_kernel
from vocalnet.decoder.load import load_talker, save_talker
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def talker(make_talker) -> Talker:
    return make_talker().requires_grad_(False)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 70])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_agrees_with_the_plain_one(dtype, n, bias):
    torch.manual_seed(0)
    linear = nn.Linear(48, 72, bias=bias).to(dtype)
    x = torch.randn(2, n, 48, dtype=dtype)
    with torch.no_grad():
        expected = linear(x)
        found = PackedLinear(linear)(x)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_packed_layer_saves_its_plain_weight():
    linear = nn.Linear(48, 72)
    state = PackedLinear(linear).state_dict()
    assert torch.equal(state["weight"], linear.weight)
    assert torch.equal(state["bias"], linear.bias)


@pytest.mark.parametrize("mask", ["full", "streaming"])
def test_a_packed_talker_decodes_the_same_tokens(talker, mask):
    hidden = torch.randn(1, 7, talker.config.llm_dim, generator=torch.Generator().manual_seed(1))
    packed = copy.deepcopy(talker)
    use_kernel(packed, "packed")
    assert not any(isinstance(layer, nn.Linear) for layer in packed.modules())
    for K in (1, 3):
        options = DecodeOptions(tokens_per_step=K, mask=mask, max_tokens=30)
        assert torch.equal(packed.generate(hidden, options), talker.generate(hidden, options))


def test_a_packed_talker_can_be_saved_and_loaded(talker, tmp_path):
    expected = {key: value.clone() for key, value in talker.state_dict().items()}
    use_kernel(talker, "packed")
    save_talker(talker, tmp_path)
    again = load_talker(tmp_path).state_dict()
    assert set(again) == set(expected)
    assert all(torch.equal(again[key], value) for key, value in expected.items())


def test_int8_layers_stay_close_to_the_plain_ones():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(48, 72)).eval()
    x = torch.randn(1, 3, 48)
    with torch.no_grad():
        expected = layers(x)
        use_kernel(layers, "int8")
        error = (layers(x) - expected).abs().max() / expected.abs().max()
    assert 0 < error < 0.03


def test_an_int8_talker_decodes(talker):
    use_kernel(talker, "int8")
    assert not any(type(layer) is nn.Linear for layer in talker.modules())
    hidden = torch.randn(1, 7, talker.config.llm_dim)
    tokens = talker.generate(hidden, DecodeOptions(tokens_per_step=3, max_tokens=9, min_tokens=9))
    assert len(tokens) == 9


def test_kernels_that_cannot_be_used_say_so(talker):
    with pytest.raises(ValueError, match="available: plain, packed, int8"):
        use_kernel(talker, "fast")
    with pytest.raises(ValueError, match="float32"):
        use_kernel(talker.bfloat16(), "int8")
