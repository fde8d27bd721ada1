"""What is pushed to the hub: a card that parses, numbers that are in results, and code that runs as printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from typer.testing import CliRunner

import vocalnet
from vocalnet.__main__ import app
from vocalnet.checkpoint import NANO, save
from vocalnet.training import hub

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "eval-nano.json"
REPO = "someone/vocalnet-nano"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The folder that a dry run writes for nano, called as its hub id."""
    out = tmp_path_factory.mktemp("hub") / REPO
    arguments = ["--repo", REPO, "--results", str(RESULTS), "--dry-run", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, ["push", *arguments])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"folder": str(out), "url": None}
    return out


@pytest.fixture(scope="module")
def card(pushed):
    return ModelCard.load(pushed / "README.md")


def test_the_head_parses_and_is_complete(card):
    head = card.data.to_dict()
    assert head["license"] == "apache-2.0"
    assert head["language"] == ["en"]
    assert head["library_name"] == "vocalnet"
    assert head["pipeline_tag"] == "audio-to-audio"
    assert head["datasets"] == ["nano-synthetic"]
    assert head["base_model"] == []  # trained from nothing
    assert head["model-index"][0]["name"] == "vocalnet-nano"


def numbers(value):
    """All numbers anywhere inside parsed YAML."""
    if isinstance(value, dict | list):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def cited(metric, root):
    """The number that a metric says it copied."""
    value = json.loads((root / metric["args"]["file"]).read_text())
    for key in metric["args"]["key"].split("."):
        value = value[key]
    return value


@pytest.mark.parametrize("where", ["the repository", "the pushed folder"])
def test_every_number_of_the_model_index_is_in_the_results_that_it_names(where, pushed, card):
    root, data = (ROOT, ModelCard.load(NANO / "README.md").data) if where == "the repository" else (pushed, card.data)
    index = data.to_dict()["model-index"]
    metrics = [metric for model in index for result in model["results"] for metric in result["metrics"]]
    assert len(metrics) == len(hub.METRICS)
    assert [metric["value"] for metric in metrics] == [cited(metric, root) for metric in metrics]
    assert len(numbers(index)) == len(metrics)


def test_the_results_go_with_the_card(pushed, card):
    assert (pushed / "results" / RESULTS.name).read_bytes() == RESULTS.read_bytes()
    for result in card.data.to_dict()["model-index"][0]["results"]:
        assert result["source"]["url"] == f"https://huggingface.co/{REPO}/blob/main/results/{RESULTS.name}"


def test_every_file_of_the_checkpoint_goes_along(pushed):
    names = {str(path.relative_to(NANO)) for path in NANO.rglob("*") if path.is_file()}
    assert names - {str(path.relative_to(pushed)) for path in pushed.rglob("*")} == set()
    assert (pushed / "llm.safetensors").read_bytes() == (NANO / "llm.safetensors").read_bytes()


def test_the_code_of_the_card_runs_as_printed(pushed, card):
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert f'VocalNet.from_pretrained("{REPO}")' in code
    folder = pushed.parents[1]  # from here the hub id is the folder's name too
    shutil.copyfile(ROOT / "demo" / "examples" / "capital.wav", folder / "question.wav")
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert (folder / "answer.wav").stat().st_size > 10_000


def test_a_card_of_an_own_model_says_what_it_was_trained_from(tiny_model, tmp_path):
    save(tiny_model, tmp_path / "own")
    arguments = [
        "push",
        "--repo",
        "me/own",
        "--model",
        str(tmp_path / "own"),
        "--dry-run",
        "--out",
        str(tmp_path / "out"),
    ]
    bare = CliRunner().invoke(app, arguments)
    assert bare.exit_code == 2
    assert "Nothing tells the license and language" in bare.stderr
    assert not (tmp_path / "out").exists()
    facts = [
        "--license",
        "mit",
        "--language",
        "en",
        "--language",
        "zh",
        "--base-model",
        "meta-llama/Llama-3.2-1B-Instruct",
    ]
    done = CliRunner().invoke(app, [*arguments, *facts, "--dataset", "VocalNet/UltraChat-vocalnet"])
    assert done.exit_code == 0, done.stderr
    head = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert head["base_model"] == ["meta-llama/Llama-3.2-1B-Instruct"]
    assert head["datasets"] == ["VocalNet/UltraChat-vocalnet"]
    assert head["language"] == ["en", "zh"]
    assert "model-index" not in head  # nothing was measured
    assert vocalnet.VocalNet.from_pretrained(str(tmp_path / "out")).decoders == tiny_model.decoders


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repo", "nano"], "is no hub id"),
        (["--repo", "a/b/c"], "is no hub id"),
        (["--repo", REPO, "--model", "nowhere"], "There is no checkpoint folder"),
        (["--repo", REPO, "--results", "train/configs/smoke.yaml"], "Cannot read the results"),
        (["--repo", REPO, "--results", "vocalnet/published/table3.json"], "holds no results of vocalnet eval"),
    ],
)
def test_what_cannot_be_pushed_is_refused_and_leaves_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["push", *arguments, "--dry-run", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_nanos_own_results_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["push", "--repo", REPO, "--dry-run", "--out", "out"])
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out" / "results" / RESULTS.name).read_bytes() == RESULTS.read_bytes()


def test_a_full_folder_is_not_written_into(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = CliRunner().invoke(app, ["push", "--repo", REPO, "--dry-run", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds something already" in done.stderr


class FakeHub:
    """Stands for huggingface_hub's HfApi; notes what it was asked."""

    calls: list = []  # noqa: RUF012

    def create_repo(self, repo, private, exist_ok):
        self.calls.append((repo, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


def test_a_push_uploads_the_folder_in_one_commit(monkeypatch):
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    done = CliRunner().invoke(app, ["push", "--repo", REPO, "--private", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["url"] == f"https://huggingface.co/{REPO}"
    assert FakeHub.calls[0] == (REPO, True, True)
    assert {"README.md", "config.json", "talker.safetensors"} <= set(FakeHub.calls[1][1])


@pytest.mark.parametrize("error", [LocalTokenNotFoundError("no token"), ConnectionError("no network")])
def test_a_push_that_fails_is_one_sentence(error, monkeypatch):
    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "create_repo", fail)
    done = CliRunner().invoke(app, ["push", "--repo", REPO])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "hf auth login" in done.stderr or "no network" in done.stderr
