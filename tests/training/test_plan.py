"""The memory planner's arithmetic, against tensors that really are kept, and the bench of a training step."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import tiny_config
from vocalnet.__main__ import app
from vocalnet.bench import PRESETS
from vocalnet.decoder.backbone import Block, Rows, rotation
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.talker import Talker
from vocalnet.llm import backbone, build_llm
from vocalnet.masks import attention_mask
from vocalnet.training import plan_check
from vocalnet.training.methods import equip
from vocalnet.training.plan import Shape, frozen_layer, llm_layer, plan, talker_block
from vocalnet.training.settings import Settings
from vocalnet.training.step_bench import bench_step, count_mask_operations, plain_mask

B, L = 2, 40


def _kept(forward, weights) -> float:
    """Returns the numbers that a pass keeps for its backward, per row, less what it keeps of its inputs."""
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = forward()
    assert held is not None
    return sum(size for size, _ in kept.values()) / 4 / (B * L)


def _settings(**changes) -> Settings:
    values = {
        "stage": 1,
        "method": "lora",
        "data": "",
        "output": "",
        "model": "x",
        "batch_per_device": 2,
        "batch_size": 2,
    }
    return Settings(**(values | changes))


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("method", ["frozen", "full", "lora", "lora without dropout"])
def test_an_llm_layer_keeps_what_the_plan_says(method, heads):
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
    }
    settings = _settings(method="full" if method == "full" else "lora", lora_rank=8)
    if method == "lora without dropout":
        settings = dataclasses.replace(settings, lora_dropout=0.0)
    mask = torch.ones(B, L, dtype=torch.long)
    mask[0, L // 2 :] = 0
    counted = []
    for n_layers in (1, 3):
        llm = build_llm({"model_type": "llama", "vocab_size": 300, "num_hidden_layers": n_layers, **sizes})
        model = equip_llm(llm, settings, method)
        x = torch.randn(B, L, 64, requires_grad=True)
        run = lambda llm=model, x=x: backbone(llm)(inputs_embeds=x, attention_mask=mask).last_hidden_state  # noqa: E731
        counted.append(_kept(run, model.parameters()))
    per_layer = (counted[1] - counted[0]) / 2
    config = model.config
    expected = frozen_layer(config, L) if method == "frozen" else llm_layer(config, L, settings)
    assert per_layer == pytest.approx(expected, rel=1e-6)


def equip_llm(llm, settings, method):
    """Returns an LLM as a method trains it."""
    from peft import LoraConfig, get_peft_model

    if method == "full":
        return llm.train()
    llm.requires_grad_(False)
    if method.startswith("lora"):
        config = LoraConfig(r=settings.lora_rank, lora_dropout=settings.lora_dropout, target_modules="all-linear")
        get_peft_model(llm, config)
    return llm.train()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_talkers_layer_keeps_what_the_plan_says(dropout):
    config = dataclasses.replace(tiny_config().talker, dim=64, ffn_dim=96, n_heads=4, dropout=dropout)
    block, x = Block(config).train(), torch.randn(B, L, 64, requires_grad=True)
    rows = Rows(*rotation(torch.arange(L)[None], 16, 1e4, torch.float32), torch.zeros(B, 1, L, L))
    kept = _kept(lambda: block(x, rows), [*block.parameters(), rows.cos, rows.sin, rows.bias])
    assert kept == pytest.approx(talker_block(config), rel=1e-6)


def test_weights_gradients_and_states_are_those_of_the_stage():
    for stage, method in ((1, "full"), (1, "lora"), (1, "experts"), (2, "full")):
        settings = _settings(stage=stage, method=method)
        planned = plan(tiny_config(), settings, Shape())
        prepared = equip(plan_check.VocalNet(tiny_config()), settings)
        weights = [*prepared.objective.parameters()]
        n_trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        assert (planned.n_trained, planned.gradients, planned.optimizer) == (n_trained, 4 * n_trained, 8 * n_trained)
        assert planned.weights == 4 * sum(weight.numel() for weight in weights)


def test_the_plan_knows_what_saves_memory():
    def peak(**changes) -> int:
        more = {key: changes.pop(key) for key in ("n_devices", "sharding") if key in changes}
        return plan(PRESETS["vocalnet-1b"], _settings(**changes), Shape(), **more).peak

    full, lora = peak(method="full"), peak()
    assert peak(method="qlora") < lora < peak(method="lisa") < full
    many = {"batch_per_device": 16, "batch_size": 16}
    assert peak(method="full", gradient_checkpointing=True, **many) < peak(method="full", **many)
    assert peak(method="full", sharding="fsdp", n_devices=8) < full < peak(method="full", n_devices=8)
    assert peak(dtype="bfloat16", bf16=True) < lora
    assert lora < peak(**many) < peak(**many, method="dora")
    with pytest.raises(ValueError, match="Available: none, fsdp, zero3"):
        peak(sharding="ddp")


def test_a_check_measures_a_run_in_its_own_process(monkeypatch):
    monkeypatch.setattr(plan_check, "_in_its_own_process", lambda name, device: 10**9)
    record = plan_check.check(["stage 1, lora"])
    cell = record["cells"][0]
    assert cell["error"] == pytest.approx(cell["planned"] / 1e9 - 1, abs=1e-4)
    assert record["worst"] == abs(cell["error"])
    assert (record["device"], record["bound"]) == ("cpu", 0.15)
    assert {"machine", "date", "commit"} <= set(record)


@pytest.mark.parametrize("name", plan_check.CASES)
def test_every_case_of_the_check_runs(name, monkeypatch):
    settings = dataclasses.replace(plan_check.settings_of(plan_check.CASES[name]), batch_per_device=2, lisa_layers=1)
    monkeypatch.setattr(plan_check, "STEPS", 1)
    plan_check.run(plan_check.sizes(32, 2), settings, Shape(0.5, 4, 8, 20), "cpu")


def test_the_command_plans(tmp_path):
    out = tmp_path / "plan.json"
    done = CliRunner().invoke(app, ["plan", "--llm", "nano", "--stage", "2", "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(out.read_text())
    assert json.loads(out.read_text())["peak"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_check_on_a_gpu_that_is_not_there_is_a_sentence():
    done = CliRunner().invoke(app, ["plan", "--check", "--device", "cuda"])
    assert done.exit_code == 2
    assert "There is no device 'cuda' here" in done.stderr


@pytest.mark.parametrize("rule", ["own", "paper"])
@pytest.mark.parametrize("stride", [1, 3])
def test_the_plain_masks_of_the_bench_are_the_same_masks(rule, stride):
    n_text, n_speech, streams = torch.tensor([5, 9, 3]), torch.tensor([7, 4, 12]), torch.tensor([True, False, True])
    arguments = (n_text, n_speech, streams, rule, 2, 3, 0, stride)
    assert torch.equal(plain_mask(*arguments), attention_mask(*arguments))


@pytest.mark.parametrize("head", HEADS)
def test_masks_take_as_many_operations_at_any_length(head):
    talker = Talker(dataclasses.replace(tiny_config().talker, head=head))
    counts = {count_mask_operations(talker, [text] * 2, [rows] * 2) for text, rows in ((3, 5), (40, 90), (90, 700))}
    assert len(counts) == 1
    assert counts.pop() < 120


def test_the_bench_times_both_ways_of_building_masks():
    record = bench_step(tiny_config().talker, "tiny", repeats=1)
    ours, plain = record["cells"]
    assert (ours["masks"], plain["masks"]) == ("ours", "plain")
    assert 0 < ours["mask_s"] < ours["step_s"]
    assert 0 < plain["mask_s"] < plain["step_s"]
    assert len(set(record["mask_operations"])) == 1
