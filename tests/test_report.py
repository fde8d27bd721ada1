"""Tables: numbers and words from a report made by hand; the README's are those of the results."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from grid_reports import grid_report, judged, spoken

from vocalnet import DecodeOptions
from vocalnet.grid import _tables
from vocalnet.grids import GRIDS, Cell
from vocalnet.orderings import CLAIMS, orderings
from vocalnet.report import fill, load_results, no_worse_and_faster, pareto_points, sections

ROOT = Path(__file__).parents[1]
BENCH = {
    "preset": "nano",
    "what": "talker",
    "dtype": "float32",
    "kernel": "packed",
    "cells": [{"head": "ntp", "tokens_per_step": 1, "seconds": [0.1, 0.2], "tokens_per_s": 1234.5}],
    "machine": {"cpu": "a processor", "torch_threads": 2, "gpu": None},
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc",
    "seed": 0,
}


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_grid_table():
    tables = sections({"policies": grid_report()})
    table = tables["policies"]
    (row,) = lines(table, "| mtp_vocalnet | 5 | top_n=2 |")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3].startswith("10.0 [")
    assert cells[4:6] == ["8 / 0 / 0", "+5.0 [+1.2, +8.8]"]
    assert cells[6:8] == ["+0.0 [+0.0, +0.0]", "3.20"]
    assert cells[8:] == ["5.00×", "2.50 / " + cells[9].split(" / ")[1], "2.00×", "1000", "10 %"]
    (baseline,) = lines(table, "| ntp |")
    assert baseline.count("–") == 2  # no difference from itself, no fixed 3
    assert "Ceiling, source voice: WER 0.0 [0.0, 0.0] %, DNSMOS 3.00." in table
    assert "Not run: group_trans_3 3 (This checkpoint has no decoder 'group_trans_3')." in table
    assert "measured over ntp 1, the fastest" in table
    assert "not finished" not in table
    assert "not finished" in sections({"x": {**grid_report(), "is_complete": False}})["x"]
    (head,) = lines(tables["policies-tokens"], "| mtp_vocalnet 3 | 2 |")
    assert head == "| mtp_vocalnet 3 | 2 | 16 | 100 % | 3.00 | 0.50 |"


def test_the_finding_names_policies_that_earn_their_keep():
    report = grid_report()
    ((cell, faster),) = no_worse_and_faster(report)
    assert (cell["cell"], faster) == ("mtp_vocalnet 5 top_n=2", pytest.approx(1.25))
    assert "mtp_vocalnet 5 top_n=2 (+0.0 [+0.0, +0.0] points, 1.25 times as fast)." in sections({"x": report})["x"]
    report["cells"] = [row for row in report["cells"] if "top_n" not in row["cell"]]
    assert "beyond doubt: none." in sections({"x": report})["x"]
    report["cells"] = [row for row in report["cells"] if row["policy"] == "fixed"]
    assert "beyond doubt" not in sections({"x": report})["x"]


def test_fixed_3_at_another_temperature_is_another_cell():
    own = partial(Cell, "mtp_vocalnet")
    cells = (
        (own(DecodeOptions(tokens_per_step=3)), 800.0, 2),
        (own(DecodeOptions(tokens_per_step=3, temperature=1.0)), 300.0, 4),
        (own(DecodeOptions(tokens_per_step=5, policy="top_n")), 700.0, 1),
        (own(DecodeOptions(tokens_per_step=3, policy="rejection", temperature=1.0)), 400.0, 1),
    )
    found = {cell.label: {"said": cell.label, "answers": judged(n)} for cell, _, n in cells}
    report = _tables([spoken(cell, speed) for cell, speed, _ in cells], found, seed=0, costs={})
    rows = {row["cell"]: row for row in report["cells"]}
    assert rows["mtp_vocalnet 3 rejection T=1"]["minus_fixed_3"]["wer"] == pytest.approx(-0.15)  # not of the greedy one
    faster = [(row["cell"], times) for row, times in no_worse_and_faster(report)]
    assert faster == [("mtp_vocalnet 3 rejection T=1", pytest.approx(4 / 3))]


def table_report(grid, n_errors):
    """A grid after one of the paper's tables: `n_errors` substitutions in every second answer of each cell."""
    decoders = ["mtp_vocalnet_4"]
    cells = [{"cell": name, "answers": judged(n)} for name, n in n_errors.items()]
    return {"grid": grid, "decoders": decoders, "cells": cells, "seed": 0, "model": {"name": "a"}, "texts": []}


def test_the_papers_orderings_are_looked_up_in_our_answers():
    found = orderings(
        table_report("table3", {"ntp 1": 2, "group_linear_3 3": 4, "mtp_vocalnet_4 1": 2, "mtp_vocalnet_4 3": 3})
    )
    assert {(row.lower, row.higher): row.verdict for row in found} == {
        ("ntp 1", "group_linear_3 3"): "reproduces",
        ("mtp_vocalnet_4 1", "ntp 1"): "undecided",
        ("mtp_vocalnet_4 3", "ntp 1"): "reversed",
        ("mtp_vocalnet_4 3", "mtp_vocalnet_4 1"): "reversed",
    }
    assert found[0].published == pytest.approx(0.1062 - 0.1150)
    assert found[0].ours["wer"] == pytest.approx(-0.1)
    assert orderings(grid_report()) == []


