"""What each visit has made: recorded answers and the last lab. It lives in memory until the page is closed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vocalnet.grids import Cell
from vocalnet.lab import Report
from vocalnet.runs import Run

MAX_RUNS = 24  # of a visit; a minute of speech takes about 5 MB
MAX_VISITS = 100
MAX_WORDS = 24  # letters of a question in the name of a run


@dataclass
class Trial:
    """Two answers of a lab in a random order, and what the visitor said of them."""

    first: Report
    second: Report
    question: int
    vote: str = ""  # "" until it is cast

    def vote_json(self) -> dict[str, Any]:
        """Returns the vote as plain JSON types."""
        return {
            "first": self.first.cell.label,
            "second": self.second.cell.label,
            "question": self.question + 1,
            "preferred": self.vote,
        }


@dataclass
class Visit:
    """One visitor's runs by name, the newest last; cells, reports, figures (PNG) and trials of the last lab.

    `is_lab_open` tells that the lab has begun, and its figures and files have not been made. `session` is the
    conversation and `n_turns` counts its answers and replays.
    """

    runs: OrderedDict[str, Run] = field(default_factory=OrderedDict)
    cells: list[Cell] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    figures: dict[str, bytes] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    is_lab_open: bool = False
    n_runs: int = 0
    session: Any = None
    n_turns: int = 0

    def add(self, run: Run) -> str:
        """Keeps a run and returns its name; the oldest goes when there are too many."""
        self.n_runs += 1
        words = run.question or run.result.text
        short = words if len(words) <= MAX_WORDS else f"{words[: MAX_WORDS - 1]}…"
        how = f"{run.decoder} {run.options.tokens_per_step}"
        name = f"{self.n_runs} · {how} {run.options.policy} · {short}"
        self.runs[name] = run
        while len(self.runs) > MAX_RUNS:
            self.runs.popitem(last=False)
        return name


class Visits:
    """All visits, by the session that Gradio gives a page.

    `recorded` are runs that every visit has from the start.
    """

    def __init__(self, recorded: Sequence[Run] = ()) -> None:
        self._recorded = recorded
        self._visits: OrderedDict[str | None, Visit] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, visitor: str | None) -> Visit:
        """Returns a visit, a new one if need be; the visit that was away the longest is forgotten."""
        with self._lock:
            if visitor not in self._visits:
                self._visits[visitor] = Visit()
                for run in self._recorded:
                    self._visits[visitor].add(run)
            visit = self._visits[visitor]
            self._visits.move_to_end(visitor)
            while len(self._visits) > MAX_VISITS:
                self._visits.popitem(last=False)
            return visit

    def forget(self, visitor: str | None) -> None:
        """Lets go of all that a visit made."""
        with self._lock:
            self._visits.pop(visitor, None)

    def __len__(self) -> int:
        return len(self._visits)
