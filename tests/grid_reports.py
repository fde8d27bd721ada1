"""A grid's report made by hand, without a model: what the tests of tables and figures read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vocalnet.config import TalkerConfig
from vocalnet.decoder.options import DecodeOptions
from vocalnet.events import TokenStat
from vocalnet.grid import Speech, Spoken, _tables
from vocalnet.grids import Cell
from vocalnet.provenance import provenance

N_ANSWERS = 8
N_WORDS = 10
CELLS = (  # cell, tokens per second, substitutions in every second answer
    (Cell("ntp", DecodeOptions(tokens_per_step=1)), 500.0, 1),
    (Cell("mtp_vocalnet", DecodeOptions(tokens_per_step=1)), 400.0, 1),
    (Cell("mtp_vocalnet", DecodeOptions(tokens_per_step=3)), 800.0, 2),
    (Cell("mtp_vocalnet", DecodeOptions(tokens_per_step=5)), 1200.0, 6),
    (Cell("mtp_vocalnet", DecodeOptions(tokens_per_step=5, policy="top_n", top_n=2)), 1000.0, 2),
    (Cell("mtp_vocalnet", DecodeOptions(tokens_per_step=5, policy="greedy_verify")), 600.0, 1),
)


def spoken(cell: Cell, tokens_per_s: float) -> Spoken:
    """All answers of a cell: two full steps each, the second with other tokens where more than one is said at once."""
    K = cell.options.tokens_per_step
    stats = [TokenStat(head, 1.0 + head, 0.5, -1.0) for _ in range(2) for head in range(K)]
    speech = Speech([7] * K + [8 if K == 1 else 9] * K, stats)
    config = TalkerConfig(dim=16, ffn_dim=32, n_heads=2, mtp_num=4, head=cell.decoder)
    talker: Any = SimpleNamespace(config=config, head=SimpleNamespace(n_heads=1 if cell.decoder == "ntp" else 5))
    n_timed = N_ANSWERS * len(speech.tokens)
    return Spoken(cell, talker, [speech] * N_ANSWERS, [n_timed / tokens_per_s] * 3, n_timed)


def judged(n_errors: int) -> list[dict[str, Any]]:
    """What the judges say: `n_errors` substitutions in every second answer."""
    counts = {"deletions": 0, "insertions": 0, "n_words": N_WORDS}
    rows = [{"heard": "words", "substitutions": n_errors * (i % 2), **counts} for i in range(N_ANSWERS)]
    return [{**row, "dnsmos_p808": 3.0 + n_errors / 10} for row in rows]


def grid_report() -> dict[str, Any]:
    """Returns a complete report of six cells with one ceiling and one cell that was skipped."""
    found = {"source": {"said": "s", "answers": judged(0)}}
    found |= {cell.label: {"said": cell.label, "answers": judged(n_errors)} for cell, _, n_errors in CELLS}
    return {
        "grid": "policies",
        "options": {"n_answers": 200, "n_timed": 20, "repeats": 5, "seed": 0},
        "n_answers": N_ANSWERS,
        "kernel": "packed",
        "skipped": [{"cell": "group_trans_3 3", "reason": "This checkpoint has no decoder 'group_trans_3'."}],
        **_tables([spoken(cell, speed) for cell, speed, _ in CELLS], found, seed=0, costs={}),
        **provenance(0),
    }
