"""OpenAudioBench as the paper uses it: four English sets of spoken questions, answers judged as text and as speech.

The folder is that of baichuan-inc/OpenAudioBench: eval_datas/SET/SET.csv, whose column audio_filename names a recording
in eval_datas/SET/audios/. Source of counts and scales: the paper, section 5 and Tables 1 and 2. Llama Questions is
scored as the percentage of right answers, TriviaQA and Web Questions as the same from 0 to 10, AlpacaEval by a rating
from 1 to 10. s->t judges the text, s->s what a recogniser hears in the speech; WER is that transcript against the text.
The paper's "Avg" of Table 2 weighs each set by its items, as `item_weighted` does (a test recounts it).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vocalnet import files
from vocalnet.benchmarks.journal import Journal, digest
from vocalnet.benchmarks.judges import Judge
from vocalnet.evaluation import SpokenModel
from vocalnet.metrics import bootstrap
from vocalnet.metrics.asr import Recogniser
from vocalnet.metrics.wer import WordErrors, rate, word_errors
from vocalnet.provenance import provenance


@dataclass(frozen=True)
class Subset:
    """One set: how many items it has, its columns, and what one right answer or one point counts."""

    n: int
    question: str
    answers: str | None  # None: open instructions, which are rated
    scale: float
    unit: str


SUBSETS = {
    "alpaca_eval": Subset(199, "instruction", None, 1.0, "rating, 1 to 10"),
    "llama_questions": Subset(300, "Questions", "Answer", 100.0, "percent right"),
    "trivia_qa": Subset(1000, "question", "answer_normalized_aliases", 10.0, "right, 0 to 10"),
    "web_questions": Subset(1000, "question", "answers", 10.0, "right, 0 to 10"),
}
MODALITIES = {"text": "s->t", "speech": "s->s"}
QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")


@dataclass(frozen=True)
class Question:
    """One item."""

    subset: str
    id: str
    audio: Path
    text: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instruments:
    """Who hears, scores and judges; `names` says which they are, for the results."""

    judge: Judge
    recogniser: Recogniser | None = None  # None: the text alone is judged
    scores: dict[str, Callable[[np.ndarray, int], float]] = field(default_factory=dict)  # of speech quality
    spelling: Path | None = None
    names: dict[str, Any] = field(default_factory=dict)


def load_questions(folder: str | Path, n: int | None = None) -> list[Question]:
    """Returns the items of all sets that a folder has, the first `n` of each (None: all).

    Raises:
        ValueError: it has none of the sets, a column or a recording is missing.
    """
    root = Path(folder)
    root = root / "eval_datas" if (root / "eval_datas").is_dir() else root
    found = [name for name in SUBSETS if (root / name / f"{name}.csv").is_file()]
    if not found:
        raise ValueError(
            f"{folder} holds none of {', '.join(SUBSETS)}. Give the folder of baichuan-inc/OpenAudioBench, whose sets "
            "are eval_datas/NAME/NAME.csv with recordings in eval_datas/NAME/audios."
        )
    return [question for name in found for question in _read(root / name, name)[:n]]


def _read(folder: Path, name: str) -> list[Question]:
    """Reads one set."""
    subset, path = SUBSETS[name], folder / f"{name}.csv"
    wanted = [column for column in ("audio_filename", subset.question, subset.answers) if column]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    questions = []
    for number, row in enumerate(rows, 1):
        missing = [column for column in wanted if not (row.get(column) or "").strip()]
        if missing:
            raise ValueError(f"{path}, item {number}: nothing in the column {', '.join(missing)}.")
        audio = folder / "audios" / row["audio_filename"]
        if not audio.is_file():
            raise ValueError(f"{path}, item {number}: there is no recording {audio}. Download the whole data set.")
        answers = tuple(accepted(row[subset.answers])) if subset.answers else ()
        questions.append(Question(name, f"{name}-{number - 1}", audio, row[subset.question].strip(), answers))
    return questions


def accepted(cell: str) -> list[str]:
    """Returns the accepted answers of a cell: a JSON or Python list, a numpy array's print, or one answer as it is.

    Quoted strings are read one by one: a numpy array prints no commas, and Python would join its strings.
    """
    cell = cell.strip()
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    quoted = [re.sub(r"\\(.)", r"\1", single or double) for single, double in QUOTED.findall(cell)]
    return [answer for answer in quoted if answer.strip()] or [cell]


def evaluate(
    model: SpokenModel,
    questions: Sequence[Question],
    instruments: Instruments,
    out: Path,
    *,
    options: Any = None,
    speech: dict[str, Any] | None = None,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Answers every question, judges it, and writes the results; an interrupted run goes on where it stopped.

    Args:
        model: anything with the facade's `respond`.
        questions: of `load_questions`.
        instruments: who hears, scores and judges.
        out: the results file; `OUT.journal` stands beside it until all items are done.
        options: decoding options, passed on.
        speech: further arguments of `respond`, on how an answer sounds.
        seed: of the intervals.
        settings: what else a resumed run must share, such as the model's path.

    Raises:
        ValueError: a recording cannot be used, the judge cannot be reached, or an earlier run had other settings.
    """
    files.check_writable(out)
    judge = {key: value for key, value in instruments.judge.describe().items() if key not in ("date", "served_as")}
    journal = Journal(
        out,
        {
            **(settings or {}),
            "judge": judge,
            "instruments": instruments.names,
            "options": asdict(options) if options is not None else None,
            "seed": seed,
            "items": digest({**asdict(question), "audio": question.audio.name} for question in questions),
        },
    )
    done = {row["id"] for row in journal.rows}
    how = {"options": options, **(speech or {})}
    for question in tqdm([q for q in questions if q.id not in done], "answers", unit="clip", disable=None):
        journal.add(_row(model, question, instruments, how))
    report = {
        "set": "openaudiobench",
        **(settings or {}),
        **summary(journal.rows, seed),
        "n_resumed": journal.n_taken_over,
        "judge": instruments.judge.describe(),
        **instruments.names,
        "options": asdict(options) if options is not None else None,
        "cells": journal.rows,
        **provenance(seed),
    }
    files.write_json(out, report)
    journal.close()
    return report


