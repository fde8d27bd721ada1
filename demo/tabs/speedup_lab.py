"""Speedup lab: decoders, tokens per step and policies side by side, measured and heard on the same questions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from demo import plots, render
from demo.answering import explain, wav_file
from demo.blind import Blind, blind_test
from demo.downloads import download_row, offer
from demo.examples import EXAMPLES, words_of
from demo.job import QUIET, Views, busy, controls, endpoint, follow, wire
from demo.lab_view import FILES, MAX_CELLS, Order, figures, order, remarks, size, table, write_archive, write_files
from demo.question import check_clip, record
from demo.state import App
from demo.theme import waveform
from demo.visits import Visit
from vocalnet import DecodeOptions, lab
from vocalnet.grid import offered_cells
from vocalnet.grids import COMMON_BUDGET, OWN, Cell
from vocalnet.lab import Progress, Question, Report

MOST_STEPS = 5  # tokens per step that can be chosen, or as many as the loaded decoder takes
READY = "Choose what to compare, then press Run."
NOTHING = "One row per decoder, tokens per step and policy appears here, and the sound of every answer below it."
YOURS = "Your own question"
MASKS = (("the text is complete", "full"), ("the text is being written", "streaming"))
UNLIKE = f"{OWN} has learned longer than the others; {COMMON_BUDGET} was trained as they were."
# what policies are tuned by: the option, its label, its decimals (None: as they are)
TUNED = (
    ("top_n", "top_n: of how many", 0),
    ("alpha", "typical: alpha", None),
    ("eps", "typical: eps", None),
    ("tau", "confidence: tau", None),
)
DEFAULT_DECODERS = ("ntp", "mtp_vocalnet")
DEFAULT_STEPS = (1, 3)


@dataclass(frozen=True)
class Settings:
    """The components that say what a lab compares, in the order of the endpoint's arguments after the questions."""

    decoders: gr.CheckboxGroup
    tokens_per_step: gr.CheckboxGroup
    policies: gr.CheckboxGroup
    rounds: gr.Slider
    seed: gr.Number
    mask: gr.Radio
    is_judged: gr.Checkbox
    temperature: gr.Slider
    top_n: gr.Number
    alpha: gr.Number
    eps: gr.Number
    tau: gr.Number

    def components(self) -> list[Any]:
        """Returns the components in that order."""
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Results:
    """The components that show a lab."""

    table: gr.HTML
    figures: dict[str, gr.Plot]
    heard: gr.Dropdown
    players: list[gr.Audio]
    downloads: dict[str, gr.DownloadButton]
    blind: Blind

    def components(self) -> list[Any]:
        """Returns all of them."""
        return [
            *(self.table, self.heard, *self.players, *self.blind.components()),
            *(*self.figures.values(), *self.downloads.values()),
        ]


