"""Walks the README's page "Adding a head" as a newcomer would, in a copy of this repository, and times every step.

python -m train.newcomer --out results/newcomer.json

It writes the page's file, row and yaml, runs its commands, and measures the new head in the Speedup lab beside nano's
own. The seconds are the machine's: reading and typing come on top.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocalnet.files import check_writable, write_json
from vocalnet.provenance import ROOT, provenance

HEADS = "vocalnet/decoder/heads"
SHOWN = "vocalnet demo"  # a command that waits for a reader; what its lab measures is measured here instead
LAB = """
import json
from vocalnet import DecodeOptions, lab, load
model = load({checkpoint!r})
questions = [lab.Question(f"demo/examples/{{name}}.wav", name) for name in ("capital", "opposite")]
cells = lab.make_cells(["mtp_vocalnet", {name!r}], [1, 3, 5], options=DecodeOptions(seed=0))
print(json.dumps(lab.to_json(lab.measure(model, questions, cells, rounds=2))["rows"]))
"""


@dataclass(frozen=True)
class Page:
    """What the page has its reader write and run."""

    name: str
    class_name: str
    code: str
    config: str
    commands: tuple[str, ...]

    @property
    def training(self) -> str:
        """The command that trains the head."""
        return next(command for command in self.commands if "train.heads" in command)


def read_page(readme: str) -> Page:
    """Returns the page of a README.

    Raises:
        ValueError: it is not there, or lacks one of its parts.
    """
    try:
        text = readme.split("## Adding a head\n")[1].split("\n## ")[0]
        blocks = dict(re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL))
        name, class_name = re.findall(r'`"(\w+)": (\w+),`', text)[0]
        commands = tuple(line.split("#")[0].strip() for line in blocks[""].splitlines() if line.strip())
        return Page(name, class_name, blocks["python"], blocks["yaml"], commands)
    except LookupError as error:
        raise ValueError('The README has no page "Adding a head" with code, row, yaml and commands.') from error


def write_head(page: Page, tree: Path) -> None:
    """Writes the page's file, its import and row in HEADS, and its yaml into a repository."""
    (tree / HEADS / f"{page.name}.py").write_text(page.code)
    registry = tree / HEADS / "__init__.py"
    text = registry.read_text()
    line = f"from vocalnet.decoder.heads.{page.name} import {page.class_name}\n"
    text = text.replace("\n\nHEADS:", f"\n{line}\nHEADS:", 1)
    registry.write_text(text.replace("\n}\n", f'\n    "{page.name}": {page.class_name},\n}}\n', 1))
    (tree / "train" / "configs" / "heads" / f"{page.name}.yaml").write_text(page.config)


def copy_repository(tree: Path) -> None:
    """Copies all files that git knows to an empty folder."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)


def walk(page: Page, tree: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Goes the page's way in a copy of the repository; returns {"newcomer": steps with seconds, "total_s", "rows"}.

    Args:
        page: what to write and run.
        tree: the copy.
        options: further arguments of pytest, for a part of the contract's tests.

    Raises:
        ValueError: a step failed; the message holds the end of what it said.
    """
    steps: list[dict[str, Any]] = []

    def timed(step: str, command: Sequence[str]) -> str:
        began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"The newcomer's step {step!r} failed: {(done.stderr or done.stdout)[-1500:]}")
        steps.append({"step": step, "seconds": round(time.monotonic() - began, 1)})
        return done.stdout

    began = time.monotonic()
    write_head(page, tree)
    steps.append({"step": "write the file, the row and the yaml", "seconds": round(time.monotonic() - began, 1)})
    tests = ["-m", "pytest", "-q", "-x", "tests/decoder/test_heads.py", "-k", page.name, *options]
    timed("python -m pytest tests/decoder/test_heads.py", [sys.executable, *tests])
    for command in page.commands:
        if not command.startswith(SHOWN):
            timed(command, [sys.executable, *command.split()[1:]])
    checkpoint = next(command.split("--model ")[1].split()[0] for command in page.commands if "--model " in command)
    code = LAB.format(checkpoint=checkpoint, name=page.name)
    rows = json.loads(timed("the Speedup lab", [sys.executable, "-c", code]).splitlines()[-1])
    total_s = round(sum(step["seconds"] for step in steps), 1)
    return {"newcomer": steps, "total_s": total_s, "head": page.name, "rows": rows}


def main() -> int:
    """Parses arguments, walks, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/newcomer.json"))
    parser.add_argument("--tree", type=Path, default=Path("work/newcomer-tree"), help="where the repository is copied")
    arguments = parser.parse_args()
    try:
        check_writable(arguments.out)
        tree = arguments.tree.resolve()
        copy_repository(tree)
        report = walk(read_page((ROOT / "README.md").read_text()), tree)
        write_json(arguments.out, {**report, **provenance(1)})
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({step["step"]: step["seconds"] for step in report["newcomer"]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
