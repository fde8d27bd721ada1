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