def tab(app: App) -> Settings:
    """Lays out and wires the tab, and publishes `/speedup_lab`; returns what a link may set."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300):
            chosen = gr.CheckboxGroup([(e.text, n) for n, e in enumerate(EXAMPLES)], value=[0], label="Questions")
            with gr.Accordion(YOURS, open=False):
                own = record(YOURS)
            more = gr.Accordion("Rounds, sampling, mode", open=False)
        with gr.Column(min_width=300):
            settings = _settings(app, more)
            extent = gr.HTML()
            buttons = controls("Run", READY)
    results = _results(app)
    inputs = [chosen, own, *settings.components()]

    def measure(visitor: str | None, numbers: Sequence[int], clip: str | None, *values: Any) -> Views:
        found = order(app, _questions(numbers, clip), *values)
        visit = app.visits.of(visitor)
        visit.cells, visit.reports, visit.figures, visit.trials = found.cells, [], {}, []
        visit.is_lab_open = True
        yield _blank(results)
        start, reports, line = time.perf_counter(), dict[Cell, Report](), "Starting"
        with TemporaryDirectory() as folder, closing(found.batches(app.model)) as batches:
            for items in batches:
                line = next((_said(item) for item in reversed(items) if isinstance(item, Progress)), line)
                status = busy(line, time.perf_counter() - start)
                view = _draw(items, reports, found, results, Path(folder))
                visit.reports = in_order(found.cells, reports)
                yield {buttons.status: status, **view}
        yield {buttons.status: _done(visit)}

    def finish(request: gr.Request) -> Views:
        visit = app.visits.of(request.session_hash)
        is_open, visit.is_lab_open = visit.is_lab_open, False
        if not (is_open and visit.reports):  # it never began, or was stopped before a cell had finished a round
            yield {results.table: gr.skip()}
            return
        with TemporaryDirectory() as folder:
            yield _finished(app, visit, results, Path(folder))

    def measure_extent(numbers: Sequence[int], clip: str | None, *values: Any) -> str:
        try:
            return render.status(size(order(app, _questions(numbers, clip), *values), app.model.decoders, app.warmup_s))
        except Exception as error:
            return render.status(explain(error), "problem")

    def listen(number: int, request: gr.Request) -> Views:
        visit = app.visits.of(request.session_hash)
        with TemporaryDirectory() as folder:
            yield _sounds(results, visit.cells, visit.reports, number, Path(folder))

    ended = wire(app.new_stops(), buttons, measure, inputs, results.components())
    ended.then(finish, None, results.components(), concurrency_limit=None, **QUIET)  # of what was finished, if stopped
    follow(inputs, measure_extent, inputs, extent)
    results.heard.input(listen, results.heard, results.players, **QUIET)
    _publish(app, settings)
    return settings


def _settings(app: App, more: gr.Accordion) -> Settings:
    """Lays out what a lab compares, and in `more` how."""
    model = app.model
    names = [name for name in DEFAULT_DECODERS if name in model.decoders] or list(model.decoders[:1])
    n_steps = max(model.max_tokens_per_step, MOST_STEPS)
    unlike = UNLIKE if COMMON_BUDGET in model.decoders else None
    decoders = gr.CheckboxGroup(list(model.decoders), value=names, label="Decoders", info=unlike)
    steps = gr.CheckboxGroup(list(range(1, n_steps + 1)), value=list(DEFAULT_STEPS), label="Tokens per step")
    policies = gr.CheckboxGroup(list(model.policies), value=list(model.policies[:1]), label="Policies")
    is_judged = gr.Checkbox(label="Judge what is heard: WER and DNSMOS, about a second per answer", container=False)
    with more:
        rounds = gr.Slider(
            1, 10, value=3, step=1, label="Rounds", info="Every cell answers once in each; times are medians."
        )
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        mask = gr.Radio(list(MASKS), value="full", label="The talker speaks when")
        temperature = gr.Slider(
            0.0, 1.5, value=0.0, step=0.05, label="Temperature", info="0: greedy; above, drawn by the seed."
        )
        with gr.Row():
            tuned = [
                gr.Number(getattr(DecodeOptions(), name), label=label, precision=precision, minimum=0, min_width=200)
                for name, label, precision in TUNED
            ]
    return Settings(decoders, steps, policies, rounds, seed, mask, is_judged, temperature, *tuned)


def _results(app: App) -> Results:
    """Lays out what a lab shows; most of it is hidden until there is something."""
    rows = gr.HTML(render.placeholder(NOTHING))
    with gr.Row(elem_classes="vn-columns"):
        drawn = {
            name: gr.Plot(show_label=False, min_width=300, visible=False, elem_classes="vn-figure")
            for name in FILES
            if name.endswith(".png")
        }
    heard = gr.Dropdown([], label="Answers to", visible=False, type="index")
    with gr.Row(elem_classes="vn-players"):
        players = [
            gr.Audio(visible=False, interactive=False, min_width=240, waveform_options=waveform(), buttons=["download"])
            for _ in range(MAX_CELLS)
        ]
    downloads = download_row(FILES)
    blind = blind_test(app, [*downloads.values()][-1], write_archive)
    return Results(rows, drawn, heard, players, downloads, blind)


def _questions(numbers: Sequence[int], clip: str | None) -> list[Question]:
    """Returns the chosen examples, and the visitor's own question."""
    asked = [Question(str(EXAMPLES[n].path), EXAMPLES[n].text) for n in sorted(numbers)]
    if clip is None:
        return asked
    check_clip(clip)
    return [*asked, Question(clip, words_of(clip) or YOURS)]


def in_order(cells: Sequence[Cell], reports: dict[Cell, Report]) -> list[Report]:
    """Returns the reports so far in the order of the table."""
    return [reports[cell] for cell in dict.fromkeys(cells) if cell in reports]


