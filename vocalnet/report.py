"""Results JSON -> the README's tables, and whether those in the README are up to date.

A table stands in the README between `<!-- report: NAME -->` and `<!-- end of report -->`. NAME is that of a results
file without its suffix, of one of its further tables (`NAME-tokens`), or `published-3` for the paper's Table 3.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vocalnet.orderings import Ordering, orderings
from vocalnet.published import NUMBERS, published_table

MARKED = re.compile(r"(<!-- report: (\S+) -->\n).*?(<!-- end of report -->)", re.DOTALL)
NONE = "–"
STREAMED = ("streaming", "vocoder")  # grids with a table of their own


def load_results(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Returns reports by their file's name without suffix.

    Raises:
        ValueError: a file is missing, or not a results file.
    """
    reports = {}
    for path in map(Path, paths):
        try:
            reports[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"Cannot read the results {path}: {error.strerror}.") from error
        except ValueError as error:
            raise ValueError(f"The results {path} are not JSON ({error}).") from error
        if not isinstance(reports[path.stem], dict) or not any(key in reports[path.stem] for key in KINDS):
            raise ValueError(f"{path} holds no results of vocalnet eval or bench.")
    return reports


def sections(reports: dict[str, Any]) -> dict[str, str]:
    """Returns the Markdown of every table, by its name: those of the reports, and the paper's own."""
    found = {f"published-{number}": published(number) for number in NUMBERS}
    seeds = next((report for report in reports.values() if report.get("grid") == "seeds"), None)
    for name, report in reports.items():
        make = next(make for key, make in KINDS.items() if key in report)
        for suffix, text in make(report).items():
            found[f"{name}{suffix}"] = text
        if pairs := orderings(report, seeds):
            found[f"{name}-orderings"] = _orderings_table(pairs) + _provenance(
                report, f"{report['n_answers']} answers."
            )
    return found


def fill(readme: str, tables: dict[str, str]) -> str:
    """Returns a README with its marked tables replaced.

    Raises:
        ValueError: a table is asked for that is not there.
    """

    def replaced(match: re.Match[str]) -> str:
        opening, name, closing = match.groups()
        if name not in tables:
            raise ValueError(f"The README has a table {name!r}, but none of the given results makes it.")
        return f"{opening}{tables[name]}\n{closing}"

    return MARKED.sub(replaced, readme)


def published(number: int) -> str:
    """Returns one of the paper's tables, with its source and its notes."""
    table = published_table(number)
    header = [
        column.name if column.unit in (None, "×") else f"{column.name} ({column.unit})" for column in table.columns
    ]
    notes = [f"Source: {table.source}, as published.", *table.notes]
    return _table(header, table.printed()) + "\n\n" + " ".join(notes)


