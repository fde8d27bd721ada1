"""The page's own JavaScript: one file per component, each after what all of them share (shared.js)."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def script(name: str) -> str:
    """Returns the `js_on_load` of a component."""
    return (FOLDER / "shared.js").read_text() + (FOLDER / name).read_text()
