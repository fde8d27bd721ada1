"""Work that a visitor starts and may stop: the two buttons, the status line, their wiring, and API endpoints."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demo import render
from demo.answering import explain

WAITING = "Waiting for the model"
STOPPED = "Stopped."
BUSY = "The model is busy and the waiting line is full. Try again in a minute."

Views = Generator[Any, None, None]  # what an event's function yields, one view of the page after another
Stops = Counter[str | None]  # by visitor
Problem = Callable[[str | None], str | None]  # a clip to a sentence on what is wrong with it
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 2}  # so many jobs take turns with the model
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": False, **QUIET}


@dataclass(frozen=True)
class Controls:
    """Start, Stop, the line that says what is going on, and what it says at first."""

    start: gr.Button
    stop: gr.Button
    status: gr.HTML
    ready: str


def controls(start: str, ready: str, is_ready: bool = True) -> Controls:
    """Lays out the buttons and the status line; a button waits for something to act on."""
    with gr.Row(elem_classes="vn-buttons"):
        go = gr.Button(start, variant="primary", interactive=is_ready, min_width=120, scale=3)
        stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90, scale=1)
    return Controls(go, stop, gr.HTML(render.status(ready)), ready)


def wire(
    stops: Stops,
    controls: Controls,
    run: Callable[..., Views],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    clip: gr.Audio | None = None,
    problem: Problem = lambda clip: None,
) -> Any:
    """Connects the buttons: Start waits for the model and draws what `run` yields; Stop ends it.

    `run` takes the visitor and the inputs, and yields {component: value} several times a second. A job ends itself when
    its visitor's count of stops has changed since Start was pressed; Gradio's own cancelling would let a late view
    overwrite "Stopped.".

    Args:
        stops: of this kind of job, as for `connect`.
        controls: the buttons and the status line.
        run: makes the views.
        inputs: what it takes after the visitor.
        outputs: what it may draw.
        clip: a recording without which there is nothing to start; another one ends the job.
        problem: what is wrong with it, said before the job waits for the model.

    Returns:
        The end of a job, as an event.
    """
    start, stop, status = controls.start, controls.stop, controls.status
    gate = [] if clip is None else [clip]

    def check(clip: str | None) -> dict[str, Any]:
        found = problem(clip)
        return gr.validate(found is None, found or "")

    def rest(*clips: str | None) -> dict[Any, Any]:
        return {start: gr.update(interactive=None not in clips), stop: gr.update(interactive=False)}

    def change(clip: str | None, request: gr.Request) -> dict[Any, Any]:
        stops[request.session_hash] += 1
        found = None if clip is None else problem(clip)
        line = render.status(found, "problem") if found else render.status(controls.ready)
        return {**rest(clip), status: line}

    buttons = [start, stop]
    held = {start: gr.update(interactive=False), stop: gr.update(interactive=True)}
    begins = functools.partial(start.click, validator=check if gate else None)
    done = connect(stops, begins, stop.click, status, run, inputs, outputs, gate, held)
    stop.click(lambda: gr.update(interactive=False), None, stop, **AT_ONCE)
    done.then(rest, gate, buttons, **AT_ONCE)
    if clip is not None:
        clip.change(change, clip, [*buttons, status], **AT_ONCE)
    return done


def connect(
    stops: Stops,
    begins: Callable[..., Any],
    halts: Callable[..., Any],
    status: gr.HTML,
    run: Callable[..., Views],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    gate: Sequence[Any] = (),
    held: Mapping[Any, Any] | None = None,
    has_model: bool = True,
) -> Any:
    """Connects the event that begins a job, which also ends the visitor's job before, and the one that halts it.

    Args:
        stops: how often each visitor has ended a job, from `App.new_stops`; kinds of jobs that end each other share it.
        begins: a listener such as `button.click`; its function takes the `gate`.
        halts: a listener, too.
        status: says what is going on.
        run: as for `wire`.
        inputs: what it takes after the visitor.
        outputs: what it may draw.
        gate: components that the first event reads.
        held: what it shows at once.
        has_model: the job waits for its turn with the model.

    Returns:
        The end of a job, as an event.
    """
    n_stops = gr.State(0)  # when the job was begun
    shown = dict(held or {})

    def begin(request: gr.Request, *values: Any) -> dict[Any, Any]:
        stops[request.session_hash] += 1
        return {**shown, status: busy(WAITING), n_stops: stops[request.session_hash]}

    def halt(request: gr.Request) -> str:
        stops[request.session_hash] += 1
        return render.status(STOPPED)  # now: a job in the waiting line could say so only when it is its turn

    rules = {"trigger_mode": "multiple", **QUIET}
    begun = begins(begin, list(gate), [*shown, status, n_stops], concurrency_limit=None, **rules)
    place = MODEL if has_model else {"concurrency_limit": None}
    done = begun.success(_stoppable(run, status, stops), [n_stops, *inputs], [status, *outputs], **place, **rules)
    for event in (begun, done):
        event.failure(lambda: render.status(BUSY, "problem"), None, status, **AT_ONCE)  # what else fails is drawn
    halts(halt, None, status, **AT_ONCE)
    return done


def _stoppable(run: Callable[..., Views], status: gr.HTML, stops: Stops) -> Callable[..., Views]:
    """Returns what draws a job until its visitor's count of `stops` has changed, and then or on failure says so."""

    def draw(n_stops: int, request: gr.Request, *values: Any) -> Views:
        visitor = request.session_hash
        try:
            with closing(run(visitor, *values)) as views:
                while stops[visitor] == n_stops:
                    view = next(views, None)
                    if view is None:
                        return
                    if stops[visitor] == n_stops:  # still, after all that it took
                        yield view
            yield {status: render.status(STOPPED)}
        except Exception as error:
            yield {status: render.status(explain(error), "problem")}

    return draw


def endpoint(
    run: Callable[..., Any],
    name: str,
    description: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    has_model: bool = True,
) -> None:
    """Publishes `run`, a generator of answers, as the API endpoint `name`; no button of the page triggers it.

    `has_model`: it waits for its turn with the model.
    """

    @functools.wraps(run)
    def serve(*values: Any) -> Views:
        try:
            yield from run(*values)
        except Exception as error:
            raise gr.Error(explain(error), print_exception=False) from error

    gr.on(
        triggers=[],
        fn=serve,
        inputs=list(inputs),
        outputs=list(outputs),
        api_name=name,
        api_description=description,
        **(MODEL if has_model else {}),
    )


def follow(components: Sequence[Any], show: Callable[..., Any], inputs: Sequence[Any], output: Any) -> None:
    """Shows in `output` what `show` makes of the inputs, whenever one of the components changes.

    All of them are one event, of which one answer at a time is under way: none overtakes a later one.
    """
    changes = [component.change for component in components]
    gr.on(changes, show, list(inputs), output, trigger_mode="always_last", **AT_ONCE)


def busy(text: str, elapsed_s: float | None = None) -> str:
    """Returns a status line of something that goes on."""
    clock = "" if elapsed_s is None else f" · {elapsed_s:.1f} s"
    return render.status(f"{text}…{clock}", "busy")
