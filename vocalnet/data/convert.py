"""Published speech tokens -> plain integer arrays, once and offline, so that no loader ever unpickles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vocalnet.data.lists import read_entries
from vocalnet.data.units import UnitsError, read_published, read_units, save_units
from vocalnet.data.workers import each

Job = tuple[Path, Path]


def units_files(source: Path, root: Path | None = None) -> tuple[list[Path], Path]:
    """Returns the .npy files of a folder, or those that a list names, and what their names are relative to.

    Raises:
        ValueError: there are none, or the list cannot be read.
    """
    if source.is_dir():
        found, root = sorted(source.rglob("*.npy")), source
    else:
        root = source.parent if root is None else root
        found = sorted({root / entry["units"] for entry in read_entries(source) if "units" in entry})
    if not found:
        raise ValueError(f"{source} has no .npy files. Give the folder that holds them, or a list that names them.")
    return found, root


def convert(files: Sequence[Path], root: Path, out: Path | None, n_workers: int | None = None) -> dict[str, Any]:
    """Writes every file of speech tokens as a plain array; files that appear are whole.

    Args:
        files: .npy files under `root`.
        out: a folder that gets the same names; None: the files are replaced, those that are plain already are kept.
        n_workers: processes; None: one a core.

    Returns:
        {"n_converted", "n_plain", "failed": [{"file", "problem"}]}.
    """
    jobs = [(path, path if out is None else out / path.relative_to(root)) for path in files]
    outcomes = list(each(_convert, jobs, n_workers, "converting"))
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    failed = [(path, problem) for (path, _), problem in zip(jobs, outcomes, strict=True) if isinstance(problem, str)]
    return {
        "n_converted": outcomes.count(True),
        "n_plain": len(outcomes) - outcomes.count(True) - len(problems),
        "failed": [{"file": str(path), "problem": problem} for path, problem in failed],
    }


def _convert(job: Job) -> bool | str:
    """Returns whether a file had to be converted, or why it could not be."""
    path, to = job
    try:
        units, is_plain = read_units(path), True
    except UnitsError:
        try:
            units, is_plain = read_published(path), False
        except UnitsError as error:
            return str(error)
    if to != path or not is_plain:
        to.parent.mkdir(parents=True, exist_ok=True)
        save_units(to, units)
    return not is_plain
