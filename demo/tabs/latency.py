"""Latency: where the time to the first sound goes, stage by stage (the paper's Table 5), and how an answer plays."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from demo import plots, render
from demo.answering import arrivals
from demo.decoding import decode_options, decoding
from demo.downloads import download_row, offer
from demo.examples import EXAMPLES
from demo.job import Views, busy, controls, endpoint, wire
from demo.question import check_clip, record
from demo.run_picker import Runs, about_run, run_picker
from demo.state import App
from vocalnet import DecodeOptions
from vocalnet.events import Event
from vocalnet.metrics.latency import STAGES, first_audio_stages, waterfall
from vocalnet.metrics.playback import playback
from vocalnet.provenance import provenance
from vocalnet.published import published_table
from vocalnet.runs import Run
from vocalnet.streaming import observed

MAX_ROUNDS = 50
READY = "Choose a question, then press Measure; or choose a recorded run."
NOTHING = "The time to the first sound, stage by stage, appears here."
YOURS = "Your own question"
LABELS = {**render.STAGES, "other": "Everything else", "sum": "First audio"}
CAPTION = (
    "Milliseconds from the call to the first samples, on the server. A stage is the wall clock spent in it until then; "
    "text, speech tokens and sound take turns, so stages are not strictly one after another. A percentile of the whole "
    "is of the answers' own sums. Cold is the first answer after loading, to one question, with the default decoding."
)
PLAYED = (
    "Seconds of sound produced and played, over the seconds since the call: as long as the upper line stays above the "
    "lower one, nobody waits."
)
FILES = {
    "latency.csv": "Answers (CSV)",
    "latency.json": "All (JSON)",
    "waterfall.png": "Waterfall (PNG)",
    "playback.png": "Playback (PNG)",
}


@dataclass(frozen=True)
class Results:
    """The components that show measured answers."""

    table: gr.HTML
    waterfall: gr.Plot
    playback: gr.Plot
    downloads: dict[str, gr.DownloadButton]

    def components(self) -> list[Any]:
        """Returns all of them."""
        return [self.table, self.waterfall, self.playback, *self.downloads.values()]

    def show(
        self, answers: Sequence[Sequence[Event]], cold: Sequence[Event], about: Mapping[str, Any], folder: Path
    ) -> dict[Any, Any]:
        """Returns the view of answers, whose files are written into `folder`; arguments of `measured`."""
        found = measured(answers, cold, about)
        paths = write_files(found, answers, folder)
        return {
            self.table: _table(found),
            self.waterfall: gr.update(value=plots.waterfall(found["stages"], LABELS), visible=True),
            self.playback: gr.update(value=plots.playback(playback(answers[-1])), visible=True),
            **offer(self.downloads, paths),
        }


def tab(app: App, has_player: bool = False) -> Runs:
    """Lays out and wires the tab, and publishes `/latency`; `has_player` as for `run_picker`."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300, scale=2):
            chosen = gr.Dropdown([(e.text, n) for n, e in enumerate(EXAMPLES)], value=0, label="Question")
            with gr.Accordion(YOURS, open=False):
                own = record(YOURS)
            rounds = gr.Slider(1, MAX_ROUNDS, value=10, step=1, label="Answers")
            with gr.Accordion("How speech is decoded", open=False):
                settings = decoding(app)
            buttons = controls("Measure", READY)
            with gr.Accordion("Or a recorded run", open=True):
                picker = run_picker(app, has_player)
        with gr.Column(min_width=300, scale=3):
            results = _results()

    def measure(visitor: str | None, number: int, clip: str | None, n: int, decoder: str, *values: Any) -> Views:
        if clip is not None:
            check_clip(clip)
        audio, answers = clip or str(EXAMPLES[number].path), list[list[Event]]()
        yield {results.table: render.placeholder(NOTHING)}
        for events in _answers(app, audio, int(n), decoder, plain(app, *values)):
            if events is not None:
                answers.append(events)
            yield {buttons.status: busy(f"Answer {min(len(answers) + 1, int(n))} of {int(n)}")}
        with TemporaryDirectory() as folder:
            said = render.status(f"Measured {len(answers)} answer{'' if len(answers) == 1 else 's'}.", "done")
            yield {
                buttons.status: said,
                **results.show(answers, app.first_answer, _about(app, decoder, values), Path(folder)),
            }

    def show(run: Run) -> Views:
        with TemporaryDirectory() as folder:
            said = f"A run of {run.model} ({run.decoder}, {run.options.tokens_per_step} per step) on {run.device}."
            view = results.show([run.events], (), {"run": about_run(run)}, Path(folder))
            yield {buttons.status: render.status(said, "done"), **view}

    wire(app.new_stops(), buttons, measure, [chosen, own, rounds, *settings.components()], results.components())
    _publish(app)
    return Runs(picker, picker.wire(buttons.status, show, results.components()))


def plain(app: App, *values: Any) -> DecodeOptions:
    """Returns the options of a streamed answer whose candidates nobody looks at; arguments of `decode_options`."""
    return replace(decode_options(app.model.talker, *values, mask="streaming"), n_candidates=0)


def _about(app: App, decoder: str, values: Sequence[Any]) -> dict[str, Any]:
    """Returns what was measured, and where."""
    options = asdict(plain(app, *values))
    return {"model": app.name, "decoder": decoder, "options": options, **provenance(int(values[-1]))}


