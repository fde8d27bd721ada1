"""The question of an answering tab: microphone or file, examples, prompt, Answer and Stop, and their wiring."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
import soundfile

from demo import render
from demo.answering import Snapshot, explain
from demo.examples import EXAMPLES
from demo.theme import waveform

MIN_AUDIO_S = 0.1
MAX_AUDIO_S = 300.0
READY = "Record, upload or pick a question, then press Answer."
WAITING = "Waiting for the model"
STOPPED = "Stopped."
NO_FIGURES = "Times and speed appear here with the answer."
BUSY = "The model is busy and the waiting line is full. Try again in a minute."

Views = Generator[Any, None, None]  # what an event's function yields, one view of the page after another


@dataclass(frozen=True)
class Controls:
    """Answer, Stop and the line that says what is going on."""

    answer: gr.Button
    stop: gr.Button
    status: gr.HTML


def ask() -> tuple[gr.Audio, gr.Textbox]:
    """Lays out the question and its examples; returns the clip (a path) and the prompt."""
    audio = gr.Audio(
        label="Your question",
        sources=["microphone", "upload"],
        type="filepath",
        waveform_options=waveform(sample_rate=16_000),
        buttons=["download"],
    )
    gr.Examples(
        examples=[[str(example.path)] for example in EXAMPLES],
        example_labels=[example.text for example in EXAMPLES],
        inputs=[audio],
        label="Or try one of these",
        api_visibility="private",
    )
    prompt = gr.Textbox(
        value="",
        label="Prompt",
        info="Optional text that goes to the language model with the clip.",
        lines=1,
        max_lines=4,
        max_length=2000,
    )
    return audio, prompt


def controls() -> Controls:
    """Lays out the buttons and the status line; both buttons wait for something to act on."""
    with gr.Row(elem_classes="vn-buttons"):
        answer = gr.Button("Answer", variant="primary", interactive=False, min_width=120, scale=3)
        stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90, scale=1)
    return Controls(answer, stop, gr.HTML(render.status(READY)))


def wire(
    controls: Controls,
    audio: gr.Audio,
    run: Callable[..., Views],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> None:
    """Connects the buttons: Answer checks the clip, waits for the model and draws what `run` yields; Stop ends it.

    `run` takes the inputs and yields {component: value} several times a second. An answer ends itself when its
    visitor's count of stops has changed since Answer was pressed; Gradio's own cancelling would let a late view
    overwrite "Stopped.".
    """
    answer, stop, status = controls.answer, controls.stop, controls.status
    stops: Counter[str | None] = Counter()  # by visitor
    n_stops = gr.State(0)  # when Answer was pressed

    def check(clip: str | None) -> dict[str, Any]:
        problem = clip_problem(clip)
        return gr.validate(problem is None, problem or "")

    def begin(clip: str, request: gr.Request) -> dict[Any, Any]:
        held = {answer: gr.update(interactive=False), stop: gr.update(interactive=True)}
        return {**held, status: busy(WAITING), n_stops: stops[request.session_hash]}

    def draw(n_stops: int, request: gr.Request, *values: Any) -> Views:
        try:
            with closing(run(*values)) as views:
                for view in views:
                    if stops[request.session_hash] != n_stops:
                        yield {status: render.status(STOPPED)}
                        return
                    yield view
        except Exception as error:
            yield {status: render.status(explain(error), "problem")}

    def rest(clip: str | None) -> dict[Any, Any]:
        return {answer: gr.update(interactive=clip is not None), stop: gr.update(interactive=False)}

    def halt(request: gr.Request) -> dict[str, Any]:
        stops[request.session_hash] += 1
        return gr.update(interactive=False)

    def change(clip: str | None, request: gr.Request) -> dict[Any, Any]:
        stops[request.session_hash] += 1
        problem = None if clip is None else clip_problem(clip)
        return {**rest(clip), status: render.status(problem, "problem") if problem else render.status(READY)}

    buttons = [answer, stop]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    at_once: dict[str, Any] = {"queue": False, **quiet}
    model: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, **quiet}
    begun = answer.click(begin, audio, [*buttons, status, n_stops], validator=check, concurrency_limit=None, **quiet)
    answered = begun.success(draw, [n_stops, *inputs], [status, *outputs], **model)
    for event in (begun, answered):
        event.failure(lambda: render.status(BUSY, "problem"), None, status, **at_once)  # what else fails is drawn
    answered.then(rest, audio, buttons, **at_once)
    stop.click(halt, None, stop, **at_once)
    audio.change(change, audio, [*buttons, status], **at_once)


def endpoint(
    run: Callable[..., Views], name: str, description: str, inputs: Sequence[Any], outputs: Sequence[Any]
) -> None:
    """Publishes `run` as the API endpoint `name`; no button of the page triggers it. The first input is the clip."""

    @functools.wraps(run)
    def serve(clip: str | None, *settings: Any) -> Views:
        try:
            problem = clip_problem(clip)
            if problem is not None:
                raise ValueError(problem)
            yield from run(clip, *settings)
        except Exception as error:
            raise gr.Error(explain(error), print_exception=False) from error

    gr.on(
        triggers=[],
        fn=serve,
        inputs=list(inputs),
        outputs=list(outputs),
        concurrency_id="model",
        concurrency_limit=1,
        api_name=name,
        api_description=description,
    )


def clip_problem(path: str | None) -> str | None:
    """Returns a sentence on what the clip's header shows to be wrong, before the model is asked for; None: nothing."""
    if path is None:
        return "Record or upload a question first."
    try:
        duration_s = soundfile.info(path).duration
    except soundfile.LibsndfileError:
        return "This file cannot be read as audio. Upload a WAV, FLAC, MP3 or OGG file."
    if duration_s < MIN_AUDIO_S:
        return f"The clip is too short ({duration_s:.2f} s). Record at least {MIN_AUDIO_S} seconds."
    if duration_s > MAX_AUDIO_S:
        return f"The clip is too long ({duration_s:.0f} s). Cut it to {MAX_AUDIO_S:.0f} seconds or less."
    return None


def progress(snapshot: Snapshot) -> str:
    """Returns the status line of a snapshot."""
    if snapshot.finished is not None:
        return render.status(f"Answered in {snapshot.elapsed_s:.1f} s.", "done")
    details = {
        "Choosing speech tokens": f", {snapshot.n_speech} so far",
        "Speaking": f", {snapshot.audio_s:.1f} s of audio so far",
    }
    return busy(snapshot.stage + details.get(snapshot.stage, ""), snapshot.elapsed_s)


def busy(text: str, elapsed_s: float | None = None) -> str:
    clock = "" if elapsed_s is None else f" · {elapsed_s:.1f} s"
    return render.status(f"{text}…{clock}", "busy")