def evaluation_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the tables of `vocalnet eval`: "" the overview, "-topics" right answers by topic."""

    def share(counts: dict[str, Any]) -> str:
        return f"{counts['right']} of {counts['n']} ({100 * counts['right'] / max(counts['n'], 1):.1f} %)"

    ci95 = report["ci95"]
    rows = [["right answers", share(report)]]
    rows += [[f"right answers, {split} voices", share(row)] for split, row in report["right_by_voice_split"].items()]
    rows += [
        ["refusals of clips outside the domain", share(report["out_of_domain"])],
        ["refusals of questions inside it", share({"right": report["refused_in_domain"], "n": report["n"]})],
    ]
    tracks = (("spoken answers", "wer", "dnsmos_p808"), ("source voice", "wer_source", "dnsmos_source"))
    for what, wer, mos in (*tracks, ("token resynthesis", "wer_resynthesis", "dnsmos_resynthesis")):
        rows.append([f"WER % of the {what} [95 %]", _percent(report[wer], ci95.get(wer))])
        if report[wer] is not None:
            rows.append([f"substitutions / deletions / insertions of the {what}", _edits(report["word_errors"][wer])])
        rows.append([f"DNSMOS P.808 of the {what}", _number(report[mos], 2)])
    rows.append(["real-time factor, speech to speech", _number(report["real_time_factor"], 2)])
    topics = [[topic, share(counts)] for topic, counts in report["right_by_topic"].items()]
    note = _provenance(report, f"{report['n_speech']} answers judged by ear.")
    return {
        "": _table(["measure", "value"], rows) + note,
        "-topics": _table(["topic", "right"], topics) + note,
    }


def grid_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the tables of `vocalnet eval --grid`: "" the comparison, "-tokens" the statistics of every head."""
    if report.get("grid") in STREAMED:
        return streaming_tables(report)
    header = ["decoder", "tokens per step", "policy", "WER % [95 %]", "S / D / I", f"− {report['baseline']} [95 %]"]
    header += [
        "− own fixed 3 [95 %]",
        "DNSMOS",
        "nominal",
        "bound: layers / weights",
        "measured",
        "tokens/s",
        "as own 1×",
    ]
    rows = []
    for cell in report["cells"]:
        wer, speedup, agreement = cell["wer"], cell["speedup"], cell["agreement"]
        rows.append(
            [
                cell["decoder"],
                str(cell["tokens_per_step"]),
                _policy(cell),
                _percent(wer["wer"], wer["ci95"]),
                _edits(wer),
                _difference(cell["minus_baseline"]),
                _difference(cell["minus_fixed_3"]),
                _number(cell["dnsmos_p808"], 2),
                _times(speedup["nominal"]),
                f"{speedup['bound_layers']:.2f} / {speedup['bound_weights']:.2f}",
                _times(speedup["measured"]),
                f"{cell['tokens_per_s']:.0f}",
                f"{100 * agreement['tokens']:.0f} %" if agreement else NONE,
            ]
        )
    notes = [] if report["is_complete"] else ["The grid is not finished: run the same command again."]
    notes += [*_ceilings(report), *_findings(report)]
    notes += [f"Not run: {row['cell']} ({row['reason'].rstrip('.')})." for row in report["skipped"]]
    how = report["options"]
    notes.append(
        "Speedups are over one token per step: nominal (tokens kept per step), the bound on it, and measured over "
        f"{report['fastest_single']}, the fastest at one token per step (talker alone, kernel {report['kernel']}, "
        f"wall clock, same run, the first {how['n_timed']} of the answers, median of {how['repeats']})."
    )
    note = _provenance(report, f"{report['n_answers']} answers.")
    return {"": _table(header, rows) + "\n\n" + "\n".join(notes) + note, "-tokens": _token_table(report) + note}


def bench_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `vocalnet bench`; runs in full stay in the file, medians are shown."""
    columns = [name for name, value in report["cells"][0].items() if not isinstance(value, list | dict)]
    rows = [
        [f"{value:.3g}" if isinstance(value := cell[name], float) else str(value) for name in columns]
        for cell in report["cells"]
    ]
    how = f"{report['preset']}, {report['what']}, {report['dtype']}, kernel {report['kernel']}, random weights."
    return {"": _table([name.replace("_", " ") for name in columns], rows) + _provenance(report, how)}


def benchmark_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `vocalnet eval --set openaudiobench`: a row for every set, and their means."""

    def measured(found: dict[str, Any] | None) -> str:
        if not found or found["mean"] is None:
            return NONE
        low, high = found["ci95"]
        return f"{found['mean']:.2f} [{low:.2f}, {high:.2f}]"

    qualities = sorted({key for row in report["sets"].values() for key in row if key in ("utmos", "dnsmos_p808")})
    header = ["set", "items", "unit", "s->t [95 %]", "s->s [95 %]", "WER % [95 %]", *qualities]
    rows = []
    for name, row in report["sets"].items():
        wer = row["wer"] or {"wer": None, "ci95": None}
        cells = [name, f"{row['n']} of {row['n_of_the_benchmark']}", row["unit"], measured(row["s->t"])]
        cells += [measured(row["s->s"]), _percent(wer["wer"], wer["ci95"])]
        rows.append([*cells, *(measured(row.get(name)) for name in qualities)])
    for how, means in report["means"].items():
        right = [_number(means.get(f"right {arrow}"), 2) for arrow in ("s->t", "s->s")]
        wer = _percent(means.get("wer"), None)
        rows.append([f"mean, {how.replace('_', ' ')}", str(report["n"]), "percent right", *right, wer])
        rows[-1] += [_number(means.get(name), 2) for name in qualities]
    judge = f"Judge: {report['judge']['name']}, {report['judge']['date']}. Recogniser: {report['asr'] or 'none'}."
    return {"": _table(header, rows) + _provenance(report, judge)}


