"""What is wrong with a list of training pairs: one report that names file and entry of every defect."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vocalnet.audio import MIN_AUDIO_S, SAMPLE_RATE_HZ, SILENCE_PEAK
from vocalnet.data.lists import Row, answer_recording, rows, structural_problem
from vocalnet.data.units import UnitsError, read_units
from vocalnet.data.workers import each
from vocalnet.tokens import PLACEHOLDER, TOKEN_RATE_HZ

ROLES = ("human", "gpt")  # in turns, the first one first
KINDS = (
    "broken JSON",
    "broken entry",
    "duplicate id",
    "no human turn",
    "no gpt turn",
    "role order",
    "missing placeholder",
    "empty answer",
    "missing audio",
    "unreadable audio",
    "wrong rate",
    "too short",
    "too long",
    "NaN",
    "silence",
    "duplicate audio",
    "missing units",
    "units of wrong dtype or shape",
    "unit < 0",
    "unit >= vocabulary",
    "units/duration mismatch",
)


@dataclass(frozen=True)
class Limits:
    """What a list is held to.

    Attributes:
        n_units: vocabulary of the speech tokens, the special ones not counted.
        rate_hz: sample rate of the recordings.
        min_s, max_s: shortest and longest recording of a question; Whisper hears 30 s at a time.
        mismatch: largest difference of an answer's tokens from its recording, as a share of the recording.
        needs_units: False: a list for stage 1, whose answers need no speech.
    """

    n_units: int = 6561
    rate_hz: int = SAMPLE_RATE_HZ
    min_s: float = MIN_AUDIO_S
    max_s: float = 30.0
    mismatch: float = 0.2
    needs_units: bool = True


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong: where (the entry's number counts from 0), of which kind, and what was found."""

    kind: str
    file: str
    entry: int
    id: str | int | None
    detail: str


@dataclass(slots=True)
class Checked:
    """What was found of one entry."""

    number: int
    id: str | int | None
    defects: list[Defect] = field(default_factory=list)
    recording: str | None = None
    digest: bytes | None = None  # of its samples
    is_not_compared: bool = False  # whether its units had no recording of the answer to be held against

    def add(self, kind: str, file: str | Path, detail: str) -> None:
        """Notes a defect."""
        assert kind in KINDS
        self.defects.append(Defect(kind, str(file), self.number, self.id, detail))


def validate(
    path: str | Path,
    root: str | Path | None = None,
    limits: Limits | None = None,
    answers: str | Path | None = None,
    n_workers: int | None = None,
) -> dict[str, Any]:
    """Returns the report on a list of training pairs.

    Units can be held against the length of an answer only where its recording is known (`answer_recording`);
    "n_not_compared" counts the other entries with units.

    Args:
        path: the list, .json or .jsonl.
        root: what its file names are relative to; None: the list's folder.
        limits: None: those of 16 kHz recordings and CosyVoice 2's tokens.
        answers: folder of the answers' recordings, called as their units; None: `answers` beside the units.
        n_workers: processes; None: one a core.

    Raises:
        ValueError: the list itself cannot be read, or has no entries.
    """
    path, limits = Path(path), limits or Limits()
    root = path.parent if root is None else Path(root)
    folder = None if answers is None else Path(answers)
    work = functools.partial(check_row, path=path, root=root, limits=limits, answers=folder)
    checked = list(each(work, list(rows(path)), n_workers, "checking"))
    if not checked:
        raise ValueError(f"The list {path} has no entries.")
    _find_duplicates(checked, path)
    defects = [defect for entry in checked for defect in entry.defects]
    counts = Counter(defect.kind for defect in defects)
    return {
        "list": str(path),
        "root": str(root),
        "limits": asdict(limits),
        "n_entries": len(checked),
        "n_bad_entries": sum(bool(entry.defects) for entry in checked),
        "n_not_compared": sum(entry.is_not_compared for entry in checked),
        "n_defects": len(defects),
        "by_kind": {kind: counts[kind] for kind in KINDS if counts[kind]},
        "defects": [asdict(defect) for defect in defects],
    }


def check_row(row: Row, path: Path, root: Path, limits: Limits, answers: Path | None) -> Checked:
    """Returns what is wrong with one entry, taken by itself; arguments as in `validate`."""
    found = Checked(row.number, row.entry.get("id") if isinstance(row.entry, dict) else None)
    if row.problem is not None:
        found.add("broken JSON", path, f"line {row.line}: {row.problem}")
        return found
    problem = structural_problem(row.entry)
    if problem is not None:
        found.add("broken entry", path, f"line {row.line}: {problem}")
        return found
    for kind, detail in conversation_defects(row.entry["conversations"]):
        found.add(kind, path, detail)
    if "speech" in row.entry:
        _check_recording(found, root / row.entry["speech"], limits)
    else:
        found.add("missing audio", path, 'the entry has no "speech"')
    if limits.needs_units:
        _check_units(found, row.entry, path, root, limits, answers)
    return found


