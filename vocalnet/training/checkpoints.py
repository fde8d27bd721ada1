"""Checkpoints of a run: sealed when whole, so that a half-written or damaged one is never gone on from.

OUTPUT/checkpoint-STEP/    weights, optimizer, schedule; complete.json, written last, with size and hash of every file
"""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vocalnet.files import write_json

SEAL = "complete.json"
PREFIX = "checkpoint-"


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoint folders of a run, the newest first, whole or not."""
    numbered = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)


def seal(checkpoint: Path) -> None:
    """Declares a checkpoint whole: from now on it may be chosen."""
    write_json(checkpoint / SEAL, _contents(checkpoint))


def is_sound(checkpoint: Path) -> bool:
    """Says whether a checkpoint is sealed and all of its files are as they were then."""
    try:
        return json.loads((checkpoint / SEAL).read_text()) == _contents(checkpoint)
    except (OSError, ValueError):
        return False


def newest(folder: Path) -> Path | None:
    """Returns the newest sound checkpoint of a run; None without one."""
    return next((path for path in checkpoints(folder) if is_sound(path)), None)


def prune(newest: Path, keep: int) -> None:
    """Removes checkpoints that are older than `newest`, the one just sealed, but for `keep - 1` sealed ones.

    Later ones are damaged, else the run would have gone on from them: they count for nothing, and are written anew when
    the run comes to their steps.
    """
    every = checkpoints(newest.parent)
    older = every[every.index(newest) + 1 :]
    sealed = [path for path in older if (path / SEAL).is_file()]
    for path in older:
        if path not in sealed[: max(keep, 1) - 1]:
            remove(path)


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint, its seal first, so that a killed deletion leaves nothing that looks whole."""
    (checkpoint / SEAL).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _contents(checkpoint: Path) -> dict[str, list[str | int]]:
    """Returns size and SHA-256 of every file but the seal, by name."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    with ThreadPoolExecutor() as pool:
        described = pool.map(_describe, files)
        return {str(path.relative_to(checkpoint)): value for path, value in zip(files, described, strict=True)}


def _describe(path: Path) -> list[str | int]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