def likelihood_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `vocalnet eval --set nll`: text, then every speech head."""
    rows = []
    for what, row in [("text", report["text"]), *((f"head {k}", row) for k, row in enumerate(report["heads"]))]:
        low, high = row["ci95"]
        rows.append(
            [what, f"{row['nll']:.3f} [{low:.3f}, {high:.3f}]", f"{row['perplexity']:.2f}", str(row["n_tokens"])]
        )
    header = ["of", "nats per token [95 %]", "perplexity", "tokens"]
    return {"": _table(header, rows) + _provenance(report, f"{report['n']} answers, mask {report['mask']}.")}


def newcomer_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `python -m train.newcomer`: the seconds of every step."""
    rows = [[step["step"], f"{step['seconds']:.1f}"] for step in report["newcomer"]]
    note = _provenance(report, "The machine's seconds; reading and typing come on top.")
    return {"": _table(["step", "seconds"], [*rows, ["all", f"{report['total_s']:.1f}"]]) + note}


def streaming_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the tables of the grids "streaming" and "vocoder": what a stream costs in WER, time and roughness."""
    header = ["cell", "WER % [95 %]", "− offline [95 %]", "− same tokens in one piece [95 %]", "DNSMOS"]
    header += ["first sound of the vocoder, ms", "its real-time factor", "seams", "rough seams − same places, %"]
    rows = []
    for cell in report["cells"]:
        stream = cell["stream"]
        row = [cell["cell"], _percent(cell["wer"]["wer"], cell["wer"]["ci95"]), _difference(cell["minus_offline"])]
        row += [_difference(cell["minus_whole"]), _number(cell["dnsmos_p808"], 2)]
        if stream is None:
            row += [NONE] * 4
        else:
            seams = stream["seams"]
            row += [_milli(stream["first_sound_s"]), _number(stream["real_time_factor"], 3), str(seams["n"])]
            row.append(f"{100 * seams['n_rough'] / max(seams['n'], 1):.1f} − {_whole_share(seams)}")
        rows.append(row)
    notes = [] if report["is_complete"] else ["The grid is not finished: run the same command again."]
    notes += _ceilings(report)
    notes.append(
        "Differences are in points, paired by answer. Offline: full mask, sound in one piece. A seam is rough where a "
        "second difference within 5 ms exceeds those of 99 % of such windows of the same sound in one piece, which is "
        "so at some of the same places without any seam."
    )
    return {
        "": _table(header, rows) + "\n\n" + "\n".join(notes) + _provenance(report, f"{report['n_answers']} answers.")
    }


def _whole_share(seams: dict[str, Any]) -> str:
    return f"{100 * seams['n_rough_whole'] / max(seams['n'], 1):.1f}"


def stream_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `vocalnet stream --repeats`."""
    times, worst_s = report["first_audio"], report["worst_lateness_s"]
    rows = [
        ["end of question to first sound, warm: median (p90, p99), ms", _milliseconds(times)],
        ["the first answer after loading, ms", _milli(report["cold"]["first_audio_s"])],
        *([f"of the median: {name}, ms", _milli(seconds)] for name, seconds in report["stages"].items()),
        ["real-time factor", _number(report["real_time_factor"], 2)],
        ["chunks of sound after their playing time", f"{report['n_late']} of {report['n_chunks']}"],
        ["the latest chunk against its playing time, s", NONE if worst_s is None else f"{worst_s:+.2f}"],
    ]
    how = (
        f"{report['model']}, {report['decoder']}, {report['repeats']} answers to {len(report['questions'])} questions."
    )
    return {"": _table(["measure", "value"], rows) + _provenance(report, how)}


def _milliseconds(times: dict[str, float]) -> str:
    return f"{_milli(times['p50'])} ({_milli(times['p90'])}, {_milli(times['p99'])})"


