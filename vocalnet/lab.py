"""The speedup lab: questions x cells, in several rounds; a row per cell, which sharpens with every round.

The decoders of a checkpoint share one LLM, which answers greedily, so all cells speak the same texts. After a warm-up
they take turns: in each round every cell answers every question once, by the public stream, and every number of its row
is of these answers. The fastest of the `BASELINES` at one token per step, which answer in the same rounds whether they
were chosen or not, is what a measured speedup is over. For many questions, confidence intervals and ceilings there is
`vocalnet.grid`; this is the quick look with the sound of every answer.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import statistics
import tempfile
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vocalnet import runs
from vocalnet.decoder.options import DecodeOptions
from vocalnet.evaluation import Judges, judge
from vocalnet.events import AudioChunk, Result, SpeechTokens, acceptance
from vocalnet.files import atomic_path
from vocalnet.grid import offered_cells
from vocalnet.grids import Cell
from vocalnet.metrics.latency import real_time_factor, summarise
from vocalnet.metrics.speedup import bounds_of, measured, nominal
from vocalnet.metrics.tokens import agreement
from vocalnet.metrics.wer import WordErrors, corpus_errors
from vocalnet.provenance import provenance
from vocalnet.runs import Run

BASELINES = ("ntp", "mtp_vocalnet")
JUDGED_AT_ONCE = 4  # answers: a recogniser is loaded once for them, and nobody who stops a lab waits for more
# Columns of the table, with the decimals that are shown; None: as it is.
COLUMNS: dict[str, int | None] = {
    "decoder": None,
    "tokens_per_step": None,
    "policy": None,
    "rounds": None,
    "tokens": None,
    "steps": None,
    "nominal": 2,  # tokens kept per step: the paper's speedup
    "bound_layers": 2,  # what this could gain if time went with the layers run
    "bound_weights": 2,  # or with the weights read
    "measured": 2,  # over the baseline, wall clock of the talker
    "tokens_per_s": 1,
    "first_audio_p50_s": 3,
    "first_audio_p90_s": 3,
    "real_time_factor": 3,
    "wer_percent": 1,
    "dnsmos_p808": 2,
    "agreement_percent": 1,  # with the same decoder at one token per step, place by place
    "baseline": None,
}


@dataclass(frozen=True, slots=True)
class Question:
    """A spoken question, and its words where they are known."""

    audio: Any
    words: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done; comes with every event of every answer."""

    what: str
    cell: Cell
    n_done: int  # answers
    n_all: int


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one cell so far: its row of the table, and its answers in the order of the questions."""

    cell: Cell
    row: dict[str, Any]
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class _Trial:
    """Seconds of one answer; `audio_s` is its length, `n_tokens` are its speech tokens."""

    n_tokens: int
    talker_s: float
    first_audio_s: float | None
    total_s: float
    audio_s: float

    @classmethod
    def of(cls, result: Result) -> _Trial:
        times = result.timings
        n = 0 if result.audio is None else len(result.audio)
        n_tokens = len(result.speech_tokens)
        return cls(
            n_tokens, times["talker"], times.get("first_audio"), times["total"], n / max(result.sample_rate_hz, 1)
        )


def make_cells(
    decoders: Sequence[str],
    tokens_per_step: Sequence[int],
    policies: Sequence[str] = ("fixed",),
    options: DecodeOptions | None = None,
) -> list[Cell]:
    """Returns every combination, whether or not a checkpoint can run it (`grid.offered_cells` tells)."""
    base = options or DecodeOptions()
    product = itertools.product(decoders, tokens_per_step, policies)
    return [Cell(name, replace(base, tokens_per_step=K, policy=policy)) for name, K, policy in product]


def stream(
    model: Any, questions: Sequence[Question], cells: Sequence[Cell], rounds: int = 3, judges: Judges | None = None
) -> Generator[Progress | Report, None, None]:
    """Yields a report whenever a cell has finished a round, and once more when it has been judged.

    Progress comes in between, at every event of an answer, so that closing this iterator ends it within one event.

    Args:
        model: a loaded model with the cells' decoders.
        questions: what every cell is asked.
        cells: decoders and how they decode; what the checkpoint cannot run is left out.
        rounds: times that every cell answers every question; times are medians over them.
        judges: who hears and scores the answers; None: nobody.

    Raises:
        ValueError: there is nothing to do, no cell can run, a question cannot be used, or a judge is not installed.
    """
    if not questions or not cells or rounds < 1:
        raise ValueError("A lab needs at least one question, one cell and one round.")
    offered, refused = offered_cells(model, cells)
    if not offered:
        raise ValueError(f"This model cannot run any of these cells: {refused[0]['reason']}")
    bench = _Bench(model, questions, offered, rounds)
    check_judges(judges)
    yield from bench.warm_up()
    for number in range(rounds):
        waiting: list[Cell] = []  # for those that they are compared with
        for cell in bench.turns(number):
            yield from bench.answer_all(cell)
            waiting += [cell] if cell in offered else []
            if bench.has_references(number):
                yield from map(bench.report, waiting)
                waiting.clear()
    if judges is not None:
        yield from judged([bench.report(cell) for cell in offered], judges)


def check_judges(judges: Judges | None) -> None:
    """Raises ValueError if a judge is not installed: now, and not after the work."""
    if judges is not None:
        judges.make_mos()
        judges.transcribe([])


def judged(reports: Sequence[Report], judges: Judges) -> Generator[Progress | Report, None, None]:
    """Yields each report with what the judges say of its answers, and progress in between; needs no model."""
    score = judges.make_mos()
    n_done, n_all = 0, sum(len(report.runs) for report in reports)
    for report in reports:
        errors, marks = list[WordErrors](), list[float]()
        results = [run.result for run in report.runs]
        for start in range(0, len(results), JUDGED_AT_ONCE):
            some = results[start : start + JUDGED_AT_ONCE]
            yield Progress("Judging", report.cell, n_done, n_all)
            clips = [(np.zeros(0, np.float32) if r.audio is None else r.audio, r.sample_rate_hz) for r in some]
            track = judge([r.text for r in some], clips, judges.transcribe, score)
            errors += track.errors
            marks += [mos.p808 for mos in track.mos if mos is not None]
            n_done += len(some)
        found = {
            "wer_percent": 100 * corpus_errors(errors).wer,
            "dnsmos_p808": float(np.mean(marks)) if marks else None,
        }
        yield replace(report, row=report.row | {name: _rounded(found[name], COLUMNS[name]) for name in found})


def most_answers(decoders: Sequence[str], n_questions: int, cells: Sequence[Cell], rounds: int) -> int:
    """Returns how many answers a lab takes at most after its warm-up, with those that its cells are compared with.

    A checkpoint that has `decoders` and cannot run some of the cells takes fewer.
    """
    baselines, singles = _references(decoders, cells)
    order = dict.fromkeys([*baselines, *singles, *cells])
    n_timed = sum(cell in baselines or cell in cells for cell in order)
    return n_questions * (len(order) + (rounds - 1) * n_timed)


def _references(decoders: Sequence[str], cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Returns the baselines, and each cell's own decoder at one token per step."""
    single = replace(cells[0].options, tokens_per_step=1, policy="fixed")
    baselines = [Cell(name, single) for name in BASELINES if name in decoders]
    return baselines, [Cell(cell.decoder, single) for cell in cells]


