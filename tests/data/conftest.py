"""A clean list of four pairs with recordings of questions and answers, to be spoiled in one place at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

RATE_HZ = 16_000
N_PAIRS = 4


def voice(seconds: float, seed: int) -> np.ndarray:
    """Returns coloured noise that no other seed makes, float32 (n,)."""
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


@dataclass
class Pairs:
    """A list on disk; `entries` is written by `write`."""

    folder: Path
    entries: list[dict[str, Any]]

    @property
    def path(self) -> Path:
        return self.folder / "pairs.json"

    def question(self, i: int) -> Path:
        return self.folder / self.entries[i]["speech"]

    def units(self, i: int) -> Path:
        return self.folder / self.entries[i]["units"]

    def answer(self, i: int) -> Path:
        return self.folder / "answers" / f"{i}.wav"

    def write(self) -> Path:
        self.path.write_text(json.dumps(self.entries, indent=1))
        return self.path


@pytest.fixture
def pairs(tmp_path):
    for name in ("questions", "answers", "units"):
        (tmp_path / name).mkdir()
    entries = []
    for i in range(N_PAIRS):
        seconds = 0.5 + 0.2 * i
        soundfile.write(tmp_path / "questions" / f"{i}.wav", voice(seconds, i), RATE_HZ)
        soundfile.write(tmp_path / "answers" / f"{i}.wav", voice(2 * seconds, 100 + i), RATE_HZ)
        np.save(tmp_path / "units" / f"{i}.npy", np.arange(round(2 * seconds * 25)) % 875)
        entries.append(
            {
                "id": f"pair-{i}",
                "speech": f"questions/{i}.wav",
                "conversations": [
                    {"from": "human", "value": "<speech>"},
                    {"from": "gpt", "value": f"The answer is {i}."},
                ],
                "units": f"units/{i}.npy",
            }
        )
    made = Pairs(tmp_path, entries)
    made.write()
    return made
