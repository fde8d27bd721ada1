"""Files that appear whole or not at all, and the sentence a user gets when one cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def check_writable(path: str | Path) -> Path:
    """Returns `path` as a Path if a file can be written there; nothing is left behind.

    Raises:
        ValueError: the folder is missing or read-only, or the name is taken by something that is not a plain file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"Cannot write {path}: it exists and is not a plain file. Choose another name.")
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write {path}: the folder {path.parent} does not exist. Create it or choose another.")
    probe = _temporary(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(_sentence(path, error)) from error
    return path


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; renames it to `path` on success and removes it on failure.

    Raises:
        ValueError: the file cannot be written.
    """
    path = check_writable(path)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(_sentence(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _temporary(path: Path) -> Path:
    """A hidden name next to `path`: a rename is atomic only within one file system."""
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")


def _sentence(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"Cannot write {path}: {reason}. Choose a folder you can write to, with enough free space."
