"""The paper's own Tables 1 to 5, as data with their source. They are shown as published, never mixed with ours.

What the source's text shows illegibly (signs, bars or dashes around the digits, or nothing at all) is None, and its row
says what the text shows there under `unclear_in_source`: nothing was guessed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NUMBERS = (1, 2, 3, 4, 5)
UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `decimals` as printed, None for text and whole numbers."""

    name: str
    unit: str | None = None
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row by column name, and what the text shows in the cells that are None."""

    cells: dict[str, Any]
    unclear_in_source: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table of the paper."""

    number: int
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def printed(self) -> list[list[str]]:
        """Returns the rows as printed, `UNCLEAR` where the source is."""
        return [[_printed(row.cells[column.name], column) for column in self.columns] for row in self.rows]


def published_table(number: int) -> PublishedTable:
    """Returns one of the paper's tables.

    Raises:
        ValueError: the paper has no such table.
    """
    if number not in NUMBERS:
        raise ValueError(f"The paper has Tables 1 to 5, not {number!r}.")
    values = json.loads((Path(__file__).parent / f"table{number}.json").read_text(encoding="utf-8"))
    return PublishedTable(
        number=values["table"],
        title=values["title"],
        source=values["source"],
        columns=tuple(Column(**column) for column in values["columns"]),
        rows=tuple(Row(row, row.pop("unclear_in_source", {})) for row in values["rows"]),
        notes=tuple(values["notes"]),
    )


def _printed(value: Any, column: Column) -> str:
    if value is None:
        return UNCLEAR
    text = str(value) if column.decimals is None else f"{value:.{column.decimals}f}"
    return f"{text}×" if column.unit == "×" else text
