"""The choice of a run: of this visit, shipped with the page, or dropped as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from demo import render
from demo.answering import explain
from demo.job import AT_ONCE, MODEL, QUIET, Views
from demo.state import App
from demo.visits import Visit
from vocalnet import runs
from vocalnet.runs import Run

GONE = "This run is no longer kept. Choose another one."
Refresh = Callable[[Callable[..., Any]], None]


@dataclass(frozen=True)
class RunPicker:
    """A list of runs, and where a run file can be dropped; `drop.js` hands it what is dropped anywhere on the tab.

    `again` is for the page's player: it can be pressed once a run is chosen.
    """

    picked: gr.Dropdown
    dropped: gr.File
    again: gr.Button
    app: App

    def wire(
        self, status: gr.HTML, show: Callable[[Run], Views], outputs: Sequence[Any], has_model: bool = False
    ) -> Refresh:
        """Connects both with what shows a run, once for each choice; what is wrong is said in `status`.

        Args:
            status: a status line.
            show: yields {component: value}.
            outputs: what it may draw.
            has_model: showing waits for its turn with the model.

        Returns:
            What connects an event, such as the opening of the tab, with the list of this visit's runs.
        """
        shown = gr.State("")  # the name of the run that was drawn last

        def drop(path: str | None, request: gr.Request) -> dict[Any, Any]:
            if path is None:
                return {self.picked: gr.skip()}
            fresh = {self.dropped: None}  # room for the next
            visit = self.app.visits.of(request.session_hash)
            try:
                name = visit.add(runs.load(path))
            except Exception as error:
                return {**fresh, status: render.status(explain(error), "problem")}
            return {**fresh, self.picked: gr.update(choices=_choices(visit), value=name)}

        def refresh(name: str | None, request: gr.Request) -> dict[str, Any]:
            names = _choices(self.app.visits.of(request.session_hash))
            return gr.update(choices=names, value=name if name in names else next(iter(names), None))

        def draw(name: str | None, last: str, request: gr.Request) -> Views:
            try:
                run = self.run(name, request.session_hash)
                if run is None or name == last:
                    yield {shown: gr.skip()}
                    return
                yield {self.again: gr.update(interactive=True)}  # also if it cannot be shown
                for view in show(run):
                    yield {**view, shown: name}
            except Exception as error:
                yield {status: render.status(explain(error), "problem"), shown: name}

        def then(event: Any) -> None:
            event.then(draw, [self.picked, shown], drawn, **place, **QUIET)

        # Not at a change: a list that is filled while its tab is being opened has none.
        drawn = [status, shown, self.again, *outputs]
        place: dict[str, Any] = MODEL if has_model else {"concurrency_limit": None}
        then(self.dropped.change(drop, self.dropped, [self.dropped, self.picked, status], **AT_ONCE))
        self.picked.input(draw, [self.picked, shown], drawn, **place, **QUIET)
        return lambda event: then(event(refresh, self.picked, self.picked, **AT_ONCE))

    def run(self, name: str | None, visitor: str | None) -> Run | None:
        """Returns a run of the list; None if nothing is chosen.

        Raises:
            ValueError: it is no longer kept.
        """
        if not name:
            return None
        found = self.app.visits.of(visitor).runs.get(name)
        if found is None:
            raise ValueError(GONE)
        return found


@dataclass(frozen=True)
class Runs:
    """What a page needs of a tab that shows runs: their list, and what refreshes it at an event."""

    picker: RunPicker
    refresh: Refresh


def run_picker(app: App, has_player: bool, label: str = "A run of this visit") -> RunPicker:
    """Lays out the choice; `has_player`: the page has a player that can replay what is chosen."""
    info = "Spoken answers, labs, dropped files, and two that were recorded before."
    picked = gr.Dropdown([], label=label, info=info, elem_classes="vn-runs")
    dropped = gr.File(
        label="Or drop a run file (.zip)", file_types=[".zip"], height=140, elem_classes="vn-drop", interactive=True
    )
    again = gr.Button("Replay", size="sm", interactive=False, visible=has_player)
    return RunPicker(picked, dropped, again, app)


def about_run(run: Run) -> dict[str, Any]:
    """Returns where a run comes from, as plain JSON types."""
    names = ("model", "revision", "decoder", "question", "device", "versions", "date", "voice")
    sound = None if run.sound is None else asdict(run.sound)
    return {name: getattr(run, name) for name in names} | {"sound": sound}


def _choices(visit: Visit) -> list[str]:
    """Returns the names of runs, the newest first."""
    return list(visit.runs)[::-1]
