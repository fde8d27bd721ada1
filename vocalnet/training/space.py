"""A folder that a hub Space, or any machine with Python, serves the page from: code, nano and pinned requirements."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from vocalnet.files import atomic_path
from vocalnet.provenance import ROOT

PYTHON = "3.12"
NAMES = frozenset({"app.py", "requirements.txt", "README.md", ".gitattributes", "LICENSE", "vocalnet", "demo"})
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
APP = '''"""Starts the playground: python app.py [--port 7860]."""

import sys

from demo.page import main
from demo.ui import build

if __name__ == "__main__":
    sys.argv[1:1] = ["--host", "0.0.0.0"]  # a Space is reached from outside its container
    main(build, __doc__)
'''
BODY = """
# VocalNet

A speech LLM that hears a question and answers in text and in speech, with multi-token prediction of speech tokens. The
model, nano, is inside: nothing is downloaded.

    python -m pip install -r requirements.txt
    python app.py --port 7860
"""


def write_space(out: Path, models: Sequence[str] = ()) -> Path:
    """Writes the folder of a Space; one that stands there already is replaced.

    Args:
        out: the folder.
        models: hub ids of the models that the Space shows; none for nano, which is inside.

    Raises:
        ValueError: this is no clone of the repository, or `out` holds something else.
    """
    for name in ("demo", "requirements.txt", "LICENSE"):
        if not (ROOT / name).exists():
            raise ValueError(f"There is no {ROOT / name}. Make the Space in a clone of the repository.")
    _check_replaceable(out)
    shutil.rmtree(out, ignore_errors=True)
    skipped = shutil.ignore_patterns(".*", "__pycache__")
    for package in ("vocalnet", "demo"):
        shutil.copytree(ROOT / package, out / package, ignore=skipped)
    shutil.copyfile(ROOT / "LICENSE", out / "LICENSE")
    files = {
        "app.py": APP,
        "requirements.txt": requirements((ROOT / "requirements.txt").read_text()),
        "README.md": readme(models),
        ".gitattributes": "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "wav")),
    }
    for name, text in files.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(text)
    return out


def _check_replaceable(out: Path) -> None:
    """Refuses a folder that holds anything but a Space as `write_space` leaves it: a clone, for one, holds more."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is no folder. Choose a new one for the Space.")
    found = {path.name for path in out.iterdir()}
    is_space = found <= NAMES and (out / "vocalnet" / "nano").is_dir()
    if found and not is_space:
        raise ValueError(f"{out} holds something that is no Space of VocalNet. Choose a new folder.")


def readme(models: Sequence[str]) -> str:
    """Returns a Space's README.md, whose head says how it is served."""
    head = {
        "title": "VocalNet",
        "emoji": "🎧",
        "colorFrom": "indigo",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": importlib.metadata.version("gradio"),
        "python_version": PYTHON,
        "app_file": "app.py",
        "models": list(models),
        "license": "apache-2.0",
        "short_description": "A speech LLM with multi-token prediction of speech",
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{BODY}"


def requirements(text: str) -> str:
    """Returns requirements with the very versions that are installed here, torch without CUDA."""
    names = [match[0] for line in text.splitlines() if (match := re.match(r"[A-Za-z][\w.-]*", line))]
    pins = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
    return "\n".join([CPU_INDEX, *pins]) + "\n"