def measured(answers: Sequence[Sequence[Event]], cold: Sequence[Event], about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is known of answers given as their events, as plain JSON types.

    Args:
        answers: one after another, of a model that is warm.
        cold: the first answer after loading, () where it is not known.
        about: what was measured.

    Returns:
        {"stages": {stage: {"n", "mean", "p50", "p90", "p99", "cold"}}, "answers": [...], **about}, times in seconds up
        to the first samples.

    Raises:
        ValueError: an answer holds no sound.
    """
    first = first_audio_stages(cold) if cold else {}
    stages = {stage: {**numbers, "cold": first.get(stage)} for stage, numbers in waterfall(answers).items()}
    return {"stages": stages, "answers": [_row(events) for events in answers], **about}


def _row(events: Sequence[Event]) -> dict[str, float | int | None]:
    """Returns the figures of one answer."""
    found, heard = observed("this question", events), playback(events)
    return {
        **{f"{name}_s": value for name, value in first_audio_stages(events).items()},
        **{name: found[name] for name in ("first_text_s", "total_s", "audio_s", "real_time_factor")},
        "chunks": len(heard.starts_s),
        "underruns": heard.n_underruns,
        "slack_s": heard.slack_s,
    }


def write_files(found: dict[str, Any], answers: Sequence[Sequence[Event]], folder: Path) -> dict[str, Path]:
    """Writes what can be downloaded, and returns the paths by the names in `FILES`."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(found["answers"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found["answers"])
    (folder / "latency.csv").write_text(table.getvalue())
    (folder / "latency.json").write_text(json.dumps(found, indent=1))
    (folder / "waterfall.png").write_bytes(plots.png(plots.waterfall(found["stages"], LABELS)))
    (folder / "playback.png").write_bytes(plots.png(plots.playback(playback(answers[-1]))))
    return {name: folder / name for name in FILES}


def _results() -> Results:
    """Lays out what shows measured answers, and the paper's own table below it."""
    table = gr.HTML(render.placeholder(NOTHING))
    stages, played = (
        gr.Plot(show_label=False, min_width=300, visible=False, elem_classes="vn-figure") for _ in range(2)
    )
    gr.HTML(render.note(PLAYED))
    downloads = download_row(FILES)
    paper = published_table(5)
    headings = [f"{column.name} ({column.unit})" if column.unit else column.name for column in paper.columns]
    gr.HTML(render.table("As published: Table 5", headings, paper.printed()) + render.note(" ".join(paper.notes)))
    return Results(table, stages, played, downloads)


def _answers(app: App, audio: str, n: int, decoder: str, options: DecodeOptions) -> Iterator[list[Event] | None]:
    """Yields the events of one answer after another, and None several times a second while they are made."""
    model = app.model_for(decoder)
    for _ in range(n):
        events: list[Event] = []
        for batch in arrivals(lambda: model.stream(audio=audio, options=options), is_alone=True):
            events += batch
            yield None
        yield events


def _table(found: dict[str, Any]) -> str:
    """Returns the times of every stage, and the figures of playing."""
    stages, answers = found["stages"], found["answers"]
    n = len(answers)
    has_cold = stages["sum"]["cold"] is not None
    columns = [*(["cold"] if has_cold else []), *(["p50", "p90", "p99"] if n > 1 else ["p50"])]
    names = {"cold": "Cold", "p50": "p50" if n > 1 else "This answer", "p90": "p90", "p99": "p99"}
    lines = [
        [LABELS[stage], *(f"{1000 * stages[stage][column]:.1f}" for column in columns)]
        for stage in (*STAGES, "other", "sum")
    ]
    slack = [row["slack_s"] for row in answers if row["slack_s"] is not None]
    factors = sorted(row["real_time_factor"] for row in answers)
    tiles = [
        ("Real-time factor", f"{factors[len(factors) // 2]:.2f}", "× real time"),
        ("Underruns", str(sum(row["underruns"] for row in answers)), f"in {n} answer{'' if n == 1 else 's'}"),
        ("Least time ahead", f"{1000 * min(slack):.0f}" if slack else "–", "ms"),
    ]
    rows = render.table("To the first audio, ms", ["Stage", *(names[column] for column in columns)], lines)
    return rows + render.note(CAPTION) + render.figures(tiles, {})


def _publish(app: App) -> None:
    """Publishes `/latency`."""
    with gr.Row(visible=False):
        clip = gr.Audio(type="filepath", label="audio")
        rounds = gr.Slider(1, MAX_ROUNDS, value=10, step=1, label="rounds")
        settings = decoding(app)
        outputs = [gr.JSON(label="times"), gr.File(label="waterfall"), gr.File(label="playback")]

    def latency(
        audio: str, rounds: int, decoder: str, tokens_per_step: int, policy: str, temperature: float, seed: int
    ) -> Views:
        check_clip(audio)
        options, answers = plain(app, tokens_per_step, policy, temperature, seed), list[list[Event]]()
        for events in _answers(app, audio, int(rounds), decoder, options):
            answers += [] if events is None else [events]
            yield gr.skip(), gr.skip(), gr.skip()
        found = measured(answers, app.first_answer, _about(app, decoder, (tokens_per_step, policy, temperature, seed)))
        with TemporaryDirectory() as folder:
            paths = write_files(found, answers, Path(folder))
            yield found, str(paths["waterfall.png"]), str(paths["playback.png"])

    endpoint(
        latency,
        "latency",
        "Answers a spoken question several times and returns the seconds of every stage up to the first samples: "
        "{stages (mean, percentiles, cold), answers, model, decoder, options, machine, date, seed, commit}, the "
        "waterfall and the playback as PNG.",
        inputs=[clip, rounds, *settings.components()],
        outputs=outputs,
    )


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
