"""What the README's page "Adding a head" tells its reader to write and to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    text = README.read_text().split("## Adding a head\n")[1].split("\n## ")[0]
    blocks = dict(re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL))
    row = re.search(r'`"(\w+)": (\w+),`', text)
    module: dict[str, Any] = {}
    exec(compile(blocks["python"], "README.md", "exec"), module)
    assert f"configs/heads/{row[1]}.yaml" in text
    return Page(row[1], module[row[2]], blocks["yaml"], blocks[""].strip())
