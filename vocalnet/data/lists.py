"""Lists of training pairs, as published: a JSON list, or the same objects one a line (JSONL).

[{"id", "speech": "audios/19090.wav", "units": "cosyvoice2_tokens/19090.npy",
  "conversations": [{"from": "human", "value": "<speech>"}, {"from": "gpt", "value": "The answer."}]}]

File names are relative to a root folder, by default that of the list. Entries are counted from 0. The recording of an
answer is no part of the published format; where it is known, `answer_recording` finds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWERS_FOLDER = "answers"  # beside the folder of the units, as in nano's data
FILES = ("speech", "units")  # keys of an entry that name a file
RECORDINGS = (".wav", ".flac", ".mp3", ".ogg")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Row:
    """One place of a list: an entry as it was parsed, or why none could be; `line` counts from 1."""

    number: int
    line: int
    entry: Any = None
    problem: str | None = None


def rows(path: Path) -> Iterator[Row]:
    """Yields the entries of a list, and a row with a problem where its JSON breaks.

    A broken line of a .jsonl file is one problem; a broken .json list cannot be read beyond its first one.

    Raises:
        ValueError: the list itself cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"Cannot read the list {path}: {error.strerror}. Give a .json or .jsonl file.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"The list {path} is not UTF-8 text ({error.reason}, byte {error.start}).") from error
    yield from _rows_of_lines(text) if path.suffix == ".jsonl" else _rows_of_array(text)


def _rows_of_lines(text: str) -> Iterator[Row]:
    # not splitlines: JSON may hold U+2028 and its like as they are
    lines = ((line, content) for line, content in enumerate(text.split("\n"), 1) if content.strip())
    for number, (line, content) in enumerate(lines):
        try:
            yield Row(number, line, json.loads(content))
        except ValueError as error:
            yield Row(number, line, problem=str(error))


def _rows_of_array(text: str) -> Iterator[Row]:
    """Parses one entry after the other, so that a break in the middle tells where it is."""
    decoder = json.JSONDecoder()
    place, line, number = _skip(text, 0), 1, 0
    if text[place : place + 1] != "[":
        yield Row(0, 1, problem="no JSON list: it must begin with [")
        return
    place, counted = _skip(text, place + 1), 0
    is_open = text[place : place + 1] != "]"
    while is_open:
        line, counted = line + text.count("\n", counted, place), place
        try:
            entry, place = decoder.raw_decode(text, place)
        except ValueError as error:
            yield Row(number, line, problem=str(error))
            return
        yield Row(number, line, entry)
        number, place = number + 1, _skip(text, place)
        if text[place : place + 1] not in (",", "]"):
            line += text.count("\n", counted, place)
            yield Row(number, line, problem="expected , or ] after the entry before: the list is cut or broken")
            return
        is_open = text[place : place + 1] == ","
        place = _skip(text, place + 1) if is_open else place
    if text[_skip(text, place + 1) :]:
        yield Row(number, text.count("\n", 0, place) + 1, problem="there is more after the end of the list")


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None
    return found.end()


def read_entries(path: str | Path) -> list[dict[str, Any]]:
    """Returns all entries of a list.

    Raises:
        ValueError: its JSON is broken, or an entry is no object with a string for each file.
    """
    entries = []
    for row in rows(Path(path)):
        problem = row.problem or structural_problem(row.entry)
        if not problem and "speech" not in row.entry:
            problem = 'the entry has no "speech"'
        if problem:
            raise ValueError(
                f"{path}, entry {row.number}, line {row.line}: {problem}. Run: vocalnet data validate {path}"
            )
        entries.append(row.entry)
    return entries


def structural_problem(entry: Any) -> str | None:
    """Returns why an entry cannot be looked at any further, None if it can."""
    if not isinstance(entry, dict):
        return "an entry must be an object"
    if not isinstance(entry.get("id"), str | int) or entry["id"] == "":
        return 'an entry needs an "id"'
    if not isinstance(entry.get("speech", ""), str):
        return '"speech" must be the name of a recording'
    if not isinstance(entry.get("units", ""), str):
        return '"units" must be the name of a .npy file'
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return '"conversations" must be a list of objects'
    if not all(isinstance(turn.get(key), str) for turn in turns for key in ("from", "value")):
        return 'every turn needs "from" and "value", both text'
    return None


def answer_recording(entry: dict[str, Any], root: Path, answers: Path | None = None) -> Path | None:
    """Returns where an answer's recording is, or None if nothing tells.

    Either the entry names it ("answer_speech"), or a recording in the folder `answers` is called as its units are.

    Args:
        answers: None: the folder `answers` beside that of the units.
    """
    if "answer_speech" in entry:
        return root / entry["answer_speech"]
    if "units" not in entry:
        return None
    units = root / entry["units"]
    folder = answers or units.parent.parent / ANSWERS_FOLDER
    named = (folder / f"{units.stem}{suffix}" for suffix in RECORDINGS)
    return next((path for path in named if path.is_file()), None)
