"""Fine-tuning: every method learns and merges, and nothing depends on devices, batch mates or interruptions."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils.dataclasses import get_module_class_from_name
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback, WhisperConfig, WhisperForConditionalGeneration

import vocalnet
from tests.training.finetuning import losses, run_ranks, start, tiny_checkpoint, tiny_list, tiny_settings
from vocalnet.checkpoint import NANO
from vocalnet.training import checkpoints
from vocalnet.training.draws import lisa_layers, mask_name
from vocalnet.training.examples import Order, collate
from vocalnet.training.finetune import MERGED, examples, finetune, make_trainer
from vocalnet.training.methods import fill, prepare
from vocalnet.training.settings import METHODS, Settings, read_settings
from vocalnet.training.trainer import TRAINED, StageTrainer

TRIED = ("lora", "dora", "full", "lisa", "experts")


@pytest.fixture(autouse=True)
def _fresh_state():
    """No test sees the devices of another."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    assert PartialState._shared_state == {}


def _batch(prepared, settings):
    items = examples(prepared, settings, settings.data)
    return collate([items[0, i] for i in range(4)])


def _merges_to_what_it_computed(settings, merged):
    """Holds a run's merged checkpoint against its unmerged model; returns the batch's loss before and after."""
    unmerged = prepare(settings)
    batch = _batch(unmerged, settings)
    before = unmerged.objective.eval()(**batch)["loss"].item()
    fill(unmerged.trained, load_file(Path(settings.output) / TRAINED), "trained")
    after = unmerged.objective.eval()(**batch)["loss"].item()
    again = prepare(dataclasses.replace(settings, model=str(merged), method="full"))
    assert again.objective.eval()(**batch)["loss"].item() == pytest.approx(after, rel=1e-5, abs=1e-4)
    assert {name for name in again.objective.state_dict() if "lora" in name} == set()
    return before, after


@pytest.mark.parametrize("method", TRIED)
def test_a_method_lowers_the_loss_and_merges_to_what_it_computed(method, model, data, tmp_path):
    settings = tiny_settings(tmp_path, model, data, method=method, steps=8, save_every=8)
    merged = finetune(settings)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] - 0.15
    before, after = _merges_to_what_it_computed(settings, merged)
    assert after < before - 1


@pytest.mark.parametrize("method", ["lora", "dora", "full", "lisa"])
def test_a_method_goes_on_with_nano_on_its_data(method, tmp_path):
    sample = NANO / "sample" / "pairs.json"
    settings = tiny_settings(tmp_path, "nano", sample, method=method, steps=6, lr=5e-4, save_every=6)
    before, after = _merges_to_what_it_computed(settings, finetune(settings))
    assert after < before


def test_the_merged_checkpoint_answers_and_keeps_what_the_stage_did_without(model, data, question, tmp_path):
    answer = vocalnet.load(finetune(tiny_settings(tmp_path, model, data, steps=2))).respond(audio=question)
    assert answer.audio is not None


def test_a_run_in_half_precision_leaves_the_sound_as_it_was(model, data, tmp_path):
    merged = finetune(tiny_settings(tmp_path, model, data, dtype="bfloat16", steps=2))
    for name in ("flow", "hift", "speech_tokenizer"):
        assert (merged / f"{name}.safetensors").read_bytes() == (model / f"{name}.safetensors").read_bytes()
    assert load_file(merged / "llm.safetensors")["model.norm.weight"].dtype == torch.bfloat16


def test_qlora_merges_to_the_values_that_it_trained_with(model, data, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    settings = tiny_settings(tmp_path, model, data, method="qlora", steps=8, save_every=8)
    merged = finetune(settings)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] - 0.15
    unmerged = prepare(settings)
    fill(unmerged.trained, load_file(tmp_path / TRAINED), "trained")
    batch = _batch(unmerged, settings)
    again = prepare(tiny_settings(tmp_path, merged, data, method="full"))
    expected = unmerged.objective.eval()(**batch)["loss"]
    torch.testing.assert_close(again.objective.eval()(**batch)["loss"], expected, rtol=1e-4, atol=1e-3)


