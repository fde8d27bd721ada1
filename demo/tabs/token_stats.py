"""Token statistics: how sure each head was of the speech tokens of one run (the paper's Figure 3), token by token."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from demo import plots, render
from demo.downloads import download_row, offer
from demo.job import Views, endpoint
from demo.run_picker import Runs, about_run, run_picker
from demo.state import App
from demo.timeline import timeline, timeline_value, token_rows
from vocalnet import runs
from vocalnet.metrics.tokens import token_summary
from vocalnet.runs import Run

READY = "Answer a question, run a lab, or drop a run file; then choose the run."
NOTHING = "How sure the heads were of their tokens appears here."
CAPTION = (
    "Each head's tokens by the raw logits, before temperature and penalties; dashed lines are the means. The flatter a "
    "distribution, the more speech tokens would do, and the less a proposed token need be the main head's own."
)
TOKEN_COLUMNS = ("token", "head", "entropy", "max_prob", "logprob")
FILES = {
    "tokens.csv": "Tokens (CSV)",
    "tokens.json": "All (JSON)",
    "histograms.png": "Histograms (PNG)",
    "run.zip": "Run file (ZIP)",
}
HEADINGS = ("Head", "Proposed", "Kept", "Max. probability", "median", "Entropy (nats)", "median", "Log-probability")


@dataclass(frozen=True)
class Results:
    """The components that show a run."""

    status: gr.HTML
    facts: gr.HTML
    strip: gr.HTML
    figures: dict[str, gr.Plot]
    heads: gr.HTML
    downloads: dict[str, gr.DownloadButton]

    def components(self) -> list[Any]:
        """Returns all of them."""
        return [*(self.facts, self.strip, self.heads), *self.figures.values(), *self.downloads.values()]

    def show(self, run: Run, folder: Path) -> dict[Any, Any]:
        """Returns the view of a run, whose files are written into `folder`."""
        summary = token_summary(run.result.stats)
        drawn = {name: plots.token_histograms(summary, "", [name]) for name in self.figures}
        paths = write_files(run, summary, folder)
        return {
            self.status: render.status(_said(summary), "done"),
            self.facts: render.rows(_facts(run)),
            self.strip: timeline_value(run),
            self.heads: _head_table(summary),
            **{self.figures[name]: gr.update(value=figure, visible=True) for name, figure in drawn.items()},
            **offer(self.downloads, paths),
        }


def tab(app: App, has_player: bool = False) -> Runs:
    """Lays out and wires the tab, and publishes `/token_stats`; `has_player` as for `run_picker`."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300):
            picker = run_picker(app, has_player)
            status = gr.HTML(render.status(READY))
        with gr.Column(min_width=300):
            facts = gr.HTML(render.placeholder(NOTHING))
    results = _results(status, facts)

    def show(run: Run) -> Views:
        with TemporaryDirectory() as folder:
            yield results.show(run, Path(folder))

    _publish(picker.dropped)
    return Runs(picker, picker.wire(status, show, results.components()))


def _results(status: gr.HTML, facts: gr.HTML) -> Results:
    """Lays out what shows a run."""
    strip = timeline()
    with gr.Row(elem_classes="vn-columns"):
        figures = {
            name: gr.Plot(show_label=False, min_width=300, visible=False, elem_classes="vn-figure")
            for name in plots.MEASURES
        }
    heads = gr.HTML()
    downloads = download_row(FILES)
    return Results(status, facts, strip, figures, heads, downloads)


def _publish(run_file: gr.File) -> None:
    """Publishes `/token_stats`."""
    with gr.Row(visible=False):
        outputs = [gr.JSON(label="statistics"), gr.File(label="histograms"), gr.File(label="tokens")]

    def token_stats(run_file: str | None) -> Views:
        if run_file is None:
            raise ValueError("Give a run file (.zip), as the page exports it.")
        run = runs.load(run_file)
        summary = token_summary(run.result.stats)
        with TemporaryDirectory() as folder:
            paths = write_files(run, summary, Path(folder))
            yield details(run, summary), str(paths["histograms.png"]), str(paths["tokens.csv"])

    endpoint(
        token_stats,
        "token_stats",
        "Returns the statistics of a run file: {run, summary (means and histograms per head), tokens (each with its "
        "candidates)}, the histograms as PNG and the tokens as CSV.",
        inputs=[run_file],
        outputs=outputs,
        has_model=False,
    )


def write_files(run: Run, summary: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Writes what can be downloaded of a run, and returns the paths by the names in `FILES`."""
    table = io.StringIO()
    rows = [[n + 1, *(row[name] for name in TOKEN_COLUMNS)] for n, row in enumerate(token_rows(run))]
    csv.writer(table, lineterminator="\n").writerows([("place", *TOKEN_COLUMNS), *rows])
    (folder / "tokens.csv").write_text(table.getvalue())
    (folder / "tokens.json").write_text(json.dumps(details(run, summary), indent=1))
    (folder / "histograms.png").write_bytes(plots.png(plots.token_histograms(summary, run.decoder)))
    runs.save(run, folder / "run.zip")
    return {name: folder / name for name in FILES}


def details(run: Run, summary: dict[str, Any]) -> dict[str, Any]:
    """Returns all that is known of the tokens of a run, as plain JSON types."""
    result = {"text": run.result.text, "timings": run.result.timings, "options": asdict(run.options)}
    return {"run": about_run(run) | result, "summary": summary, "tokens": token_rows(run)}


def _said(summary: dict[str, Any]) -> str:
    steps = f"{summary['n_steps']} steps, {summary['tokens_per_step']:.2f} tokens kept per step"
    return f"{summary['n_proposed']} tokens proposed in {steps}."


def _facts(run: Run) -> dict[str, Any]:
    """Returns what a run is, for reading."""
    options, timings = run.options, run.result.timings
    seconds = {name: timings[name] for name in ("first_text", "first_audio", "talker", "total") if name in timings}
    return {
        "question": run.question or "not recorded",
        "answer": run.result.text,
        "decoder": f"{run.decoder}, {options.tokens_per_step} per step, {options.policy}",
        "sampling": f"temperature {options.temperature:g}, seed {options.seed}, mask {options.mask}",
        "model": f"{run.model}, weights {run.revision}",
        "recorded": f"{run.date[:16].replace('T', ' ')} UTC on {run.device}, code {run.versions.get('vocalnet')}",
        "times": [f"{name.replace('_', ' ')} {value:.2f} s" for name, value in seconds.items()],
    }


def _head_table(summary: dict[str, Any]) -> str:
    """Returns the means of every head; what a head lacks is left empty."""

    def texts(head: dict[str, Any]) -> Sequence[str]:
        pairs = [(head[name]["mean"], head[name]["p50"]) for name in ("max_prob", "entropy")]
        numbers = [*(value for pair in pairs for value in pair), head["logprob"]["mean"]]
        name = f"head {head['head']}"
        kept = f"{100 * head['kept_share']:.0f} %"
        return [name, str(head["n"]), kept, *("" if value is None else f"{value:.2f}" for value in numbers)]

    return render.table("Means by head", HEADINGS, [texts(head) for head in summary["heads"]]) + render.note(CAPTION)


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