def soak_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `make soak`."""
    memory = report["memory"]
    rows = [[f"bar: {name}", "met" if is_met else "missed"] for name, is_met in report["bars"].items()]
    rows += [[f"requests: {name}", str(n)] for name, n in sorted(report["outcomes"].items())]
    rows.append([f"memory after {memory['settled_after_s'] / 60:g} minutes, MB", _number(memory["settled_mb"], 0)])
    rows.append(["memory at the end, MB", _number(memory["end_mb"], 0)])
    how = f"{report['soak']}, {report['minutes']:g} minutes, {report['n_clients']} programs at once."
    return {"": _table(["measure", "value"], rows) + _provenance(report, how)}


def training_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `vocalnet bench-training`: a step of stage 2 by both ways of building masks."""
    names = {"ours": "all samples at once", "plain": "sample by sample, row by row"}
    rows = [
        [
            names[cell["masks"]],
            _milli(cell["step_s"]),
            _milli(cell["mask_s"], 2),
            _percent(cell["mask_share"], decimals=2),
            _number(cell["tokens_per_s"], 0),
        ]
        for cell in report["cells"]
    ]
    header = ["masks are built", "step, ms", "masks, ms", "masks, % of the step", "speech tokens/s"]
    lengths = ", ".join(f"{text} + {speech}" for text, speech in report["lengths"])
    counts = ", ".join(map(str, report["mask_operations"]))
    how = f"Talker of {report['talker']}, {report['parameters'] / 1e6:.0f} M weights, batch {report['batch']}. "
    how += f"Tensor operations of the masks for {lengths} text and speech tokens: {counts}."
    return {"": _table(header, rows) + _provenance(report, how)}


def plan_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `vocalnet plan --check`: planned memory beside measured."""
    rows = [
        [
            cell["case"],
            *(f"{cell[name] / 1e6:.0f}" for name in ("planned", "measured")),
            _percent(cell["error"], sign="+"),
        ]
        for cell in report["cells"]
    ]
    is_gpu = report.get("device") == "cuda"
    what = "Peak of the GPU's memory." if is_gpu else "Growth of resident memory of a process of its own."
    note = _provenance(report, what)
    return {"": _table(["case", "planned, MB", "measured, MB", "error, %"], rows) + note}


def space_tables(report: dict[str, Any]) -> dict[str, str]:
    """Returns the table of `make space-check`: what a Space's page answered in a fresh environment."""
    answer = report["space"]
    rows = [
        ["answer", answer["text"]],
        ["speech tokens", str(answer["n_speech_tokens"])],
        ["bytes of sound", str(answer["n_bytes"])],
        ["start of the page, s", _number(report["start_s"], 1)],
    ]
    how = f"Python {report['python']}, the requirements of the folder alone, no hub within reach."
    return {"": _table(["measure", "value"], rows) + _provenance(report, how)}


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {  # by a key that only such a report has
    "n_of_the_benchmark": benchmark_tables,
    "n_spoken": likelihood_tables,
    "newcomer": newcomer_tables,
    "worst_lateness_s": stream_tables,
    "soak": soak_tables,
    "mask_operations": training_tables,
    "worst": plan_tables,
    "space": space_tables,
    "ceilings": grid_tables,
    "right_by_topic": evaluation_tables,
    "preset": bench_tables,
}


