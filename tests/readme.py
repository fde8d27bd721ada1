"""What the README's page "Adding a head" tells its reader to write and to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.newcomer import read_page

README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Page:
    """A head's name in HEADS, its class, its yaml, and the command that trains it."""

    name: str
    head: Any
    config: str
    command: str


def adding_a_head() -> Page:
    """Reads the page and runs its Python."""
    text = README.read_text()
    page = read_page(text)
    module: dict[str, Any] = {}
    exec(compile(page.code, "README.md", "exec"), module)
    assert f"configs/heads/{page.name}.yaml" in text
    return Page(page.name, module[page.class_name], page.config, page.training)