def conversation_defects(turns: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Yields kind and detail of what is wrong with the turns of an entry."""
    said = [turn["from"] for turn in turns]
    for role in ROLES:
        if role not in said:
            yield f"no {role} turn", f"the turns are {', '.join(said) or 'none'}"
    if set(ROLES) <= set(said) and (len(said) % 2 or any(role != ROLES[i % 2] for i, role in enumerate(said))):
        yield "role order", f"the turns are {', '.join(said)}; they must be human, gpt, ..., gpt"
    n_placeholders = sum(turn["value"].count(PLACEHOLDER) for turn in turns if turn["from"] == "human")
    if "human" in said and n_placeholders == 0:
        yield "missing placeholder", f"no human turn holds {PLACEHOLDER}"
    if n_placeholders > 1:
        yield "broken entry", f"{n_placeholders} times {PLACEHOLDER} for one recording"
    for i, turn in enumerate(turns):
        if turn["from"] == "gpt" and not turn["value"].strip():
            yield "empty answer", f"turn {i} has no text"


def _check_recording(found: Checked, path: Path, limits: Limits) -> None:
    """Reads a question's recording as it is, at its own rate."""
    if not path.is_file():
        found.add("missing audio", path, "there is no such file")
        return
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz, duration_s = file.samplerate, file.frames / file.samplerate
            # of a recording that is too long for training anyway, a piece is enough
            samples = file.read(round(limits.max_s * 2 * rate_hz), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        found.add("unreadable audio", path, f"no wav, flac, mp3 or ogg ({error})")
        return
    if rate_hz != limits.rate_hz:
        found.add("wrong rate", path, f"{rate_hz} Hz, not {limits.rate_hz}")
    if duration_s < limits.min_s:
        found.add("too short", path, f"{duration_s:.3f} s, less than {limits.min_s:g}")
    if duration_s > limits.max_s:
        found.add("too long", path, f"{duration_s:.1f} s, more than {limits.max_s:g}")
    n_bad = int(np.count_nonzero(~np.isfinite(samples)))
    if n_bad:
        found.add("NaN", path, f"{n_bad} samples are no numbers")
    elif samples.size and float(np.abs(samples).max()) < SILENCE_PEAK:
        found.add("silence", path, f"the peak is {float(np.abs(samples).max()):.5f}, under {SILENCE_PEAK:g}")
    elif samples.size:
        found.recording = str(path)
        found.digest = hashlib.blake2b(samples.tobytes(), digest_size=16).digest()


def _check_units(
    found: Checked, entry: dict[str, Any], path: Path, root: Path, limits: Limits, answers: Path | None
) -> None:
    if "units" not in entry:
        found.add("missing units", path, 'the entry has no "units"; a list for stage 1 is checked with --no-units')
        return
    file = root / entry["units"]
    if not file.is_file():
        found.add("missing units", file, "there is no such file")
        return
    try:
        units = read_units(file)
    except UnitsError as error:
        found.add("units of wrong dtype or shape", file, str(error).removeprefix(f"{file} "))
        return
    if units.min() < 0:
        found.add("unit < 0", file, f"{_count(units < 0)}, the least is {units.min()}")
    if units.max() >= limits.n_units:
        found.add("unit >= vocabulary", file, f"{_count(units >= limits.n_units)} of {limits.n_units} or more")
    recording = answer_recording(entry, root, answers)
    if recording is None:
        found.is_not_compared = True
    else:
        _compare(found, file, len(units), recording, limits)


def _compare(found: Checked, file: Path, n: int, recording: Path, limits: Limits) -> None:
    """Holds the number of an answer's units against the length of its recording."""
    if not recording.is_file():
        found.add("missing audio", recording, "there is no such file (the answer)")
        return
    try:
        answer_s = soundfile.info(recording).duration
    except (soundfile.LibsndfileError, OSError) as error:
        found.add("unreadable audio", recording, f"no wav, flac, mp3 or ogg ({error})")
        return
    units_s = n / TOKEN_RATE_HZ
    if abs(units_s - answer_s) > limits.mismatch * answer_s:
        found.add(
            "units/duration mismatch", file, f"{n} units are {units_s:.2f} s, but {recording} lasts {answer_s:.2f} s"
        )


def _count(is_bad: np.ndarray) -> str:
    return f"{np.count_nonzero(is_bad)} of {is_bad.size} units"


def _find_duplicates(checked: Iterable[Checked], path: Path) -> None:
    """Adds the defects that only show when entries are compared; the later one of two has them."""
    ids: dict[str, int] = {}
    recordings: dict[bytes, tuple[int, str]] = {}
    for entry in checked:
        if entry.id is not None and ids.setdefault(str(entry.id), entry.number) != entry.number:
            entry.add("duplicate id", path, f"entry {ids[str(entry.id)]} has the id {entry.id!r} too")
        if entry.digest is not None and entry.recording is not None:
            first, name = recordings.setdefault(entry.digest, (entry.number, entry.recording))
            if first != entry.number:
                entry.add("duplicate audio", entry.recording, f"the same sound as {name} of entry {first}")


def as_text(report: dict[str, Any]) -> str:
    """Returns a report as people read it: kinds in the order of KINDS, entries below."""
    lines = [
        f"{report['list']}: {report['n_entries']} entries, {report['n_defects']} defects "
        f"in {report['n_bad_entries']} entries"
    ]
    for kind, n in report["by_kind"].items():
        lines.append(f"\n{kind} ({n})")
        lines += [
            f"  entry {defect['entry']}, id {defect['id']!r}: {defect['file']}: {defect['detail']}"
            for defect in report["defects"]
            if defect["kind"] == kind
        ]
    if report["n_not_compared"]:
        lines.append(f"\n{report['n_not_compared']} entries without a recording of the answer: length not compared")
    return "\n".join(lines)
