"""Kernels compute what `F.linear` computes, and a prepared talker decodes the same tokens and can be saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vocalnet.decoder import kernels
from vocalnet.decoder.backbone import JoinedLinear
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.kernels import PackedLinear, use_kernel
from vocalnet.decoder.load import load_talker, save_talker
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker
from vocalnet.vocoder.estimator import FusedLinear, GeluLinear, linear_plus

multiply = torch.fbgemm_linear_fp16_weight_fp32_activation
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def pack_all(monkeypatch) -> None:
    """Narrow layers are not packed; here they show that it is right."""
    monkeypatch.setattr(kernels, "PACKED_FROM", 0)


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


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("n", [1, 70])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_fuses_what_follows_it(is_half, n, bias):
    torch.manual_seed(0)
    linear = nn.Linear(48, 72, bias=bias)
    if is_half:
        linear = linear.half().float()  # loses nothing in half precision, which few rows then use
    packed = PackedLinear(linear)
    assert isinstance(packed, FusedLinear)
    assert (packed._half is not None) == is_half
    x, residual = 3 * torch.randn(2, n, 48), torch.randn(2, n, 72)
    before = residual.clone()
    layer = GeluLinear(48, 72)
    found = []
    with torch.no_grad():
        for layer.proj in (packed, linear):
            found.append(torch.stack([layer(x), linear_plus(layer.proj, x, residual)]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(residual, before)


def test_a_packed_layer_saves_its_plain_weight():
    linear = nn.Linear(48, 72)
    state = PackedLinear(linear).state_dict()
    assert torch.equal(state["weight"], linear.weight)
    assert torch.equal(state["bias"], linear.bias)


def test_a_packed_layer_is_counted_and_stays_where_it_is():
    packed = PackedLinear(nn.Linear(48, 72))
    assert sum(p.numel() for p in packed.parameters()) == 48 * 72 + 72
    assert packed.float().weight.dtype == torch.float32
    with pytest.raises(ValueError, match='kernel="plain"'):
        packed.bfloat16()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("mask", ["full", "streaming"])
@pytest.mark.parametrize("is_half", [False, True])
def test_a_packed_talker_decodes_the_same_tokens(make_talker, head, mask, is_half):
    talker = make_talker(head).requires_grad_(False)
    if is_half:
        talker = talker.half().float()
    hidden = torch.randn(1, 7, talker.config.llm_dim, generator=torch.Generator().manual_seed(1))
    packed = copy.deepcopy(talker)
    use_kernel(packed, "packed")
    assert not any(isinstance(layer, nn.Linear) for layer in packed.modules())
    for K in {talker.head.stride, talker.head.n_heads}:
        options = DecodeOptions(tokens_per_step=K, mask=mask, max_tokens=30)
        assert torch.equal(packed.generate(hidden, options), talker.generate(hidden, options))


@pytest.mark.parametrize("kernel", ["packed", "int8"])
def test_preparing_twice_changes_nothing(talker, kernel):
    use_kernel(talker, kernel)
    before = list(talker.modules())
    use_kernel(talker, kernel)
    assert list(talker.modules()) == before


def test_layers_that_gain_nothing_stay_plain(talker, monkeypatch):
    monkeypatch.setattr(kernels, "PACKED_FROM", 32)
    use_kernel(talker, "packed")
    packed = {(layer.in_features, layer.out_features) for layer in talker.modules() if type(layer) is PackedLinear}
    plain = {(layer.in_features, layer.out_features) for layer in talker.modules() if type(layer) is nn.Linear}
    assert packed == {(32, 32), (32, 96), (48, 32), (32, 49)}
    assert plain == {(24, 32)}


def test_a_layer_that_is_exact_in_half_precision_uses_it_for_few_rows(monkeypatch):
    torch.manual_seed(0)
    linear = nn.Linear(48, 72).half().float().requires_grad_(False)
    packed = PackedLinear(linear)
    called = []
    monkeypatch.setattr(
        torch, "fbgemm_linear_fp16_weight_fp32_activation", lambda x, *rest: called.append(x) or multiply(x, *rest)
    )
    for n in (1, 3, kernels.HALF_ROWS, kernels.HALF_ROWS + 1):
        x = torch.randn(1, n, 48)
        torch.testing.assert_close(packed(x), linear(x))
    assert [len(x[0]) for x in called] == [1, 3, kernels.HALF_ROWS]
    assert torch.equal(packed.state_dict()["weight"], linear.weight)


def test_a_weight_that_half_precision_would_change_or_that_is_large_is_not_kept_in_it(monkeypatch):
    weight = torch.ones(8, 8)
    assert kernels.is_half(weight)
    assert not kernels.is_half(weight + 1e-5)
    assert not kernels.is_half(weight.bfloat16())
    monkeypatch.setattr(kernels, "HALF_UP_TO", 63)
    assert not kernels.is_half(weight)


@pytest.mark.parametrize("width", [0, 1000], ids=["packed", "plain"])
def test_joined_layers_are_saved_as_their_parts(talker, monkeypatch, width):
    monkeypatch.setattr(kernels, "PACKED_FROM", width)
    expected = {key: value.clone() for key, value in talker.state_dict().items()}
    use_kernel(talker, "packed")
    assert any(isinstance(part, JoinedLinear) for part in talker.modules())
    found = talker.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_weight_shared_with_an_embedding_is_not_held_twice():
    model = nn.ModuleDict({"table": nn.Embedding(72, 48), "inner": nn.Linear(48, 48), "out": nn.Linear(48, 72)})
    model["out"].weight = model["table"].weight
    use_kernel(model, "packed")
    assert [type(part) for part in model.values()] == [nn.Embedding, PackedLinear, nn.Linear]
    assert model["out"].weight is model["table"].weight


def test_without_the_operators_all_stays_plain(talker, monkeypatch):
    def missing(weight):
        raise AttributeError("_reorder_linear_weight")

    kernels._has_operators.cache_clear()
    monkeypatch.setattr(kernels, "_pack_weight", missing)
    use_kernel(talker, "packed")
    kernels._has_operators.cache_clear()
    assert not any(isinstance(layer, PackedLinear) for layer in talker.modules())


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


def test_an_int8_talker_decodes_and_cannot_be_saved(talker, tmp_path):
    use_kernel(talker, "int8")
    assert not any(type(layer) is nn.Linear for layer in talker.modules())
    hidden = torch.randn(1, 7, talker.config.llm_dim)
    tokens = talker.generate(hidden, DecodeOptions(tokens_per_step=3, max_tokens=9, min_tokens=9))
    assert len(tokens) == 9
    with pytest.raises(ValueError, match='kernel="packed"'):
        save_talker(talker, tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_kernels_that_cannot_be_used_say_so(talker):
    with pytest.raises(ValueError, match="available: plain, packed, int8"):
        use_kernel(talker, "fast")
    with pytest.raises(ValueError, match="float32"):
        use_kernel(talker.bfloat16(), "int8")