def pareto_points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the points of a grid's Pareto plot, WER against speed, as `demo.plots.pareto` draws them.

    The decoder of most cells goes without saying.
    """
    decoders = [cell["decoder"] for cell in report["cells"]]
    usual = next((name for name in decoders if decoders.count(name) > len(decoders) / 2), "")
    return [
        {"cell": cell["cell"].removeprefix(f"{usual} ")}
        | {name: cell[name] for name in ("policy", "tokens_per_s")}
        | {name: cell["wer"][name] for name in ("wer", "ci95")}
        for cell in report["cells"]
    ]


def no_worse_and_faster(report: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
    """Returns the policies' cells that are faster than their decoder's fixed 3, and not worse in WER beyond doubt.

    Beyond doubt: the whole 95 % interval of the paired difference lies above 0. Each with how many times as fast it is.
    """

    def how(cell: dict[str, Any]) -> tuple[str, float]:
        return cell["decoder"], cell["options"]["temperature"]

    fixed = {
        how(cell): cell["tokens_per_s"]
        for cell in report["cells"]
        if cell["policy"] == "fixed" and cell["tokens_per_step"] == 3
    }
    found = []
    for cell in report["cells"]:
        if cell["policy"] != "fixed" and cell["minus_fixed_3"] is not None:
            faster = cell["tokens_per_s"] / fixed[how(cell)]
            if faster > 1 and cell["minus_fixed_3"]["ci95"][0] <= 0:
                found.append((cell, faster))
    return found


def _findings(report: dict[str, Any]) -> list[str]:
    """Says whether a policy earns its keep, and whether strict verification changes a token, where the grid has any."""
    if all(cell["policy"] == "fixed" for cell in report["cells"]):
        return []
    verified = [cell["agreement"] for cell in report["cells"] if cell["policy"] == "greedy_verify"]
    equal = [round(found["answers"] * report["n_answers"]) for found in verified if found]
    good = [
        f"{cell['cell']} ({_difference(cell['minus_fixed_3'])} points, {faster:.2f} times as fast)"
        for cell, faster in no_worse_and_faster(report)
    ]
    return [
        f"Faster than fixed 3 without a WER that is higher beyond doubt: {'; '.join(good) or 'none'}.",
        *(
            f"greedy_verify says token for token what one token per step says in {n} of {report['n_answers']} answers."
            for n in sorted(set(equal))
        ),
    ]


def _ceilings(report: dict[str, Any]) -> list[str]:
    names = {"source": "source voice", "resynthesis": "token resynthesis"}
    return [
        f"Ceiling, {names[name]}: WER {_percent(row['wer']['wer'], row['wer']['ci95'])} %, "
        f"DNSMOS {_number(row['dnsmos_p808'], 2)}."
        for name, row in report["ceilings"].items()
    ]


def _token_table(report: dict[str, Any]) -> str:
    header = ["cell", "head", "tokens", "kept", "entropy, mean (nats)", "maximum probability, mean"]
    rows = [
        [
            cell["cell"],
            str(head["head"]),
            str(head["n"]),
            f"{100 * head['kept_share']:.0f} %",
            _number(head["entropy"]["mean"], 2),
            _number(head["max_prob"]["mean"], 2),
        ]
        for cell in report["cells"]
        for head in cell["token_stats"]["heads"]
    ]
    return _table(header, rows)


def _orderings_table(found: Sequence[Ordering]) -> str:
    rows = [
        [
            row.claim,
            f"{row.lower} < {row.higher}",
            _percent(row.published, sign="+"),
            _difference(row.ours),
            "; ".join(map(_difference, row.others)) or NONE,
            row.verdict,
        ]
        for row in found
    ]
    counts = Counter(row.verdict for row in found)
    header = [
        "the paper says",
        "pair",
        "the paper's points",
        "our points [95 %]",
        "with second trainings",
        "at this scale",
    ]
    note = (
        f"{len(found)} pairs: {counts['reproduces']} reproduce, {counts['reversed']} reversed, {counts['undecided']} "
        "undecided, where intervals of the paired difference have both signs or second trainings say otherwise."
    )
    return f"{_table(header, rows)}\n\n{note}"


def _policy(cell: dict[str, Any]) -> str:
    """Returns the policy with what it is tuned by, and a temperature, as in the cell's label."""
    how = cell["cell"].removeprefix(f"{cell['decoder']} {cell['tokens_per_step']}").strip()
    return str(how if how.startswith(cell["policy"]) else f"{cell['policy']} {how}".strip())


def _provenance(report: dict[str, Any], first: str) -> str:
    machine = report["machine"]
    where = f"{machine['cpu']}, {machine['torch_threads']} threads" + (f", {machine['gpu']}" if machine["gpu"] else "")
    return f"\n\n{first} {where}, {report['date'][:10]}, commit {report['commit']}, seed {report['seed']}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _milli(seconds: float, decimals: int = 0) -> str:
    return f"{1000 * seconds:.{decimals}f}"


def _percent(value: float | None, ci95: Sequence[float] | None = None, sign: str = "", decimals: int = 1) -> str:
    """Returns a share in percent (without the sign %), with its interval."""
    if value is None:
        return NONE
    span = f" [{', '.join(f'{100 * end:{sign}.{decimals}f}' for end in ci95)}]" if ci95 else ""
    return f"{100 * value:{sign}.{decimals}f}{span}"


def _edits(counts: dict[str, Any]) -> str:
    return f"{counts['substitutions']} / {counts['deletions']} / {counts['insertions']}"


def _difference(found: dict[str, Any] | None) -> str:
    """Returns a paired difference of WERs in points, with its interval."""
    return _percent(found["wer"], found["ci95"], "+") if found else NONE


def _number(value: float | None, decimals: int) -> str:
    return NONE if value is None else f"{value:.{decimals}f}"


def _times(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}×"
