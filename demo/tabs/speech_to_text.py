"""Speech to text: ask aloud, read the answer as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from demo import render
from demo.answering import Snapshot, snapshots
from demo.job import Views, controls, endpoint, wire
from demo.question import NO_FIGURES, READY, ask, check_clip, clip_problem, progress
from demo.state import App


def tab(app: App) -> None:
    """Lays out and wires the tab, and publishes `/speech_to_text`."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300):
            audio, prompt = ask()
            buttons = controls("Answer", READY, is_ready=False)
        with gr.Column(min_width=300):
            text = gr.Textbox(label="Answer", lines=4, interactive=False, buttons=["copy"], elem_classes="vn-answer")
            numbers = gr.HTML(render.placeholder(NO_FIGURES))
    answer_json = gr.JSON(label="answer", visible=False)

    def answer(clip: str, words: str) -> Iterator[Snapshot]:
        yield from snapshots(app.model, audio=clip, prompt=words.strip(), speech=False)

    def draw(visitor: str | None, clip: str, words: str) -> Views:
        yield {text: "", numbers: render.placeholder(NO_FIGURES)}
        for snapshot in answer(clip, words):
            update: dict[Any, Any] = {buttons.status: progress(snapshot), text: snapshot.text}
            if snapshot.finished is not None:
                update[numbers] = _figures(snapshot)
            yield update

    def speech_to_text(audio: str, prompt: str = "") -> Views:
        check_clip(audio)
        for snapshot in answer(audio, prompt):
            if snapshot.finished is None:
                yield gr.skip()
            else:
                result = snapshot.finished.result
                yield {"text": result.text, "timings": result.timings, "warnings": result.warnings}

    wire(
        app.new_stops(),
        buttons,
        draw,
        inputs=[audio, prompt],
        outputs=[text, numbers],
        clip=audio,
        problem=clip_problem,
    )
    endpoint(
        speech_to_text,
        "speech_to_text",
        "Answers a spoken question in text. Returns {text, timings (seconds), warnings}.",
        inputs=[audio, prompt],
        outputs=[answer_json],
    )


def _figures(snapshot: Snapshot) -> str:
    """Returns the figures of a finished answer."""
    assert snapshot.finished is not None
    result = snapshot.finished.result
    tiles = [
        ("First text", f"{result.timings['first_text']:.2f}", "s"),
        ("Whole answer", f"{result.timings['total']:.2f}", "s"),
        ("Text speed", f"{snapshot.n_text / max(result.timings['llm'], 1e-9):.0f}", "tokens/s"),
    ]
    return render.figures(tiles, result.timings, result.warnings)


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