def _blank(results: Results) -> dict[Any, Any]:
    """Returns the view of a lab that has nothing to show yet."""
    hidden = gr.update(value=None, visible=False)
    return {
        results.table: render.placeholder(NOTHING),
        results.heard: gr.update(visible=False),
        **results.blind.fresh(is_visible=False),
        **dict.fromkeys([*results.players, *results.figures.values()], hidden),
        **dict.fromkeys(results.downloads.values(), gr.update(value=None, interactive=False)),
    }


def _said(item: Progress) -> str:
    return f"{item.what}: {item.cell.label}, {item.n_done} of {item.n_all} answers"


def _done(visit: Visit) -> str:
    n = len(visit.reports)
    return render.status(f"Measured {n} cell{'' if n == 1 else 's'}.", "done")


def _draw(
    items: Sequence[Progress | Report], reports: dict[Cell, Report], found: Order, results: Results, folder: Path
) -> dict[Any, Any]:
    """Takes what has arrived into `reports`, and returns what changes on the page."""
    arrived = {item.cell: item for item in items if isinstance(item, Report)}
    if not arrived:
        return {}
    heard = [report for cell, report in arrived.items() if cell not in reports]
    reports |= arrived
    rows = table(in_order(found.cells, reports))
    return {results.table: rows, **_sounds(results, found.cells, heard, 0, folder)}


def _finished(app: App, visit: Visit, results: Results, folder: Path) -> dict[Any, Any]:
    """Returns the last view: figures, files, the blind test and why cells were left out."""
    drawn = figures(visit.reports)
    visit.figures = {name: plots.png(figure) for name, figure in drawn.items()}
    for report in visit.reports:
        visit.add(report.runs[0])
    words = [run.question for run in visit.reports[0].runs]
    refused = offered_cells(app.model, visit.cells)[1]
    paths = write_files(visit, folder)
    return {
        results.table: table(visit.reports) + remarks(refused),
        results.heard: gr.update(choices=words, value=words[0], visible=len(words) > 1),
        **results.blind.fresh(is_visible=len(visit.reports) > 1),
        **{results.figures[name]: gr.update(value=figure, visible=True) for name, figure in drawn.items()},
        **offer(results.downloads, paths),
    }


def _sounds(
    results: Results, cells: Sequence[Cell], reports: Sequence[Report], number: int, folder: Path
) -> dict[Any, Any]:
    """Returns the answers to one question, each in the player of its cell."""
    players = dict(zip(dict.fromkeys(cells), results.players, strict=False))
    update = {}
    for report in reports:
        path = wav_file(report.runs[number].result, folder / f"{report.cell.label.replace(' ', '-')}.wav")
        update[players[report.cell]] = gr.update(value=path, label=report.cell.label, visible=True)
    return update


def _publish(app: App, settings: Settings) -> None:
    """Publishes `/speedup_lab`."""
    with gr.Row(visible=False):
        clips = gr.File(file_count="multiple", label="questions")
        outputs = [gr.JSON(label="table"), gr.File(label="files")]

    def speedup_lab(
        questions: list[str] | None,
        decoders: list[str],
        tokens_per_step: list[int],
        policies: list[str],
        rounds: int,
        seed: int,
        mask: str,
        is_judged: bool,
        temperature: float,
        top_n: int,
        alpha: float,
        eps: float,
        tau: float,
    ) -> Views:
        for clip in questions or []:
            check_clip(clip)
        asked = [Question(clip, words_of(clip)) for clip in questions or []]
        how = (rounds, seed, mask, is_judged, temperature, top_n, alpha, eps, tau)
        found = order(app, asked, decoders, tokens_per_step, policies, *how)
        reports = dict[Cell, Report]()
        with closing(found.batches(app.model)) as batches:
            for items in batches:
                reports |= {item.cell: item for item in items if isinstance(item, Report)}
                yield {"rows": [report.row for report in in_order(found.cells, reports)]}, None
        visit = Visit(reports=in_order(found.cells, reports))
        visit.figures = {name: plots.png(figure) for name, figure in figures(visit.reports).items()}
        refused = offered_cells(app.model, found.cells)[1]
        with TemporaryDirectory() as folder:
            yield lab.to_json(visit.reports) | {"refused": refused}, str(write_archive(visit, Path(folder)))

    endpoint(
        speedup_lab,
        "speedup_lab",
        "Compares decoders, tokens per step and policies on recorded questions. Yields {rows} as cells finish; the "
        "last result has the machine, the answers and what was refused too, and a ZIP with table, figures and runs.",
        inputs=[clips, *settings.components()],
        outputs=outputs,
    )


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
