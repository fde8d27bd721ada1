"""Streaming: talk with the model; it is heard while it still writes, and every millisecond until then is shown."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from demo import render
from demo.answering import arrivals, explain, playable
from demo.decoding import Decoding, decode_options, decoding
from demo.examples import EXAMPLES, words_of
from demo.job import AT_ONCE, Views, busy, connect, endpoint
from demo.player import Turn, pcm_text, player, read_question, talk
from demo.question import check_clip, check_words
from demo.run_picker import Refresh, RunPicker, run_picker
from demo.speaking import Speaking, chunked, speaking, speech
from demo.state import App
from demo.visits import Visit
from vocalnet import AudioChunk, Finished, runs
from vocalnet.events import Event
from vocalnet.runs import Run

READY = "Ask something, or replay a recorded answer."
EMPTY = (
    "Questions and answers appear here. An answer sounds while it is still being made; what has been spoken is marked."
)
FRESH = "A new conversation. What was said before is forgotten."
HINT = "Marking follows the lengths of the words: it may be off by a syllable. Follow-ups know the turns before them."
PATHS = [example.path for example in EXAMPLES]


@dataclass(frozen=True)
class Talking:
    """What a page needs of the tab: its list of runs, and what makes its player replay those of another tab."""

    refresh: Refresh
    replays: Callable[[RunPicker], Any]


def tab(app: App) -> Talking:
    """Lays out and wires the tab, and publishes `/stream`."""
    parts = _layout(app)
    status, heard, picker = parts.status, parts.heard, parts.picker
    n_manner = len(parts.manner.components())

    def answer(visitor: str | None, asked: Any, decoder: str, *values: Any) -> Views:
        visit = app.visits.of(visitor)
        visit.n_turns += 1
        turn = Turn(visit.n_turns, _id(asked), "", "", app.model.sample_rate_hz)
        try:
            with TemporaryDirectory() as folder:
                request = read_question(asked, Path(folder), PATHS)
                voice, text_chunk, speech_chunk, *flow = values[-n_manner:]
                options = decode_options(app.model.talker, *values[:-n_manner], mask="streaming")
                options = chunked(options, text_chunk, speech_chunk)
                sounding = speech(voice, *flow)
                model, session = _conversation(app, visit, decoder)
                words = request.get("text") or words_of(request["audio"])
                make = functools.partial(session.stream, **request, options=options, **sounding)
                for events, view in _play(turn, make, status, heard):
                    if isinstance(events[-1] if events else None, Finished):
                        visit.add(runs.record(model, turn.events, options, words, **sounding))
                    yield view
        except Exception as error:
            yield {status: render.status(explain(error), "problem"), heard: turn.ended(has_failed=True)}

    def replay(visitor: str | None, name: str | None) -> Views:
        visit = app.visits.of(visitor)
        run = picker.run(name, visitor)
        if run is None:
            yield {status: render.status("Choose a run first.", "problem")}
            return
        visit.n_turns += 1
        turn = Turn(visit.n_turns, "", run.question or "A question", _recorded(run), run.result.sample_rate_hz)
        yield from replayed(turn, run, status, heard)

    def show(run: Run) -> Views:
        yield {}  # the player waits for Replay

    def replays(chosen: RunPicker) -> Any:
        name = [chosen.picked]
        return connect(stops, chosen.again.click, heard.stop, status, replay, name, outputs, has_model=False)

    stops = app.new_stops()

    def forget(request: gr.Request) -> dict[Any, Any]:
        stops[request.session_hash] += 1
        visit = app.visits.of(request.session_hash)
        visit.session = None
        return {heard: {"cleared": visit.n_turns}, status: render.status(FRESH)}

    outputs = [heard]
    questions = [parts.question, *parts.settings.components(), *parts.manner.components()]
    connect(stops, parts.question.submit, heard.stop, status, answer, questions, outputs)
    replays(picker)
    parts.anew.click(forget, None, [heard, status], **AT_ONCE)
    _publish(app)
    return Talking(picker.wire(status, show, []), replays)


@dataclass(frozen=True)
class _Parts:
    """The components of the tab."""

    question: gr.HTML
    status: gr.HTML
    heard: gr.HTML
    anew: gr.Button
    settings: Decoding
    manner: Speaking
    picker: RunPicker


def _layout(app: App) -> _Parts:
    """Lays out the tab."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300, scale=2):
            question = talk([example.text for example in EXAMPLES])
        with gr.Column(min_width=300, scale=3):
            status = gr.HTML(render.status(READY))
            heard = player(app.model.sample_rate_hz, EMPTY)
            anew = gr.Button("New conversation", size="sm", variant="secondary")
            gr.HTML(render.note(HINT))
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300, scale=2), gr.Accordion("How speech is decoded", open=False):
            settings = decoding(app)
        with gr.Column(min_width=300, scale=2), gr.Accordion("Voice, chunks and flow", open=False):
            manner = speaking(app)
        with gr.Column(min_width=300, scale=3), gr.Accordion("Replay a recorded answer", open=True):
            picker = run_picker(app, has_player=True)
    return _Parts(question, status, heard, anew, settings, manner, picker)