def measure(
    model: Any, questions: Sequence[Question], cells: Sequence[Cell], rounds: int = 3, judges: Judges | None = None
) -> list[Report]:
    """Returns the last report of every cell that ran; arguments and errors of `stream`."""
    last = {item.cell: item for item in stream(model, questions, cells, rounds, judges) if isinstance(item, Report)}
    return [last[cell] for cell in dict.fromkeys(cells) if cell in last]


class _Bench:
    """All state of one lab."""

    def __init__(self, model: Any, questions: Sequence[Question], cells: Sequence[Cell], rounds: int) -> None:
        self.model = model
        self.questions = questions
        self.baselines, self.singles = (offered_cells(model, some)[0] for some in _references(model.decoders, cells))
        self.references = list(dict.fromkeys([*self.baselines, *self.singles]))  # what others are compared with
        order = dict.fromkeys([*self.references, *cells])
        self.timed = [cell for cell in order if cell in self.baselines or cell in cells]
        self.trials: dict[Cell, list[list[_Trial]]] = {cell: [] for cell in order}
        self.runs: dict[Cell, tuple[Run, ...]] = {}  # of the first round
        self.n_done = 0
        self.n_all = len(questions) * (len(order) + (rounds - 1) * len(self.timed))

    def has_references(self, number: int) -> bool:
        """Whether all that rows are compared with has answered in a round, as far as it takes part."""
        taking_part = self.turns(number)
        return all(len(self.trials[cell]) > number for cell in self.references if cell in taking_part)

    def turns(self, number: int) -> list[Cell]:
        """Returns the cells of a round, references first; those that nobody times answer once."""
        return self.timed if number else list(self.trials)

    def warm_up(self) -> Iterator[Progress]:
        """Lets every cell speak its first tokens, and one be heard: allocations and kernels are nobody's speed."""
        for n, cell in enumerate(self.trials):
            events = self._stream(cell, self.questions[0])
            with closing(events):
                for event in events:
                    yield Progress("Warming up", cell, self.n_done, self.n_all)
                    if isinstance(event, SpeechTokens if n else AudioChunk):
                        break

    def answer_all(self, cell: Cell) -> Iterator[Progress]:
        """Lets a cell answer all questions once."""
        trials, answered = [], []
        for question in self.questions:
            seen = []
            events = self._stream(cell, question)
            with closing(events):
                for event in events:
                    seen.append(event)
                    yield Progress("Answering", cell, self.n_done, self.n_all)
            self.n_done += 1
            model = self.model.with_decoder(cell.decoder)
            answered.append(runs.record(model, seen, cell.options, question.words))
            trials.append(_Trial.of(answered[-1].result))
        self.trials[cell].append(trials)
        self.runs.setdefault(cell, tuple(answered))
        self._check_texts(cell)

    def report(self, cell: Cell) -> Report:
        """Returns what is known of a cell by now."""
        row = {"decoder": cell.decoder, **self._counts(cell), **self._times(cell), **self._quality(cell)}
        return Report(cell, {name: _rounded(row[name], digits) for name, digits in COLUMNS.items()}, self.runs[cell])

    def _stream(self, cell: Cell, question: Question) -> Any:
        return self.model.with_decoder(cell.decoder).stream(audio=question.audio, options=cell.options)

    def _check_texts(self, cell: Cell) -> None:
        """Raises ValueError unless a cell spoke the texts of the first one."""
        first = next(iter(self.runs.values()))
        if [run.result.text for run in self.runs[cell]] != [run.result.text for run in first]:
            raise ValueError(
                "The model wrote another text for the same question, so that its decoders cannot be compared. "
                "Load it with dtype float32."
            )

    def _counts(self, cell: Cell) -> dict[str, Any]:
        """Returns what was decoded, and the bounds on the gain of it."""
        stats = [stat for run in self.runs[cell] for stat in run.result.stats]
        config = self.model.with_decoder(cell.decoder).parts.talker
        bounds = bounds_of(config, stats) if stats else {"layers": None, "weights": None}
        return {
            "tokens_per_step": cell.options.tokens_per_step,
            "policy": cell.policy,
            "tokens": self._n_tokens(cell),
            "steps": acceptance(stats).n_steps,
            "nominal": nominal(stats),
            "bound_layers": bounds["layers"],
            "bound_weights": bounds["weights"],
        }

    def _times(self, cell: Cell) -> dict[str, Any]:
        """Returns what the clock says: medians over rounds, percentiles over all answers."""
        trials = [trial for answered in self.trials[cell] for trial in answered]
        firsts = [trial.first_audio_s for trial in trials if trial.first_audio_s is not None]
        first = summarise(firsts) if firsts else {"p50": None, "p90": None}
        heard = [trial for trial in trials if trial.audio_s > 0]
        speed = self._tokens_per_s(cell)
        speaking = [cell for cell in self.baselines if self._n_tokens(cell)]
        fastest = max(speaking, key=self._tokens_per_s, default=None)
        return {
            "rounds": len(self.trials[cell]),
            "measured": measured(speed, self._tokens_per_s(fastest)) if fastest else None,
            "tokens_per_s": speed,
            "first_audio_p50_s": first["p50"],
            "first_audio_p90_s": first["p90"],
            "real_time_factor": real_time_factor([t.total_s for t in heard], [t.audio_s for t in heard])
            if heard
            else None,
            "baseline": fastest.label if fastest else None,
        }

    def _quality(self, cell: Cell) -> dict[str, Any]:
        """Returns how far the speech is that of one token per step of the same decoder; the judges come later."""
        single = next((other for other in self.singles if other.decoder == cell.decoder), None)
        pairs = zip(self.runs[cell], self.runs[single], strict=True) if single else ()
        shares = [agreement(own.result.speech_tokens, other.result.speech_tokens) for own, other in pairs]
        return {
            "wer_percent": None,
            "dnsmos_p808": None,
            "agreement_percent": 100 * float(np.mean(shares)) if shares else None,
        }

    def _n_tokens(self, cell: Cell) -> int:
        return sum(len(run.result.speech_tokens) for run in self.runs[cell])

    def _tokens_per_s(self, cell: Cell) -> float:
        """Returns the median over rounds, which draw other tokens where they are drawn without a seed."""
        rounds = self.trials[cell]
        sums = [(sum(t.n_tokens for t in trials), sum(t.talker_s for t in trials)) for trials in rounds]
        return statistics.median(n / seconds if n else 0.0 for n, seconds in sums)