def _row(model: SpokenModel, question: Question, instruments: Instruments, how: dict[str, Any]) -> dict[str, Any]:
    """Answers one question as `how` says; returns all that the summary needs of it, and what a reader wants to see."""
    recogniser = instruments.recogniser
    try:
        result = model.respond(audio=str(question.audio), speech=recogniser is not None, **how)
    except ValueError as error:
        raise ValueError(f"Item {question.id}: {error}") from error
    row: dict[str, Any] = {"id": question.id, "set": question.subset, "question": question.text, "text": result.text}
    said = {"text": result.text}
    if recogniser is not None:
        samples = np.zeros(0, np.float32) if result.audio is None else result.audio
        row["heard"] = said["speech"] = recogniser.transcribe(samples, result.sample_rate_hz) if len(samples) else ""
        row["errors"] = asdict(word_errors(result.text, row["heard"], instruments.spelling))
        row["scores"] = {
            name: score(samples, result.sample_rate_hz) if len(samples) else None
            for name, score in instruments.scores.items()
        }
    return row | {"judged": {name: _verdict(instruments.judge, question, text) for name, text in said.items()}}


def _verdict(judge: Judge, question: Question, answer: str) -> float | None:
    """Returns 1 or 0 for a question with accepted answers, else a rating."""
    if question.answers:
        return float(judge.is_right(question.text, question.answers, answer))
    return judge.rating(question.text, answer)


def summary(rows: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Returns counts, scores with intervals of every set, and their means over the sets."""
    sets = {name: _of_set(name, own, seed) for name in SUBSETS if (own := [row for row in rows if row["set"] == name])}
    return {
        "n": len(rows),
        "n_of_the_benchmark": sum(subset.n for subset in SUBSETS.values()),
        "is_complete": all(name in sets and sets[name]["n"] == subset.n for name, subset in SUBSETS.items()),
        "sets": sets,
        "means": {"item_weighted": _means(sets, item_weighted), "simple": _means(sets, simple)},
    }


def _of_set(name: str, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    subset = SUBSETS[name]
    report: dict[str, Any] = {"n": len(rows), "n_of_the_benchmark": subset.n, "unit": subset.unit}
    for modality, arrow in MODALITIES.items():
        verdicts = [row["judged"].get(modality) for row in rows]
        report[arrow] = bootstrap.mean([value for value in verdicts if value is not None], seed, subset.scale)
    errors = [WordErrors(**row["errors"]) for row in rows if "errors" in row]
    report["wer"] = rate(errors, seed) if errors else None
    for score in sorted({score for row in rows for score in row.get("scores", {})}):
        values = [row["scores"][score] for row in rows if row.get("scores", {}).get(score) is not None]
        report[score] = bootstrap.mean(values, seed)
    return report


def _means(sets: dict[str, dict[str, Any]], mean: Callable[[Sequence[float], Sequence[int]], float]) -> dict[str, Any]:
    """Returns means over the sets of WER and each score; of right answers, in percent, over the sets that have them."""
    table: dict[str, list[tuple[float, int]]] = {}
    for name, report in sets.items():
        for key, value in report.items():
            if key == "wer" and value is not None:
                table.setdefault("wer", []).append((value["wer"], report["n"]))
            elif isinstance(value, dict) and value.get("mean") is not None:
                if key not in MODALITIES.values():
                    table.setdefault(key, []).append((value["mean"], report["n"]))
                elif SUBSETS[name].answers:
                    percent = 100 * value["mean"] / SUBSETS[name].scale
                    table.setdefault(f"right {key}", []).append((percent, report["n"]))
    return {key: mean(*zip(*rows, strict=True)) for key, rows in table.items()}


def item_weighted(values: Sequence[float], counts: Sequence[int]) -> float:
    """Returns the mean of the sets' values in which every item counts alike."""
    return float(np.average(values, weights=counts))


def simple(values: Sequence[float], counts: Sequence[int]) -> float:
    """Returns the mean in which every set counts alike."""
    return float(np.mean(values))
