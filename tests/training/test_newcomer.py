"""The newcomer's path: what the README's page says is what is walked, and a failing step is told."""

import ast
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import train.newcomer
from train.common import load_recipes
from train.newcomer import HEADS, copy_repository, main, read_page, walk, write_head
from train.run import run_stage
from vocalnet.checkpoint import NANO
from vocalnet.config import VocalNetConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def tree(tmp_path):
    """The part of a repository that the page's reader writes to."""
    (tmp_path / HEADS).mkdir(parents=True)
    (tmp_path / "train" / "configs" / "heads").mkdir(parents=True)
    shutil.copyfile(ROOT / HEADS / "__init__.py", tmp_path / HEADS / "__init__.py")
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    """Notes what is run instead of running it; the lab answers with one row."""
    noted = []

    def run(command, **_):
        noted.append(command[1:])
        return subprocess.CompletedProcess(command, 0, stdout='a warning\n[{"decoder": "mtp_offset"}]\n', stderr="")

    monkeypatch.setattr(train.newcomer.subprocess, "run", run)
    return noted


def test_the_page_has_all_that_is_walked():
    page = read_page(README)
    assert page.training == f"python -m train.heads --scale newcomer --head {page.name}"
    assert [command.split()[0] for command in page.commands] == ["python", "python", "vocalnet"]
    with pytest.raises(ValueError, match='no page "Adding a head"'):
        read_page("# Something else\n")


def test_the_head_is_written_imported_and_listed(tree):
    page = read_page(README)
    write_head(page, tree)
    assert (tree / HEADS / f"{page.name}.py").read_text() == page.code
    assert (tree / "train" / "configs" / "heads" / f"{page.name}.yaml").read_text() == page.config
    registry = ast.parse((tree / HEADS / "__init__.py").read_text())
    imported = {name.name for node in registry.body if isinstance(node, ast.ImportFrom) for name in node.names}
    (table,) = [node.value for node in registry.body if isinstance(node, ast.AnnAssign)]
    rows = {key.value: value.id for key, value in zip(table.keys, table.values, strict=True)}
    assert rows[page.name] == page.class_name
    assert set(rows.values()) <= imported
    assert len(rows) == 7


def test_the_walk_runs_the_contract_the_pages_commands_and_the_lab(tree, commands):
    page = read_page(README)
    report = walk(page, tree)
    assert commands[0][:4] == ["-m", "pytest", "-q", "-x"]
    assert commands[1] == ["-m", "train.run", "--scale", "newcomer"]
    assert commands[2] == page.training.split()[1:]
    assert commands[3][0] == "-c"
    compile(commands[3][1], "lab", "exec")
    assert "work/newcomer/checkpoint" in commands[3][1]
    assert len(commands) == 4
    assert [step["step"] for step in report["newcomer"]][2:] == [*page.commands[:2], "the Speedup lab"]
    assert report["total_s"] == pytest.approx(sum(step["seconds"] for step in report["newcomer"]))
    assert report["rows"] == [{"decoder": "mtp_offset"}]


def test_a_step_that_fails_ends_the_walk_with_what_it_said(tmp_path, tree, monkeypatch, capsys):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="flite is missing")

    monkeypatch.setattr(train.newcomer.subprocess, "run", run)
    monkeypatch.setattr(train.newcomer, "copy_repository", lambda folder: None)
    monkeypatch.setattr("sys.argv", ["train.newcomer", "--out", str(tmp_path / "r.json"), "--tree", str(tree)])
    assert main() == 2
    assert "step 'python -m pytest tests/decoder/test_heads.py' failed: flite is missing" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_the_results_say_where_they_come_from(tmp_path, tree, commands, monkeypatch):
    monkeypatch.setattr(train.newcomer, "copy_repository", lambda folder: None)
    monkeypatch.setattr(train.newcomer, "provenance", lambda seed: {"commit": "abc", "seed": seed})
    monkeypatch.setattr("sys.argv", ["train.newcomer", "--out", str(tmp_path / "r.json"), "--tree", str(tree)])
    assert main() == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["head"], report["commit"]) == ("mtp_offset", "abc")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git clone")
def test_the_copy_is_what_git_knows(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "old").write_text("")
    copy_repository(tmp_path / "tree")
    assert (tmp_path / "tree" / "README.md").is_file()
    assert (tmp_path / "tree" / "vocalnet" / "nano" / "talker.safetensors").is_file()
    assert not (tmp_path / "tree" / "old").exists()
    assert not (tmp_path / "tree" / "work").exists()


def test_the_newcomers_recipe_goes_on_from_the_shipped_checkpoint(tmp_path):
    recipes = load_recipes("newcomer", tmp_path)
    assert recipes["heads"].model == VocalNetConfig.from_file(NANO / "config.json")
    assert list(recipes) == ["nano", "synthesize", "units", "heads"]
    run_stage("nano", "newcomer", tmp_path)
    assert (tmp_path / "checkpoint" / "llm.safetensors").read_bytes() == (NANO / "llm.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"recipe 'newcomer' has no stage 'flow'\. It has: nano, synthesize"):
        run_stage("flow", "newcomer", tmp_path)