def _id(asked: Any) -> str:
    """Returns what the browser calls a question."""
    return str(asked.get("id", ""))[:64] if isinstance(asked, dict) else ""


def _conversation(app: App, visit: Visit, decoder: str) -> tuple[Any, Any]:
    """Returns the model with this decoder and the visit's session, which now speaks with it.

    A session remembers what was said, in words and in embeddings of the adaptor, which all decoders share.
    """
    model = app.model_for(decoder)
    if visit.session is None:
        visit.session = model.session()
    visit.session.model = model
    return model, visit.session


def _play(
    turn: Turn,
    make: Callable[[], Any],
    status: gr.HTML,
    heard: gr.HTML,
    has_model: bool = True,
) -> Generator[tuple[list[Event], dict[Any, Any]], None, None]:
    """Yields what has come of an answer, and the view of it; the first tells the browser's clock when it began."""
    start = time.perf_counter()
    yield [], {status: busy(turn.stage), heard: turn.value()}
    with closing(arrivals(make, has_model=has_model)) as batches:
        for events in batches:
            turn.take(events)
            clock = time.perf_counter() - start
            if turn.result is not None:
                said = render.status(f"Answered in {clock:.1f} s.", "done")
                yield events, {status: said, heard: turn.ended()}
            elif events:
                yield events, {status: busy(turn.stage, clock), heard: turn.value()}
            else:
                yield events, {status: busy(turn.stage, clock)}


def replayed(turn: Turn, run: Run, status: gr.HTML, heard: gr.HTML) -> Views:
    """Yields the views of a recorded answer at its measured pace; closing this ends the wait for its next event."""
    is_over = threading.Event()
    make = functools.partial(runs.replay, run, sleep=is_over.wait)
    try:
        with closing(_play(turn, make, status, heard, has_model=False)) as views:
            for _, view in views:
                yield view
    finally:
        is_over.set()


def _recorded(run: Run) -> str:
    how = f"{run.decoder}, {run.options.tokens_per_step} per step"
    return f"replayed at its measured pace: {run.model}, {how}, on {run.device}, {run.date[:10]}"


def event_json(event: Event) -> dict[str, Any]:
    """Returns an event as plain JSON types; the last one holds the whole answer but its sound."""
    line = runs.to_line(event)
    match event:
        case AudioChunk(samples=samples, sample_rate_hz=rate_hz):
            return {**line, "sample_rate_hz": rate_hz, "pcm16_base64": pcm_text(samples)}
        case Finished(result=result):
            names = ("text", "speech_tokens", "timings", "warnings")
            return {**line, **{name: getattr(result, name) for name in names}}
        case _:
            return line


def _publish(app: App) -> None:
    """Publishes `/stream`."""
    with gr.Row(visible=False):
        clip = gr.Audio(type="filepath", label="audio")
        settings = decoding(app)
        words = gr.Textbox("", label="text")
        manner = speaking(app)
        outputs = [gr.JSON(label="event"), gr.Audio(label="wav", format="wav", interactive=False)]

    def stream(  # where a component has a value, clients take that as the default instead
        audio: str | None = None,
        decoder: str = "",
        tokens_per_step: int = 1,
        policy: str = "",
        temperature: float = 0.0,
        seed: int = 0,
        text: str = "",
        voice: str = "",
        text_chunk: int | None = None,
        speech_chunk: int | None = None,
        flow_steps: int | None = None,
        flow_chunk: int | None = None,
    ) -> Views:
        if audio is not None:
            check_clip(audio)
        request = {"audio": audio, "text": check_words(text) or None, **speech(voice, flow_steps, flow_chunk)}
        options = decode_options(app.model.talker, tokens_per_step, policy, temperature, seed, mask="streaming")
        options = chunked(options, text_chunk, speech_chunk)
        make = functools.partial(app.model_for(decoder).stream, **request, options=options)
        for events in arrivals(make):
            for event in events:
                wav = playable(event.result) if isinstance(event, Finished) else gr.skip()
                yield event_json(event), wav
            if not events:
                yield gr.skip(), gr.skip()

    endpoint(
        stream,
        "stream",
        "Answers a question, spoken (audio) or typed (text), in speech while it is being made; voice, chunks and flow "
        "are the checkpoint's own where they are not given. Yields one event at a time: {type: TextDelta, "
        "SpeechTokens, AudioChunk (16-bit samples in base64, sample_rate_hz), Timings, Finished (the whole answer), "
        "t_s}; with the last one comes the WAV file.",
        inputs=[clip, *settings.components(), words, *manner.components()],
        outputs=outputs,
    )


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