def _rounded(value: Any, digits: int | None) -> Any:
    return value if value is None or digits is None else round(value, digits)


def texts(row: Mapping[str, Any]) -> list[str]:
    """Returns a row as the table and the CSV show it, "" for what was not measured."""
    return [
        "" if row[name] is None else str(row[name]) if digits is None else f"{row[name]:.{digits}f}"
        for name, digits in COLUMNS.items()
    ]


def to_csv(reports: Sequence[Report]) -> str:
    """Returns the table as CSV, a header line first."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([list(COLUMNS), *(texts(report.row) for report in reports)])
    return out.getvalue()


def to_json(reports: Sequence[Report]) -> dict[str, Any]:
    """Returns the table and what was asked and answered, with machine, date and code."""
    seeds = {report.cell.options.seed for report in reports}
    return {
        "rows": [report.row for report in reports],
        "temperatures": sorted({report.cell.options.temperature for report in reports}),
        "questions": [{"words": run.question, "answer": run.result.text} for run in reports[0].runs],
        **provenance(seeds.pop() if len(seeds) == 1 else None),
    }


def save(reports: Sequence[Report], path: str | Path, files: Mapping[str, bytes] | None = None) -> Path:
    """Writes a ZIP with table.csv, table.json, every answer as a run file under runs/, and further `files` by name.

    Raises:
        ValueError: it cannot be written.
    """
    path = Path(path)
    with (
        tempfile.TemporaryDirectory() as folder,
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr("table.csv", to_csv(reports))
        archive.writestr("table.json", json.dumps(to_json(reports), indent=1))
        for name, data in (files or {}).items():
            archive.writestr(name, data)
        for report in reports:
            for number, run in enumerate(report.runs, 1):
                name = f"{report.cell.label.replace(' ', '-')}-question-{number}.zip"
                archive.write(runs.save(run, Path(folder) / name), f"runs/{name}")
    return path
