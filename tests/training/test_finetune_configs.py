"""The shipped yaml files of fine-tuning, and its command."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from typer.testing import CliRunner

from tests.training.finetuning import losses, tiny_checkpoint, tiny_list
from train import finetune
from vocalnet.__main__ import app
from vocalnet.training.settings import read_settings

CONFIGS = Path(finetune.__file__).parent / "configs"
ROOT = CONFIGS.parents[1]
PAGE = (CONFIGS.parent / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line]


@pytest.mark.parametrize("path", sorted((CONFIGS / "finetune").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_settings_are_valid_and_can_be_dealt_out(path):
    settings = read_settings(path, {"model": "nano", "data": "d", "output": "o"})
    assert settings.accumulation(8 if settings.batch_size > 8 else 1) >= 1


def test_the_shipped_settings_are_the_papers():
    first = read_settings(CONFIGS / "finetune" / "stage1.yaml", {"model": "x", "data": "d", "output": "o"})
    assert (first.lora_rank, first.lora_alpha, first.lora_dropout, first.lr) == (64, 16, 0.05, 2e-4)
    assert (first.scheduler, first.warmup, first.epochs, first.batch_per_device) == ("cosine", 0.03, 1, 32)
    assert first.accumulation(8) == 1
    second = read_settings(CONFIGS / "finetune" / "stage2.yaml", {"model": "x", "data": "d", "output": "o"})
    assert (second.lr, second.epochs, second.batch_per_device, second.accumulation(8)) == (2e-4, 3, 4, 4)
    assert second.talker["loss_decay"] == 0.8


@pytest.mark.parametrize("name", ["single", "ddp", "fsdp", "zero3"])
def test_accelerate_reads_the_shipped_launchers(name):
    config = load_config_from_file(str(CONFIGS / "accelerate" / f"{name}.yaml"))
    kinds = {"single": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP", "zero3": "DEEPSPEED"}
    assert str(config.distributed_type).endswith(kinds[name])


def test_fsdp_keys_are_those_that_accelerate_knows():
    from accelerate.commands.launch import launch_command_parser

    known = {option.dest for option in launch_command_parser()._actions}
    for name, part in (("fsdp", "fsdp_config"), ("zero3", "deepspeed_config")):
        keys = yaml.safe_load((CONFIGS / "accelerate" / f"{name}.yaml").read_text())[part]
        assert set(keys) <= known, set(keys) - known


def test_the_command_trains_and_names_the_merged_checkpoint(tmp_path, monkeypatch, capsys):
    model, data = tiny_checkpoint(tmp_path / "model"), tiny_list(tmp_path / "data")
    pairs = [
        f"model={model}",
        f"data={data}",
        f"output={tmp_path / 'run'}",
        "steps=2",
        "batch_size=4",
        "batch_per_device=2",
    ]
    pairs += ["log_every=1", "save_every=2", "report_to=[]", "lora_rank=2"]
    monkeypatch.setattr(sys, "argv", ["finetune", "--stage", "1", "--method", "dora", *pairs])
    assert finetune.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run" / "merged")
    assert len(losses(tmp_path / "run")) == 2


def test_the_pages_first_run_trains_from_a_fresh_clone(tmp_path, monkeypatch):
    (command,) = [line for line in COMMANDS if line.startswith("python -m train.finetune")]
    words = shlex.split(command.replace("work/tiny", str(tmp_path / "tiny")))[3:]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["finetune", *words, "steps=2", "log_every=1", "save_every=2"])
    assert finetune.main() == 0
    assert len(losses(tmp_path / "tiny")) == 2
    assert (tmp_path / "tiny" / "merged" / "config.json").is_file()


def test_wrong_input_ends_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["finetune", "--stage", "1", "--method", "lora", "model=nano", "data=none.json", "output=x"]
    )
    assert finetune.main() == 2
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", [line for line in COMMANDS if "train.finetune" in line])
def test_the_pages_trainings_are_settings_that_fit_eight_devices(command):
    words = shlex.split(command.partition("-m train.finetune")[2])
    settings = read_settings(words[1], {}, words[2:])
    assert settings.accumulation(8 if "accelerate" in command else 1) in (1, 4)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("vocalnet plan")])
def test_the_pages_plans_run(command):
    done = CliRunner().invoke(app, [*shlex.split(command)[1:], "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["peak"] > 1e9


def test_every_command_of_the_page_is_tried_or_belongs_to_the_data():
    others = [line for line in COMMANDS if "train.finetune" not in line and not line.startswith("vocalnet plan")]
    assert all(line.startswith("vocalnet data ") for line in others)
