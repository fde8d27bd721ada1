"""How much a list of training pairs holds: hours, tokens, words, and how long its questions and answers are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vocalnet.data.lists import read_entries
from vocalnet.data.units import count_units
from vocalnet.data.workers import each
from vocalnet.metrics.latency import summarise
from vocalnet.tokens import TOKEN_RATE_HZ

N_BINS = 30
Measured = tuple[float, int | None] | str


def statistics(
    path: Path, root: Path | None = None, count: Callable[[str], int] | None = None, n_workers: int | None = None
) -> dict[str, Any]:
    """Returns the counts of a list; recordings and units are measured by their headers.

    Args:
        path: the list.
        root: what its file names are relative to; None: the list's folder.
        count: text -> number of an LLM's tokens; None: only words are counted.
        n_workers: processes; None: one a core.

    Returns:
        {"n_entries", "question_hours", "answer_hours", "n_speech_tokens", "n_words", "n_text_tokens", "question_s" and
        "answer_s" summed up, "histogram": {"edges_s", "questions", "answers"}}; None where nothing was counted.

    Raises:
        ValueError: a recording or a file of units is missing or unreadable.
    """
    root = path.parent if root is None else root
    entries = read_entries(path)
    if not entries:
        raise ValueError(f"The list {path} has no entries.")
    measured = list(each(functools.partial(_measure, root=root), entries, n_workers, "measuring"))
    for found in measured:
        if isinstance(found, str):
            raise ValueError(f"{found}. Run: vocalnet data validate {path}")
    questions_s = [found[0] for found in measured if not isinstance(found, str)]
    n_units = [found[1] for found in measured if not isinstance(found, str) and found[1] is not None]
    answers_s = [n / TOKEN_RATE_HZ for n in n_units]
    texts = [turn["value"] for entry in entries for turn in entry["conversations"] if turn["from"] == "gpt"]
    return {
        "list": str(path),
        "n_entries": len(entries),
        "question_hours": sum(questions_s) / 3600,
        "answer_hours": sum(answers_s) / 3600 if answers_s else None,
        "n_speech_tokens": sum(n_units) if n_units else None,
        "n_words": sum(len(text.split()) for text in texts),
        "n_text_tokens": sum(map(count, texts)) if count else None,
        "question_s": summarise(questions_s),
        "answer_s": summarise(answers_s) if answers_s else None,
        "histogram": _histogram(questions_s, answers_s),
    }


def _measure(entry: dict[str, Any], root: Path) -> Measured:
    """Returns the seconds of a question and the number of its answer's units, or why they cannot be told."""
    recording = root / entry["speech"]
    try:
        question_s = soundfile.info(recording).duration
        return question_s, count_units(root / entry["units"]) if "units" in entry else None
    except (soundfile.LibsndfileError, OSError):
        return f"{recording} is missing or no audio"
    except ValueError as error:
        return str(error)


def _histogram(questions_s: Sequence[float], answers_s: Sequence[float]) -> dict[str, list[float]]:
    edges = np.histogram_bin_edges([0.0, *questions_s, *answers_s], N_BINS)
    named = {"questions": questions_s, "answers": answers_s}
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in named.items()}
    return {"edges_s": edges.tolist(), **counts}


def as_text(report: dict[str, Any]) -> str:
    """Returns the counts in a few lines."""
    lines = [f"{report['n_entries']} entries, {report['n_words']} words of answers"]
    if report["n_text_tokens"] is not None:
        lines.append(f"{report['n_text_tokens']} text tokens")
    for what in ("question", "answer"):
        spread = report[f"{what}_s"]
        if spread is not None:
            hours = report[f"{what}_hours"]
            lines.append(f"{what}s: {hours:.2f} h, median {spread['p50']:.1f} s, 99 % up to {spread['p99']:.1f} s")
    if report["n_speech_tokens"] is not None:
        lines.append(f"{report['n_speech_tokens']} speech tokens")
    return "\n".join(lines)
