"""README: its commands and its Python run as printed, and its tree names what is there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for _, block in BLOCKS
    for line in block.splitlines()
    if line.startswith("python -m vocalnet") and " eval " not in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, tmp_path):
    words = shlex.split(command.replace("answer.wav", str(tmp_path / "answer.wav")))
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("code", [block for kind, block in BLOCKS if kind == "python"])
def test_python_runs(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_tree_names_what_is_there():
    tree = next(block for _, block in BLOCKS if block.startswith("app.py"))
    folder = ROOT
    for line in tree.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split()
        base = folder if line.startswith(" ") else ROOT
        for name in names:
            assert (base / name).exists(), name
        if not line.startswith(" ") and names[0].endswith("/"):
            folder = ROOT / names[0]


def test_make_targets_exist():
    targets = re.findall(r"^(?:\s*)make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_no_heading_and_no_table_stands_there_twice():
    found = re.findall(r"^(?:#+ .*|<!-- report: .*|!\[.*)$", re.sub(r"```.*?```", "", README, flags=re.S), re.M)
    assert len(found) > 20
    assert [line for line in set(found) if found.count(line) > 1] == []
