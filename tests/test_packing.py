"""Weights on a grid: what rounding loses, and what a packed file holds."""

import zlib

import pytest
import torch
from safetensors.torch import load_file, save_file

import vocalnet
from vocalnet import packing
from vocalnet.checkpoint import load_component, save, save_component
from vocalnet.packing import LARGEST, pack, read_weights, round_weights, unpack
from vocalnet.vocoder.weights import read_state


@pytest.fixture
def linear() -> torch.nn.Linear:
    linear = torch.nn.Linear(300, 200)
    torch.nn.init.normal_(linear.weight, std=0.07, generator=torch.Generator().manual_seed(0))
    return linear


def test_rounded_weights_lose_little_and_stay_when_rounded_again(linear):
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    round_weights(linear, 11)
    error = (linear.weight - weight).square().mean().sqrt()
    assert 0 < error < 0.03 * 0.07  # a step of an eleventh of the deviation, over the root of 12
    assert torch.equal(linear.bias, bias)
    once = linear.weight.detach().clone()
    round_weights(linear, 11)
    assert torch.equal(linear.weight, once)
    torch.nn.init.ones_(linear.weight)
    round_weights(linear, 11)
    assert torch.equal(linear.weight, torch.ones_like(once))


def test_a_number_far_from_the_others_makes_coarser_steps(linear):
    linear.weight.data[0, 0] = 5.0
    round_weights(linear, 11)
    step = pack("weight", linear.weight.detach())["weight.step"].item()
    assert 5.0 / step <= LARGEST < 2 * 5.0 / step
    assert abs(linear.weight[0, 0].item() - 5.0) <= step / 2


def test_packed_files_hold_the_same_weights_in_a_third_of_the_bytes(linear, tmp_path):
    round_weights(linear, 11)
    sizes = {}
    for is_packed in (False, True):
        name = f"packed_{is_packed}"
        save_component(tmp_path, name, linear, torch.float32, is_packed)
        again = torch.nn.Linear(300, 200)
        load_component(tmp_path, name, again)
        assert torch.equal(again.weight, linear.weight)
        assert torch.equal(again.bias, linear.bias)
        file = (tmp_path / f"{name}.safetensors").read_bytes()
        sizes[is_packed] = len(file), len(zlib.compress(file))
    assert sizes[True][0] < 0.3 * sizes[False][0]
    assert sizes[True][1] < 0.75 * sizes[False][1]
    assert load_file(tmp_path / "packed_True.safetensors")["weight"].dtype == torch.int8


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(64, 64),  # not on a grid
        torch.cat([torch.full((5000,), 200.0), torch.ones(1)]),  # 200 steps
        torch.ones(10),
        torch.zeros(5000),
        torch.arange(5000),
    ],
)
def test_what_does_not_fit_into_8_bits_stays_as_it_is(value):
    assert pack("key", value) == {"key": value}


def test_only_packed_tensors_take_a_step():
    weights = {"a": torch.ones(2), "a.step": torch.tensor(2.0), "b": torch.ones(2, dtype=torch.int8)}
    assert unpack(weights) == weights


def test_every_reader_of_a_checkpoint_unpacks(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "GRID_FROM", 64)
    save(tiny_model, tmp_path, torch.float32)
    for name in ("talker", "flow", "hift"):
        path = tmp_path / f"{name}.safetensors"
        whole = {key: (value * 64).round() / 64 for key, value in load_file(path).items()}
        save_file(whole, path)
    plain = vocalnet.load(tmp_path)
    for name in ("talker", "flow", "hift"):
        path = tmp_path / f"{name}.safetensors"
        packed = {}
        for key, value in read_weights(path).items():
            packed |= pack(key, value)
        save_file(packed, path)
        assert any(value.dtype == torch.int8 for value in load_file(path).values()), name
    again = vocalnet.load(tmp_path)
    for key, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    talker = vocalnet.load_talker(tmp_path)
    for key, value in plain.talker.state_dict().items():
        assert torch.equal(talker.state_dict()[key].float(), value.float()), key
    assert all(value.is_floating_point() for value in read_state(tmp_path, "flow").values())
