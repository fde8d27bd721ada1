"""Which of the paper's orderings a grid of ours reproduces: its Tables 3 and 4 and what section 6.2 reads from them.

The paper's rates are those of another model, other data and another recogniser, so only signs are compared: whether the
decoder that has the lower word error rate in the paper has it here too, paired answer by answer.
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
    """

    claim: str
    lower: str
    higher: str
    published: float
    ours: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """Says on which side of 0 our 95 % interval lies."""
        low, high = self.ours["ci95"]
        return "reproduces" if high < 0 else "reversed" if low > 0 else "undecided"


def orderings(report: dict[str, Any]) -> list[Ordering]:
    """Returns the paper's orderings that a report of the grid "table3" or "table4" has both cells of; else none."""
    grid = report.get("grid", "")
    if grid not in CLAIMS:
        return []
    published = dict(_published(grid, report["decoders"]))
    errors = {cell["cell"]: errors_in(cell["answers"]) for cell in report["cells"]}
    return [
        Ordering(claim, a, b, published[a] - published[b], difference(errors[a], errors[b], report["seed"]))
        for claim, pairs in CLAIMS[grid].items()
        for a, b in pairs
        if a in errors and b in errors
    ]


def _published(grid: str, decoders: list[str]) -> Iterator[tuple[str, float]]:
    """Yields the paper's rate of each cell of a grid.

    Cells stand in the order of the paper's rows, which tells what a row is where the source's text is unclear.
    """
    table = published_table(int(grid.removeprefix("table")))
    labels = [cell.label for cell in GRIDS[grid](decoders)][-len(table.rows) :]  # `ntp` is not in Table 4
    for label, row in zip(labels, table.rows, strict=True):
        rate = row.cells["WER" if "WER" in row.cells else "Avg WER"]
        yield label, rate / 100
