"""What a lab is ordered by and what it looks like: limits, table, figures, files. The tab lays it out."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from demo import plots, render
from demo.answering import arrivals
from demo.decoding import whole_seed
from demo.state import App
from demo.timeline import N_CANDIDATES
from demo.visits import Visit
from vocalnet import DecodeOptions, lab
from vocalnet.evaluation import Judges
from vocalnet.grids import Cell
from vocalnet.lab import Progress, Question, Report

JUDGING_S = 1.0  # an answer, about
MAX_CELLS = 16
MAX_ANSWERS = 240
HEADINGS = {
    "decoder": "Decoder",
    "tokens_per_step": "Per step",
    "policy": "Policy",
    "rounds": "Rounds",
    "tokens": "Tokens",
    "steps": "Steps",
    "nominal": "nominal",
    "bound_layers": "bound, layers",
    "bound_weights": "bound, weights",
    "measured": "measured",
    "tokens_per_s": "Tokens/s",
    "first_audio_p50_s": "p50",
    "first_audio_p90_s": "p90",
    "real_time_factor": "RTF",
    "wer_percent": "WER (%)",
    "dnsmos_p808": "MOS",
    "agreement_percent": "Own 1× (%)",
    "baseline": "Over",
}
GROUPS = (("", 6), ("Speedup (×)", 4), ("", 1), ("First audio (s)", 2), ("", 5))
CAPTION = (
    "Nominal counts the tokens kept per step: the paper's speedup. A step that says more also runs more layers and "
    "reads more weights; the bounds are what it can gain if time goes with them. Measured is the talker's wall clock, "
    "the median over rounds in which the cells take turns after a warm-up, over the fastest one token per step of ntp "
    "and mtp_vocalnet in the same rounds. Own 1×: tokens that are those of the same decoder at one token per step. "
    "MOS: DNSMOS P.808."
)
ARCHIVE = "vocalnet-lab.zip"
FILES = {
    "table.csv": "Table (CSV)",
    "table.json": "Table (JSON)",
    "speedups.png": "Speedups (PNG)",
    "pareto.png": "WER and speed (PNG)",
    ARCHIVE: "All, with every run (ZIP)",
}


@dataclass(frozen=True)
class Order:
    """A lab that was ordered: what to ask whom how often, and who judges."""

    questions: list[Question]
    cells: list[Cell]
    rounds: int
    judges: Judges | None

    @property
    def n_own(self) -> int:
        """The answers of its cells, without those that they are compared with."""
        return len(self.questions) * len(self.cells) * self.rounds

    def batches(self, model: Any) -> Generator[list[Progress | Report], None, None]:
        """Runs it, and yields what has come several times a second; the judges take turns with other jobs."""
        lab.check_judges(self.judges)
        last: dict[Cell, Report] = {}
        measuring = partial(lab.stream, model, self.questions, self.cells, self.rounds)
        with closing(arrivals(measuring, is_alone=True)) as measured:
            for items in measured:
                last |= {item.cell: item for item in items if isinstance(item, Report)}
                yield items
        if self.judges is not None:
            with closing(arrivals(partial(lab.judged, list(last.values()), self.judges), limit_s=math.inf)) as judged:
                yield from judged


def order(
    app: App,
    questions: Sequence[Question],
    decoders: Sequence[str],
    tokens_per_step: Sequence[int],
    policies: Sequence[str],
    rounds: int,
    seed: float | None,
    mask: str,
    is_judged: bool,
    temperature: float,
    top_n: float | None,
    alpha: float | None,
    eps: float | None,
    tau: float | None,
) -> Order:
    """Returns a lab that this page is ready to run.

    Raises:
        ValueError: nothing was chosen, or more than a page should run.
    """
    if not questions:
        raise ValueError("Choose or record at least one question.")
    options = DecodeOptions(
        temperature=temperature,
        seed=whole_seed(seed),
        mask="streaming" if mask == "streaming" else "full",
        n_candidates=N_CANDIDATES,
        top_n=int(_filled(top_n, "top_n")),
        alpha=_filled(alpha, "alpha"),
        eps=_filled(eps, "eps"),
        tau=_filled(tau, "tau"),
    )
    cells = lab.make_cells(decoders, [int(K) for K in tokens_per_step], policies, options)
    if not cells:
        raise ValueError("Choose at least one decoder, one number of tokens per step and one policy.")
    found = Order(list(questions), cells, int(rounds), app.judges if is_judged else None)
    if len(cells) > MAX_CELLS:
        raise ValueError(
            f"This lab would have {len(cells)} cells; {MAX_CELLS} are the most. Choose fewer of something."
        )
    if found.n_own > MAX_ANSWERS:
        raise ValueError(
            f"This lab would take {found.n_own} answers; {MAX_ANSWERS} are the most. "
            "Choose fewer cells, questions or rounds."
        )
    return found


def _filled(value: float | None, name: str) -> float:
    """Returns what a field holds.

    Raises:
        ValueError: it was emptied, or holds no usable number.
    """
    if value is None or not math.isfinite(value):
        raise ValueError(
            f"The field {name} holds no number: write a number, such as {getattr(DecodeOptions(), name):g}."
        )
    return value


def size(found: Order, decoders: Sequence[str], answer_s: float) -> str:
    """Returns how much work a lab is; `answer_s` is what the first answer took, the slowest of all."""
    parts = [(len(found.cells), "cell"), (len(found.questions), "question"), (found.rounds, "round")]
    product = " × ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in parts)
    n = lab.most_answers(decoders, len(found.questions), found.cells, found.rounds)
    n_judged = len(found.questions) * len(found.cells) if found.judges else 0
    seconds = max(1.0, n * answer_s + n_judged * JUDGING_S)
    return f"{product}, with what they are compared with: up to {n} answers, about {seconds:.0f} s at most."


def table(reports: Sequence[Report]) -> str:
    """Returns the table so far, with the words that explain it."""
    headings = [HEADINGS[name] for name in lab.COLUMNS]
    body = [lab.texts(report.row) for report in reports]
    return render.table("Speedup lab", headings, body, GROUPS) + render.note(CAPTION)


def remarks(refused: Sequence[dict[str, str]]) -> str:
    """Returns why some cells did not run."""
    return "".join(render.note(f"{row['cell']} was left out: {row['reason'].rstrip('.')}.") for row in refused)


def figures(reports: Sequence[Report]) -> dict[str, Any]:
    """Returns the figures by file name: speedups, and WER against speed where there was a judge."""
    rows = [{"cell": report.cell.label, **report.row} for report in reports]
    heard = [{**row, "wer": row["wer_percent"] / 100, "ci95": None} for row in rows if row["wer_percent"] is not None]
    drawn = {"speedups.png": plots.speedups(rows)}
    return drawn | {"pareto.png": plots.pareto(heard)} if heard else drawn


def write_files(visit: Visit, folder: Path) -> dict[str, Path]:
    """Writes what can be downloaded of a visit's lab, and returns the paths by the names in `FILES`."""
    (folder / "table.csv").write_text(lab.to_csv(visit.reports))
    (folder / "table.json").write_text(json.dumps(lab.to_json(visit.reports), indent=1))
    for name, data in visit.figures.items():
        (folder / name).write_bytes(data)
    write_archive(visit, folder)
    return {name: folder / name for name in FILES if (folder / name).exists()}


def write_archive(visit: Visit, folder: Path) -> Path:
    """Writes the ZIP of all: table, figures, runs and the votes of the blind test."""
    votes = json.dumps([trial.vote_json() for trial in visit.trials if trial.vote], indent=1).encode()
    return lab.save(
        visit.reports, folder / ARCHIVE, {**visit.figures, **({"votes.json": votes} if visit.trials else {})}
    )