def test_a_second_training_has_to_say_the_same():
    report = table_report(
        "table3",
        {"ntp 1": 2, "group_linear_3 3": 4, "group_trans_3 3": 6, "mtp_vocalnet_4 1": 1, "mtp_vocalnet_4 3": 0},
    )
    seeds = table_report(
        "seeds", {"ntp 1": 2, "ntp_seed2 1": 4, "mtp_vocalnet_4_seed2 1": 1, "mtp_vocalnet_4_seed2 3": 0}
    )
    found = {(row.lower, row.higher): row for row in orderings(report, seeds)}
    assert found["ntp 1", "group_linear_3 3"].verdict == "undecided"  # the second `ntp` is no better
    assert found["ntp 1", "group_trans_3 3"].verdict == "reproduces"
    assert found["mtp_vocalnet_4 3", "mtp_vocalnet_4 1"].verdict == "reproduces"
    counts = {pair: len(row.others) for pair, row in found.items()}
    assert counts["ntp 1", "group_trans_3 3"] == 1
    assert counts["mtp_vocalnet_4 3", "mtp_vocalnet_4 1"] == 1  # second with second
    assert counts["mtp_vocalnet_4 3", "ntp 1"] == 3
    other = {**seeds, "texts": [{"id": "1"}]}
    assert all(not row.others for row in orderings(report, other))


@pytest.mark.parametrize("grid", CLAIMS)
def test_what_we_say_that_the_paper_finds_is_in_its_table(grid):
    labels = [cell.label for cell in GRIDS[grid](["mtp_vocalnet_4"])]
    found = orderings(table_report(grid, dict.fromkeys(labels, 1)))
    assert len(found) == sum(map(len, CLAIMS[grid].values()))
    assert all(row.published < 0 for row in found)


def test_pareto_points():
    point, other, *_ = pareto_points(grid_report())
    assert other["cell"] == "1"  # the decoder of most cells is left out
    assert (point["cell"], point["policy"], point["tokens_per_s"]) == ("ntp 1", "fixed", pytest.approx(500))
    assert point["wer"] == pytest.approx(0.05)
    assert len(point["ci95"]) == 2


def test_bench_table():
    table = sections({"bench": BENCH})["bench"]
    assert table.splitlines()[0] == "| head | tokens per step | tokens per s |"
    assert "| ntp | 1 | 1.23e+03 |" in table
    assert "nano, talker, float32, kernel packed, random weights. a processor, 2 threads, 2026-01-02" in table


MADE = {name: BENCH[name] for name in ("machine", "date", "commit", "seed")}


def test_streaming_grid_table():
    report = grid_report()
    seams = {"n": 200, "n_rough": 3, "n_rough_whole": 2}
    stream = {"first_sound_s": 0.0423, "real_time_factor": 0.1, "seams": seams}
    difference = {"wer": 0.002, "ci95": (-0.01, 0.014)}
    report["cells"][0] |= {"stream": stream, "minus_offline": difference, "minus_whole": None}
    table = sections({"x": {**report, "grid": "streaming"}})["x"]
    first, second, *_ = lines(table, "| ")[2:]
    assert first.endswith("| +0.2 [-1.0, +1.4] | – | 3.10 | 42 | 0.100 | 200 | 1.5 − 1.0 |")
    assert second.endswith("| – | – | – | – |")
    assert "paired by answer" in table


def test_stream_table():
    firsts = {"p50": 0.21, "p90": 0.25, "p99": 0.3}
    report = {"first_audio": firsts, "worst_lateness_s": -0.12, "cold": {"first_audio_s": 0.9}, "stages": {"llm": 0.1}}
    report |= {"real_time_factor": 0.31, "n_late": 0, "n_chunks": 80, "model": "nano", "decoder": "mtp", "repeats": 20}
    table = sections({"stream-nano": {**report, "questions": ["a"], **MADE}})["stream-nano"]
    assert "warm: median (p90, p99), ms | 210 (250, 300) |" in table
    assert "| of the median: llm, ms | 100 |" in table
    assert "| 0 of 80 |" in table
    assert "| -0.12 |" in table


def test_soak_table():
    memory = {"settled_after_s": 300, "settled_mb": 900.4, "end_mb": 910.0}
    report = {"soak": "nano", "minutes": 30.0, "n_clients": 8, "outcomes": {"equal": 5}, "memory": memory}
    table = sections({"soak": {**report, "bars": {"memory": True, "no crash": False}, **MADE}})["soak"]
    assert "| bar: memory | met |" in table
    assert "| bar: no crash | missed |" in table
    assert "| memory after 5 minutes, MB | 900 |" in table


