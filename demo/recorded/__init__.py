"""Runs that were recorded before, so that the page has something to show and to replay at once."""

from __future__ import annotations

from pathlib import Path

from vocalnet import runs
from vocalnet.runs import Run

FOLDER = Path(__file__).parent


def recorded_runs() -> list[Run]:
    """Returns the shipped runs; `python -m demo.recorded.record` makes them anew."""
    return [runs.load(path) for path in sorted(FOLDER.glob("*.zip"))]