def test_qlora_without_bitsandbytes_says_so(model, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        prepare(tiny_settings(tmp_path, model, data, method="qlora"))


def test_a_run_starts_from_a_base_llm_and_a_whisper(model, data, tmp_path):
    whole = vocalnet.load(model, kernel="plain")
    whole.llm.save_pretrained(tmp_path / "llm")
    whole.tokenizer.save_pretrained(tmp_path / "llm")
    sizes = {
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "num_mel_bins": 80,
    }
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": 99}
    config = WhisperConfig(**sizes, **decoder, max_source_positions=100, pad_token_id=0, bos_token_id=1, eos_token_id=1)
    WhisperForConditionalGeneration(config).save_pretrained(tmp_path / "whisper")
    start = {"model": None, "llm": str(tmp_path / "llm"), "encoder": str(tmp_path / "whisper"), "family": "nano"}
    merged = vocalnet.load(
        finetune(dataclasses.replace(tiny_settings(tmp_path / "run", model, data, steps=2), **start))
    )
    assert merged.parts.talker is None
    assert merged.parts.encoder.window_s == 2.0
    written = load_file(tmp_path / "whisper" / "model.safetensors")["model.encoder.conv1.weight"]
    assert torch.equal(merged.encoder.whisper.conv1.weight, written)


@pytest.mark.parametrize("head", ["ntp", "group_linear", "group_trans", "mtp_parallel_linear", "mtp_deepseek"])
def test_stage_2_trains_a_fresh_talker_with_any_head(head, model, data, tmp_path):
    sizes = {"dim": 32, "ffn_dim": 64, "n_heads": 2, "n_projector_layers": 1, "n_layers": 1, "n_units": 27}
    ids = {"bos_id": 27, "sos_id": 28, "eos_id": 29, "pad_id": 30}
    talker = {"head": head, "mtp_num": 2, "dropout": 0.0, "loss_decay": 0.5, **sizes, **ids}
    settings = tiny_settings(
        tmp_path, model, data, stage=2, method="full", talker=talker, steps=4, save_every=4, gradient_checkpointing=True
    )
    merged = vocalnet.load(finetune(settings), dtype="float32")
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert merged.parts.talker.head == head
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    weights = merged.talker.head.weights(0.5)
    assert rows[0]["loss"] == pytest.approx(sum(w * rows[0][f"loss_head{k}"] for k, w in enumerate(weights)), rel=1e-5)
    assert rows[0]["entropy_head0"] > 0


@pytest.mark.parametrize("stage", [1, 2])
def test_a_samples_loss_does_not_depend_on_its_batch_mates(stage, model, data, tmp_path):
    settings = tiny_settings(tmp_path, model, data, stage=stage, method="full")
    prepared = prepare(settings)
    items, objective = examples(prepared, settings, settings.data), prepared.objective.eval()
    samples = [items[0, i] for i in (0, 3, 6)]
    together = objective(**collate(samples))["loss"]
    alone = sum(objective(**collate([sample]))["loss"] for sample in samples)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert len({len(sample["answer"]) for sample in samples}) > 1, "they must differ in length to prove anything"


@pytest.mark.parametrize(("stage", "method"), [(1, "lora"), (1, "lisa"), (2, "full")])
def test_two_processes_give_the_losses_of_one(stage, method, model, data, tmp_path):
    def run(name: str, **changes) -> None:
        finetune(tiny_settings(tmp_path / name, model, data, stage=stage, method=method, steps=4, **changes))

    run("one", batch_per_device=2)  # accumulates two batches
    run_ranks(2, lambda: run("two", batch_per_device=2))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert losses(tmp_path / "two", "entropy_head0") == pytest.approx(
        losses(tmp_path / "one", "entropy_head0"), abs=1e-5
    )
    one, two = (load_file(tmp_path / name / TRAINED) for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)


def _sharded_sums(settings: Settings, path: Path) -> None:
    """Writes this rank's loss and norm of gradients of a stage under torch's FSDP."""
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    prepared = prepare(settings)
    objective = prepared.objective
    for module in objective.modules():
        if type(module).__name__ in objective._no_split_modules:
            fully_shard(module)
    fully_shard(objective)
    batch = _batch(prepared, settings)
    rank = torch.distributed.get_rank()
    sums = objective(**{key: values[rank::2] for key, values in batch.items()})
    (sums["loss"] * torch.tensor(objective.heads())).sum().backward()
    norms = {n: p.grad.full_tensor().norm().item() for n, p in objective.named_parameters() if p.grad is not None}
    (path / f"{rank}.json").write_text(json.dumps({"loss": sums["loss"].tolist(), "norms": norms}))


@pytest.mark.parametrize("stage", [1, 2])
def test_a_sharded_stage_gives_the_losses_of_a_whole_one(stage, model, data, tmp_path):
    """accelerate shards on GPUs only; so torch's own fully_shard stands for it here, with the modules it would wrap."""
    settings = tiny_settings(tmp_path, model, data, stage=stage, method="full")
    run_ranks(2, lambda: _sharded_sums(settings, tmp_path))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    whole = prepare(settings)
    sums = whole.objective(**_batch(whole, settings))
    (sums["loss"] * torch.tensor(whole.objective.heads())).sum().backward()
    total = torch.tensor([rank["loss"] for rank in ranks]).sum(0)
    torch.testing.assert_close(total, sums["loss"].detach(), rtol=1e-5, atol=1e-5)
    for name, weight in whole.trained.items():
        assert ranks[0]["norms"][name] * 2 == pytest.approx(weight.grad.norm().item(), rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("stage", [1, 2])
def test_accelerate_finds_every_layer_that_a_sharded_run_wraps(stage, model, data, tmp_path):
    objective = prepare(tiny_settings(tmp_path, model, data, stage=stage, method="full")).objective
    names = objective._no_split_modules
    assert {"WhisperEncoderLayer", "LlamaDecoderLayer"} <= set(names)
    assert ("Block" in names) == (stage == 2)  # the talker's
    assert all(get_module_class_from_name(objective, name) is not None for name in names)


def _killed_at(settings: Settings, kind: str, n: int) -> None:
    """Trains, and is killed before its n-th batch or its n-th operation on the files of a checkpoint."""
    seen = {"batch": 0, "file": 0}

    def count(event: str) -> None:
        seen[event] += 1
        if event == kind and seen[event] == n:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple) -> None:
        is_write = event == "open" and "w" in str(arguments[1] or "")
        if (is_write or event in ("os.rename", "shutil.rmtree")) and "checkpoint-" in str(arguments[0]):
            count("file")

    sys.addaudithook(watch)
    begin = StageTrainer.training_step

    def training_step(self, *arguments):
        count("batch")
        return begin(self, *arguments)

    StageTrainer.training_step = training_step
    finetune(settings)


@pytest.mark.parametrize(("stage", "method"), [(1, "lisa"), (2, "full")])
def test_a_run_killed_at_five_moments_ends_as_an_uninterrupted_one(stage, method, data, tmp_path):
    """A save is five operations on files: weights, state of the run, seal written, seal in place, old ones removed."""
    model = tiny_checkpoint(tmp_path / "model", dropout=0.1)
    changes = {"stage": stage, "method": method, "steps": 14, "save_every": 2, "batch_per_device": 2, "keep": 1}
    finetune(tiny_settings(tmp_path / "calm", model, data, **changes))
    settings = tiny_settings(tmp_path / "killed", model, data, **changes)
    draws = random.Random(stage)
    moments = [("batch", draws.randint(5, 8)), ("file", draws.randint(1, 3)), ("batch", draws.randint(1, 4))]
    moments += [("file", draws.randint(4, 6)), ("file", draws.randint(2, 5))]
    for kind, n in moments:
        process = start(lambda kind=kind, n=n: _killed_at(settings, kind, n))
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (kind, n)
    finetune(settings)
    assert losses(tmp_path / "killed") == losses(tmp_path / "calm")
    assert len(losses(tmp_path / "calm")) == 14
    calm, killed = (load_file(tmp_path / name / TRAINED) for name in ("calm", "killed"))
    assert all(torch.equal(calm[key], killed[key]) for key in calm)


def test_a_run_goes_on_with_another_number_of_devices(model, data, tmp_path):
    whole = tiny_settings(tmp_path / "whole", model, data)
    finetune(whole)
    run_ranks(2, lambda: finetune(tiny_settings(tmp_path / "moved", model, data, batch_per_device=1)))
    checkpoints.remove(tmp_path / "moved" / "checkpoint-6")
    finetune(tiny_settings(tmp_path / "moved", model, data, batch_per_device=4))
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_dev_losses_count_every_sample_once_whatever_the_batches(model, data, tmp_path):
    rows = []
    for size in (4, 1):
        changes = {"stage": 2, "method": "full", "steps": 2, "dev": str(data), "batch_per_device": size}
        finetune(tiny_settings(tmp_path / str(size), model, data, **changes))
        lines = [json.loads(line) for line in (tmp_path / str(size) / "metrics.jsonl").read_text().splitlines()]
        measured = [line for line in lines if "eval_total" in line]
        assert len(measured) == 1
        rows.append(measured[0])
    names = [name for name in rows[0] if name.startswith("eval_")]
    assert {"eval_total", "eval_loss_head2", "eval_entropy_head0", "eval_accuracy_head1"} <= set(names)
    assert [rows[0][name] for name in names] == pytest.approx([rows[1][name] for name in names], abs=1e-4)


def test_no_damaged_or_half_written_checkpoint_is_chosen(tmp_path):
    for step in (2, 10, 9):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(bytes(100))
        checkpoints.seal(folder)
    assert checkpoints.newest(tmp_path).name == "checkpoint-10"
    damaged = bytearray(100)
    damaged[50] = 1
    (tmp_path / "checkpoint-10" / "weights").write_bytes(damaged)
    assert checkpoints.newest(tmp_path).name == "checkpoint-9"
    (tmp_path / "checkpoint-9" / "weights").write_bytes(bytes(99))
    assert checkpoints.newest(tmp_path).name == "checkpoint-2"
    (tmp_path / "checkpoint-2" / checkpoints.SEAL).write_text('{"weig')
    assert checkpoints.newest(tmp_path) is None


def test_pruning_keeps_the_newest_sealed_and_what_is_being_written(tmp_path):
    for step in range(1, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step not in (1, 5):
            checkpoints.seal(tmp_path / f"checkpoint-{step}")
    checkpoints.prune(tmp_path / "checkpoint-4", keep=2)
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-4", "checkpoint-3"]


def test_damaged_checkpoints_that_are_newer_do_not_count_as_kept(tmp_path):
    for step in (2, 4, 6, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
        checkpoints.seal(tmp_path / f"checkpoint-{step}")
    for step in (6, 8):
        (tmp_path / f"checkpoint-{step}" / "weights").write_bytes(b"more than there was")
    checkpoints.prune(tmp_path / "checkpoint-4", keep=1)
    assert checkpoints.newest(tmp_path).name == "checkpoint-4"
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_resumed_run_logs_and_saves_as_often_as_its_settings_say(model, data, tmp_path):
    finetune(tiny_settings(tmp_path, model, data, steps=6, log_every=2, save_every=2, keep=9))
    for step in (4, 6):
        checkpoints.remove(tmp_path / f"checkpoint-{step}")
    finetune(tiny_settings(tmp_path, model, data, steps=6, log_every=1, save_every=3, keep=9))
    assert losses(tmp_path, "step") == [2, 3, 4, 5, 6]
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-3", "checkpoint-2"]


class SlowElsewhere(TrainerCallback):
    """A clock by which a step lasts a second, and all that is no step a thousand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def on_step_end(self, *arguments, **more) -> None:
        self.now_s += 1

    def on_train_begin(self, *arguments, **more) -> None:
        self.now_s += 1000

    on_evaluate = on_save = on_train_begin


def test_tokens_per_second_are_those_of_the_steps(model, data, tmp_path, monkeypatch):
    clock = SlowElsewhere()
    monkeypatch.setattr("vocalnet.training.trainer.time", clock)
    settings = tiny_settings(tmp_path, model, data, steps=4, dev=str(data))
    trainer = make_trainer(settings)
    trainer.add_callback(clock)
    trainer.train()
    assert clock.now_s > 4000
    assert min(losses(tmp_path, "tokens_per_s")) > 4  # of four answers in a second


def test_what_is_wrong_with_a_list_is_a_sentence(model, tmp_path):
    data = tiny_list(tmp_path / "data")
    settings = tiny_settings(tmp_path / "run", model, data, stage=2, method="full", steps=3)
    np.save(data.parent / "3.npy", np.array([5, 27]))
    with pytest.raises(ValueError, match=r"3\.npy holds speech tokens from 5 to 27; this talker knows 0 to 26"):
        finetune(settings)
    (data.parent / "5.wav").unlink()
    with pytest.raises(ValueError, match=r"Cannot read the clip .*5\.wav: No such file.*vocalnet data validate"):
        finetune(settings)


def test_masks_depend_on_seed_epoch_and_sample_alone():
    names = [mask_name(1, 0, f"id{i}", 0.5) for i in range(2000)]
    assert names == [mask_name(1, 0, f"id{i}", 0.5) for i in range(2000)]
    assert 900 < names.count("streaming") < 1100
    for other in (
        [mask_name(2, 0, f"id{i}", 0.5) for i in range(2000)],
        [mask_name(1, 1, f"id{i}", 0.5) for i in range(2000)],
    ):
        assert 900 < sum(a == b for a, b in zip(names, other, strict=True)) < 1100
    assert {mask_name(1, 0, f"id{i}", 1.0) for i in range(99)} == {"streaming"}


def test_lisa_draws_every_layer_as_often():
    drawn = [layer for period in range(600) for layer in lisa_layers(1, period, 6, 2)]
    assert all(150 < drawn.count(layer) < 250 for layer in range(6))
    assert all(len(set(lisa_layers(1, period, 6, 2))) == 2 for period in range(20))


def test_lisa_keeps_optimizer_state_of_its_layers_only(model, data, tmp_path):
    finetune(tiny_settings(tmp_path, model, data, method="lisa", steps=6, keep=1))
    state = torch.load(tmp_path / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
    per_layer = 9  # q, k, v, o, gate, up, down and two norms
    always = 1 + 1 + 4  # embeddings (the head is tied), final norm, adaptor
    assert len(state) == always + per_layer


def test_the_order_depends_on_the_global_batch_alone():
    order = Order(10, 4, seed=1, sizes=list(range(10)))
    first = [*order]
    assert len(first) == 8 == len(order)
    assert len({index for _, index in first}) == 8
    order.set_epoch(1)
    assert [*order] != first
    order.set_epoch(0)
    assert [*order] == first
    with pytest.raises(ValueError, match="smaller batch_size"):
        Order(3, 4, seed=1, sizes=[1, 2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 3}, "no stage 3"),
        ({"method": "lara"}, "Available: lora"),
        ({"stage": 2, "method": "lora"}, "Available: full"),
        ({"llm": "x"}, "base LLM with its Whisper"),
        ({"method": "experts", "dtype": "bfloat16"}, "needs bf16=true"),
        ({"attention": "fast"}, "Available: sdpa"),
        ({"save_every": 3, "log_every": 2}, "multiple of log_every"),
        ({"batch_size": 5}, "multiple of 4"),
        ({"optimizer": "adam_what"}, "do not run here"),
        ({"steps": 1, "method": "lisa", "lisa_layers": 4}, "lisa_layers=4 of 3"),
        ({"stage": 2, "method": "full", "talker": {"hed": "ntp"}}, "did you mean 'head'"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(changes, message, model, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        finetune(tiny_settings(tmp_path, model, data, **changes))


def test_a_folder_with_another_run_is_refused(model, data, tmp_path):
    finetune(tiny_settings(tmp_path, model, data, steps=1))
    with pytest.raises(ValueError, match="another lr"):
        finetune(tiny_settings(tmp_path, model, data, steps=1, lr=1.0))


def test_settings_come_from_yaml_arguments_and_pairs(tmp_path):
    (tmp_path / "a.yaml").write_text("stage: 1\nmethod: lora\nmodel: nano\nlr: 1.0e-3\n")
    settings = read_settings(tmp_path / "a.yaml", {"method": "dora", "stage": None}, ["lr=2e-4", "data=d", "output=1"])
    assert (settings.method, settings.lr, settings.data, settings.output) == ("dora", 2e-4, "d", "1")
    with pytest.raises(ValueError, match="did you mean 'method'"):
        read_settings(tmp_path / "a.yaml", {}, ["metod=lora", "data=d", "output=o"])
    with pytest.raises(ValueError, match="without data, output"):
        read_settings(tmp_path / "a.yaml", {})


@pytest.mark.parametrize(("optimizer", "lr"), [("adafactor", 0.01), ("sgd", 1.0)])
def test_an_optimizer_by_name_learns(optimizer, lr, model, data, tmp_path):
    finetune(tiny_settings(tmp_path, model, data, method="full", optimizer=optimizer, lr=lr, steps=8, save_every=8))
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] - 0.15


def test_the_log_goes_to_tensorboard_as_well(model, data, tmp_path):
    finetune(tiny_settings(tmp_path, model, data, steps=2, report_to=None))
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents.*")}
    written = EventAccumulator(str(folder)).Reload()
    assert "train/entropy_head0" in written.Tags()["scalars"]
    assert [event.value for event in written.Scalars("train/loss")] == pytest.approx(losses(tmp_path), rel=1e-6)


def test_every_method_is_tried():
    assert {*TRIED, "qlora"} == set(METHODS[1])
    assert MERGED