def test_published_tables_stay_apart_and_say_what_they_are():
    table = sections({})["published-3"]
    assert "| Group-Linear | 3 | 3× | 11.50 | 4.488 |" in table
    assert "arXiv 2504.04060, Table 3, as published." in table


def test_fill_replaces_marked_tables_only():
    readme = "a\n<!-- report: x -->\nold\n<!-- end of report -->\nb\n"
    filled = fill(readme, {"x": "new | \\1"})
    assert filled == "a\n<!-- report: x -->\nnew | \\1\n<!-- end of report -->\nb\n"
    assert fill(filled, {"x": "new | \\1"}) == filled
    with pytest.raises(ValueError, match="table 'x', but none"):
        fill(readme, {})


def test_only_results_are_read(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(ValueError, match="Cannot read the results"):
        load_results([path])
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_results([path])
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no results of vocalnet"):
        load_results([path])
    path.write_text(json.dumps(BENCH))
    assert list(load_results([path])) == ["r"]


def test_the_readme_is_up_to_date():
    readme = (ROOT / "README.md").read_text()
    results = sorted((ROOT / "results").glob("*.json"))
    assert fill(readme, sections(load_results(results))) == readme, "run: vocalnet report --readme README.md"


WHERE = {key: BENCH[key] for key in ("machine", "date", "commit", "seed")}


def test_benchmark_table():
    def measured(mean, n=2):
        return {"mean": mean, "ci95": [mean - 1, mean + 1] if mean is not None else None, "n": n}

    row = {"n": 2, "n_of_the_benchmark": 300, "unit": "percent right", "s->t": measured(50.0), "s->s": measured(None)}
    report = {
        "n": 2,
        "n_of_the_benchmark": 2499,
        "sets": {"llama_questions": {**row, "wer": {"wer": 0.1, "ci95": [0.05, 0.2]}, "utmos": measured(4.2)}},
        "means": {"item_weighted": {"right s->t": 50.0, "wer": 0.1, "utmos": 4.2}},
        "judge": {"name": "stub", "date": "2026-01-02"},
        "asr": "pocketsphinx",
        **WHERE,
    }
    table = sections({"oab": report})["oab"]
    (found,) = lines(table, "| llama_questions |")
    cells = [cell.strip() for cell in found.strip("|").split("|")]
    assert cells[1:] == ["2 of 300", "percent right", "50.00 [49.00, 51.00]", "–", "10.0 [5.0, 20.0]", cells[-1]]
    assert cells[-1] == "4.20 [3.20, 5.20]"
    (mean,) = lines(table, "| mean, item weighted |")
    assert mean == "| mean, item weighted | 2 | percent right | 50.00 | – | 10.0 | 4.20 |"
    assert "Judge: stub, 2026-01-02. Recogniser: pocketsphinx." in table


def test_likelihood_and_newcomer_tables():
    row = {"nll": 1.5, "ci95": [1.0, 2.0], "perplexity": 4.4817, "n_tokens": 12}
    report = {"n": 3, "n_spoken": 2, "mask": "full", "text": row, "heads": [row], **WHERE}
    assert "| head 0 | 1.500 [1.000, 2.000] | 4.48 | 12 |" in sections({"nll": report})["nll"]
    steps = [{"step": "python -m train.run", "seconds": 12.34}]
    table = sections({"newcomer": {"newcomer": steps, "total_s": 12.3, "head": "x", "rows": [], **WHERE}})["newcomer"]
    assert "| python -m train.run | 12.3 |" in table
    assert "| all | 12.3 |" in table


def test_training_tables():
    cell = {"masks": "ours", "step_s": 0.1304, "mask_s": 0.00073, "mask_share": 0.0057, "tokens_per_s": 3697.9}
    report = {"talker": "nano", "parameters": 3.1e6, "mask_operations": [58, 58], "cells": [cell], "batch": 2, **WHERE}
    table = sections({"t": {**report, "lengths": [[10, 20], [60, 250]]}})["t"]
    assert "| all samples at once | 130 | 0.73 | 0.57 | 3698 |" in table
    assert "for 10 + 20, 60 + 250 text and speech tokens: 58, 58." in table
    cell = {"case": "stage 1, lora", "planned": 806_400_000, "measured": 823_000_000, "error": -0.0217}
    table = sections({"p": {"cells": [cell], "worst": 0.0217, "bound": 0.15, **WHERE}})["p"]
    assert "| stage 1, lora | 806 | 823 | -2.2 |" in table
    assert "Growth of resident memory" in table
    gpu = sections({"p": {"cells": [cell], "worst": 0.0217, "bound": 0.10, "device": "cuda", **WHERE}})["p"]
    assert "Peak of the GPU's memory." in gpu


def test_space_table():
    answer = {"text": "It is Paris.", "n_speech_tokens": 31, "n_bytes": 59_000}
    table = sections({"space": {"space": answer, "python": "3.12.1", "start_s": 12.34, **WHERE}})["space"]
    assert "| answer | It is Paris. |" in table
    assert "| start of the page, s | 12.3 |" in table
    assert "Python 3.12.1" in table
