"""Which of the paper's orderings a grid of ours reproduces: its Tables 3 and 4 and what section 6.2 reads from them.

The paper's rates are those of another model, other data and another recogniser, so only signs are compared: whether the
decoder that has the lower word error rate in the paper has it here too, paired answer by answer. Two trainings of one
decoder differ as well, so where the grid "seeds" has a second training of one of the two, it has to say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from vocalnet.grids import COMMON_BUDGET as VOCALNET
from vocalnet.grids import GRIDS
from vocalnet.metrics.wer import difference, errors_in
from vocalnet.published import published_table

Verdict = Literal["reproduces", "reversed", "undecided"]

SECOND = "_seed2 "  # between a decoder's name and its tokens per step: a second training of it
GROUPS = ("group_linear", "group_trans")
OTHERS = ("mtp_parallel_linear", "mtp_deepseek")

# What the paper says, and the pairs of cells that it says it of, the one with the lower rate first.
CLAIMS: dict[str, dict[str, list[tuple[str, str]]]] = {
    "table3": {
        "grouping costs words": [("ntp 1", f"{head}_{size} {size}") for head in GROUPS for size in (3, 5)],
        "the larger group costs more": [(f"{head}_3 3", f"{head}_5 5") for head in GROUPS],
        "modules help at one token per step": [(f"{head} 1", "ntp 1") for head in (*OTHERS, VOCALNET)],
        "MTP-VocalNet beats NTP when faster": [(f"{VOCALNET} {K}", "ntp 1") for K in (3, 5)],
        "3 per step beat 1": [(f"{head} 3", f"{head} 1") for head in (*OTHERS, VOCALNET)],
        "5 per step cost words": [(f"{head} 3", f"{head} 5") for head in (*OTHERS, VOCALNET)],
        "MTP-VocalNet is the best": [(f"{VOCALNET} {K}", f"{head} {K}") for head in OTHERS for K in (1, 3, 5)],
    },
    "table4": {
        "3 per step are the best": [
            (f"mtp_vocalnet_{M} 3", f"mtp_vocalnet_{M} {K}")
            for M, steps in ((2, [1]), (4, [1, 5]), (6, [1, 5, 7]))
            for K in steps
        ],
        "4 modules at 3 per step are the best": [(f"{VOCALNET} 3", f"mtp_vocalnet_{M} 3") for M in (2, 6)],
    },
}


@dataclass(frozen=True, slots=True)
class Ordering:
    """One pair of cells: what the paper says of it, and what we measured.

    Attributes:
        claim: the paper's finding that it is part of.
        lower: the cell with the lower word error rate in the paper.
        higher: the other.
        published: the paper's difference, lower - higher, as a fraction of words: below 0.
        ours: {"wer", "ci95"}: ours, paired by answer.
        others: the same with second trainings of the two, or of one of them.
    """

    claim: str
    lower: str
    higher: str
    published: float
    ours: dict[str, Any]
    others: tuple[dict[str, Any], ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Says on which side of 0 all our 95 % intervals lie."""
        intervals = [found["ci95"] for found in (self.ours, *self.others)]
        if all(high < 0 for _, high in intervals):
            return "reproduces"
        return "reversed" if all(low > 0 for low, _ in intervals) else "undecided"


def orderings(report: dict[str, Any], seeds: dict[str, Any] | None = None) -> list[Ordering]:
    """Returns the paper's orderings that a report of the grid "table3" or "table4" has both cells of; else none.

    `seeds` is a report of the grid "seeds"; it counts where it is of the same weights and the same texts.
    """
    grid = report.get("grid", "")
    if grid not in CLAIMS:
        return []
    published = dict(_published(grid, report["decoders"]))
    errors = {cell["cell"]: errors_in(cell["answers"]) for cell in report["cells"]}
    again = {}
    if seeds is not None and all(seeds[name] == report[name] for name in ("model", "texts")):
        again = {cell["cell"]: errors_in(cell["answers"]) for cell in seeds["cells"] if SECOND in cell["cell"]}

    def compared(a: str, b: str) -> Iterator[dict[str, Any]]:
        """Yields the difference of two cells, and those that second trainings make."""
        for first, second in _trainings(a, b):
            own = [errors.get(name, again.get(name)) for name in (first, second)]
            if own[0] is not None and own[1] is not None:
                yield difference(own[0], own[1], report["seed"])

    found = []
    for claim, pairs in CLAIMS[grid].items():
        for a, b in pairs:
            if a in errors and b in errors:
                ours, *others = compared(a, b)
                found.append(Ordering(claim, a, b, published[a] - published[b], ours, tuple(others)))
    return found


def _trainings(a: str, b: str) -> list[tuple[str, str]]:
    """Returns a pair of cells, and the same with second trainings: of both where they are of one decoder."""
    second_a, second_b = (SECOND.join(name.rsplit(" ", 1)) for name in (a, b))
    if a.split(" ")[0] == b.split(" ")[0]:
        return [(a, b), (second_a, second_b)]
    return [(a, b), (second_a, b), (a, second_b), (second_a, second_b)]


def _published(grid: str, decoders: list[str]) -> Iterator[tuple[str, float]]:
    """Yields the paper's rate of each cell of a grid.

    Cells stand in the order of the paper's rows, which tells what a row is where the source's text is unclear.
    """
    table = published_table(int(grid.removeprefix("table")))
    labels = [cell.label for cell in GRIDS[grid](decoders)][-len(table.rows) :]  # `ntp` is not in Table 4
    for label, row in zip(labels, table.rows, strict=True):
        rate = row.cells["WER" if "WER" in row.cells else "Avg WER"]
        yield label, rate / 100
