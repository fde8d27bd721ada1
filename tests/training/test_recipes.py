"""Every recipe for a few steps: `make nano SCALE=smoke` ends in a checkpoint that answers."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vocalnet
from train.common import load_recipes
from train.stages import STAGES, begin
from vocalnet.checkpoint import NANO
from vocalnet.packing import read_weights
from vocalnet.training.heldout import FOREIGN, OTHER_TOPICS
from vocalnet.vocoder.flow import Flow

ROOT = Path(__file__).parents[2]


def _train(work: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "train.run", "--scale", "smoke", "--work", str(work), "--threads", "1", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smoke")
    process = _train(folder)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return folder


def test_the_smoke_run_ends_in_a_loadable_checkpoint(work):
    model = vocalnet.load(work / "checkpoint")
    clip = next((work / "data" / "questions").glob("*.wav"))
    result = model.respond(audio=clip, options=vocalnet.DecodeOptions(max_tokens=10))
    assert len(result.speech_tokens) <= 10
    assert vocalnet.load_token2wav(work / "checkpoint").flow([1, 2, 3]).shape == (1, 80, 6)


def test_further_decoders_come_with_it(work):
    model = vocalnet.load(work / "checkpoint")
    assert model.decoders == ["mtp_vocalnet", "group_linear_3", "ntp", "ntp_seed2"]
    assert model.with_decoder("group_linear_3").max_tokens_per_step == 3


def test_a_stage_starts_from_the_checkpoint_or_afresh(tmp_path):
    (tmp_path / "checkpoint").symlink_to(NANO)
    recipe = load_recipes("voice", tmp_path)["flow"]
    shipped = read_weights(NANO / "flow.safetensors")
    for config, is_shipped in ((recipe.config, True), ({**recipe.config, "start": None}, False)):
        flow = begin(replace(recipe, config=config), "flow", lambda: Flow(recipe.model.flow))
        weight = flow.state_dict()["encoder_proj.weight"]
        assert torch.equal(weight, shipped["encoder_proj.weight"].float()) == is_shipped


@pytest.mark.parametrize(
    ("stage", "shipped", "trained"),
    [
        ("text", "llm", "text_llm"),
        ("drill", "encoder", "encoder"),
        ("speak", "talker", "typed_talker"),
        ("talker", "talker", "talker"),
    ],
)
def test_what_goes_on_from_a_checkpoint_has_its_weights_at_first(work, tmp_path, stage, shipped, trained):
    shutil.copytree(work / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "data").symlink_to(work / "data")
    before = read_weights(tmp_path / "checkpoint" / f"{shipped}.safetensors")
    for weight in before.values():  # so that no other file can be taken for it
        weight += 0.5
    save_file(before, tmp_path / "checkpoint" / f"{shipped}.safetensors")
    recipe = load_recipes("smoke", tmp_path)[stage]
    loop = {**recipe.config["loop"], "steps": 1, "lr": 0.0}
    STAGES[stage](replace(recipe, config={**recipe.config, "start": "checkpoint", "loop": loop}))
    after = read_weights(tmp_path / "checkpoint" / f"{trained}.safetensors")
    torch.testing.assert_close(after, before, rtol=0.01, atol=0.01, check_dtype=False)  # rounded


def test_a_start_that_is_none_is_refused(tmp_path):
    recipe = load_recipes("voice", tmp_path)["flow"]
    with pytest.raises(ValueError, match="cannot start from 'chekpoint': say `start: checkpoint`, or nothing"):
        begin(replace(recipe, config={**recipe.config, "start": "chekpoint"}), "flow", lambda: Flow(recipe.model.flow))


def test_every_stage_logs_its_losses(work):
    heads = {f"heads/{name}" for name in ("ntp", "ntp_seed2", "group_linear_3")}
    for stage in (load_recipes("smoke", work).keys() - {"synthesize", "heads"}) | heads:
        rows = [json.loads(line) for line in (work / "runs" / stage / "metrics.jsonl").read_text().splitlines()]
        assert all(row["total"] == pytest.approx(row["total"]) for row in rows), stage
        assert json.loads((work / "runs" / stage / "done.json").read_text())["commit"]


def test_a_stage_killed_by_the_system_resumes_to_the_same_losses(work, tmp_path):
    stage = "flow"
    for name in ("data", "checkpoint"):
        (tmp_path / name).symlink_to(work / name)
    process = _train(tmp_path, "--only", stage)
    log = tmp_path / "runs" / stage / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = _train(tmp_path, "--only", stage)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    losses = [
        [json.loads(line)["total"] for line in (folder / "runs" / stage / "metrics.jsonl").read_text().splitlines()]
        for folder in (work, tmp_path)
    ]
    assert losses[0] == losses[1]


def test_heldout_sentences_outside_the_domain_are_as_many_as_promised():
    from vocalnet.training.domain import refusal

    assert len(set(OTHER_TOPICS)) == 60
    assert len(set(FOREIGN)) == 20
    assert not {text.lower() for text in OTHER_TOPICS} & {q.text.lower() for q in refusal()}
