"""Example questions: short clips from several synthetic voices, shipped with the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """A spoken question (WAV, 16 kHz) and its words."""

    path: Path
    text: str


EXAMPLES = tuple(
    Example(FOLDER / entry["file"], entry["text"]) for entry in json.loads((FOLDER / "questions.json").read_text())
)


def words_of(path: str | Path) -> str:
    """Returns the words of a clip that is a copy of an example, "" for any other."""
    data = Path(path).read_bytes()
    return next((example.text for example in EXAMPLES if example.path.read_bytes() == data), "")
