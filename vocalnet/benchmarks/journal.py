"""Rows of a long measurement, kept one by one on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vocalnet.files import atomic_path


class Journal:
    """A file beside the results: first what is measured and how, then a line for every finished item."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        """Opens the journal of the results file `out`; rows of an earlier run with the same settings are taken over.

        Raises:
            ValueError: an earlier run had other settings, or the file cannot be written.
        """
        self.path = out.with_name(f"{out.name}.journal")
        settings = json.loads(json.dumps(settings))  # as they come back from a file
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            head, self.rows = self._read()
            if head != settings:
                changed = sorted(key for key in head.keys() | settings.keys() if head.get(key) != settings.get(key))
                raise ValueError(
                    f"{self.path} is of a run with another {', '.join(changed)}. Choose another --out, or delete it."
                )
        with atomic_path(self.path) as temporary:  # without a last line that was cut
            temporary.write_text("".join(_line(row) for row in (settings, *self.rows)), encoding="utf-8")
        self.n_taken_over = len(self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Appends the row of one finished item; it is on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)

    def close(self) -> None:
        """Removes the file: the results hold its rows."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        *whole, _ = self.path.read_bytes().split(b"\n")  # what follows the last newline is nothing, or was cut
        try:
            head, *rows = (json.loads(line) for line in whole)
        except ValueError as error:  # JSON that is broken, or no line at all
            raise ValueError(f"{self.path} is damaged. Delete it to begin anew.") from error
        return head, rows


def digest(items: Iterable[Any]) -> str:
    """Returns a SHA-256 of what is measured, each item as `json.dumps` takes it."""
    content = "".join(json.dumps(item, sort_keys=True) + "\n" for item in items)
    return hashlib.sha256(content.encode()).hexdigest()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
