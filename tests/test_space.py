"""The folder of `make space`: its head, its requirements, and a page that answers where no hub can be reached."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from space_check import ask, cut_off, served
from typer.testing import CliRunner

from vocalnet.__main__ import app
from vocalnet.training.space import NAMES

ROOT = Path(__file__).parents[1]
MODEL = "someone/vocalnet-nano"


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    out = tmp_path_factory.mktemp("spaces") / "space"
    done = CliRunner().invoke(app, ["space", "--out", str(out), "--models", MODEL, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"folder": str(out)}
    return out


def test_the_head_says_how_it_is_served(space):
    head = yaml.safe_load((space / "README.md").read_text().split("---\n")[1])
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == importlib.metadata.version("gradio")
    assert head["python_version"] == "3.12"  # a string: 3.10 would become 3.1
    assert (space / head["app_file"]).is_file()
    assert head["models"] == [MODEL]


def test_its_requirements_are_those_of_the_app_at_the_versions_tried(space):
    lines = (space / "requirements.txt").read_text().splitlines()
    assert lines[0] == "--extra-index-url https://download.pytorch.org/whl/cpu"
    pins = dict(line.split("==") for line in lines[1:])
    wanted = re.findall(r"^([a-z][\w-]*)[=>]", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert list(pins) == wanted
    assert all(importlib.metadata.version(name).split("+")[0] == version for name, version in pins.items())


def test_nothing_but_the_app_is_inside(space):
    assert {path.name for path in space.iterdir()} == NAMES
    assert not list(space.rglob("__pycache__"))


def test_it_is_made_anew_but_never_over_something_else(space, tmp_path):
    (space / "vocalnet" / "old.py").write_text("")
    assert CliRunner().invoke(app, ["space", "--out", str(space), "--models", MODEL]).exit_code == 0
    assert not (space / "vocalnet" / "old.py").exists()
    (tmp_path / "mine.txt").write_text("mine")
    done = CliRunner().invoke(app, ["space", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds something that is no Space" in done.stderr
    assert (tmp_path / "mine.txt").exists()


def test_a_clone_is_refused_and_left_whole(tmp_path):
    (tmp_path / "vocalnet" / "nano").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / "Makefile").write_text("all:\n")
    for extra in ("Makefile", ".git"):  # each alone is enough
        before = sorted(tmp_path.rglob("*"))
        done = CliRunner().invoke(app, ["space", "--out", str(tmp_path)])
        assert done.exit_code == 2
        assert "Choose a new folder" in done.stderr
        assert sorted(tmp_path.rglob("*")) == before
        (tmp_path / extra).rename(tmp_path.with_name(f"{tmp_path.name}-{extra}"))


def test_its_page_answers_where_no_hub_can_be_reached(space, tmp_path):
    code = "import demo, vocalnet; print(vocalnet.__file__, demo.__file__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=space, env=cut_off(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(space / name / "__init__.py") for name in ("vocalnet", "demo")]
    with served(space, sys.executable, tmp_path) as url:
        answer = ask(url, space)
    assert answer["text"].strip()
    assert answer["n_speech_tokens"] > 5
    assert answer["n_bytes"] > 5_000
