"""Attention: what may be seen (the masks of Figure 2), and what the talker looks at while it speaks an answer."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import gradio as gr

from demo import plots, render
from demo.answering import arrivals
from demo.attention_view import heads_value, heads_view, masks_value, masks_view
from demo.decoding import DEFAULT_STEP
from demo.downloads import download_row, offer
from demo.examples import EXAMPLES, words_of
from demo.job import Views, busy, controls, endpoint, follow, wire
from demo.question import check_clip, record
from demo.run_picker import Runs, run_picker
from demo.state import App
from vocalnet import DecodeOptions, runs
from vocalnet.attention import AnswerAttention, answer_attention
from vocalnet.events import Event, Result
from vocalnet.masks import RULES
from vocalnet.runs import Run

READY = "Choose a question, then press Look; or choose a run."
YOURS = "Your own question"
MODES = (("the text is complete (Eq. 2)", "full"), ("the text is being written (Eq. 3)", "streaming"))
MAX_TEXT, MAX_SPEECH = 60, 240
MASKS_TITLE = "### What may be seen\nA row sees the columns that are coloured. Drag the slider, or press on a row."
HEADS_TITLE = "### What the talker looked at"
CAPTION = (
    "Weights of every layer of the speech decoder and each of its heads on the text, computed once more from the "
    "finished answer. The score is the mean weight along the best path through the text that skips nothing and never "
    "goes back: 1 is attention to one position at a time, in order."
)
FILES = {"attention.json": "All (JSON)", "attention.png": "Heads (PNG)"}


def tab(app: App, has_player: bool = False) -> Runs:
    """Lays out and wires the tab, and publishes `/attention`; `has_player` as for `run_picker`."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300, scale=2):
            chosen = gr.Dropdown([(e.text, n) for n, e in enumerate(EXAMPLES)], value=0, label="Question")
            with gr.Accordion(YOURS, open=False):
                own = record(YOURS)
            decoder = gr.Dropdown(list(app.model.decoders), value=app.model.decoders[0], label="Decoder")
            mode = gr.Radio(list(MODES), value="streaming", label="The talker speaks when")
            buttons = controls("Look", READY)
            with gr.Accordion("Or a run", open=True):
                picker = run_picker(app, has_player)
        with gr.Column(min_width=300, scale=3):
            gr.Markdown(MASKS_TITLE)
            sizes = _sizes(app)
            masks = masks_view(masks_value(*(size.value for size in sizes)))
    gr.Markdown(HEADS_TITLE)
    heads = heads_view()
    gr.HTML(render.note(CAPTION))
    downloads = download_row(FILES)

    def show(seen: AnswerAttention, result: Result, folder: Path) -> dict[Any, Any]:
        paths = write_files(seen, result, folder)
        n_text, n_speech = len(seen.pieces), seen.attention.weights.shape[2]
        return {
            heads: heads_value(seen),
            sizes[0]: min(n_text, MAX_TEXT),
            sizes[1]: min(n_speech, MAX_SPEECH),
            **offer(downloads, paths),
        }

    def draw(views: Iterator[AnswerAttention | None], run: Run, said: str) -> Views:
        for seen in views:
            if seen is None:
                yield {buttons.status: busy("Looking")}
                continue
            with TemporaryDirectory() as folder:
                yield {buttons.status: render.status(said, "done"), **show(seen, run.result, Path(folder))}

    def look(visitor: str | None, number: int, clip: str | None, decoder: str, mask: str) -> Views:
        audio, model = clip or str(EXAMPLES[number].path), app.model_for(decoder)
        for run in _answered(model, audio, mask):
            if run is None:
                yield {buttons.status: busy("Answering")}
                continue
            app.visits.of(visitor).add(run)
            yield from draw(_looked(model, run, audio), run, f"“{run.result.text}”")

    def show_run(run: Run) -> Views:
        model = app.model_for(run.decoder)
        views = _looked(model, run, _question_of(model, run))
        yield from draw(views, run, f"“{run.result.text}”, a run of {run.model}.")

    outputs = [heads, sizes[0], sizes[1], *downloads.values()]
    wire(app.new_stops(), buttons, look, [chosen, own, decoder, mode], outputs)
    follow(sizes, masks_value, sizes, masks)
    _publish(app)
    return Runs(picker, picker.wire(buttons.status, show_run, outputs, has_model=True))


def _sizes(app: App) -> list[Any]:
    """Lays out what the masks depend on, in the order of `masks_value`."""
    config = app.model.parts.talker
    with gr.Row():
        n_text = gr.Slider(1, MAX_TEXT, value=11, step=1, label="Text positions", min_width=140)
        n_speech = gr.Slider(1, MAX_SPEECH, value=46, step=1, label="Speech rows", min_width=140)
    with gr.Row():
        C_t = gr.Slider(1, 20, value=config.text_chunk, step=1, label="Text chunk", min_width=140)
        C_s = gr.Slider(1, 60, value=config.speech_chunk, step=1, label="Speech chunk", min_width=140)
        rule = gr.Dropdown(list(RULES), value=config.mask_rule, label="Reading of Eq. 3", min_width=140)
    return [n_text, n_speech, C_t, C_s, rule]


def _answered(model: Any, audio: str, mask: str) -> Iterator[Run | None]:
    """Yields None several times a second while an answer is made, then its run."""
    check_clip(audio)
    mode: Literal["full", "streaming"] = "streaming" if mask == "streaming" else "full"
    options = DecodeOptions(tokens_per_step=min(DEFAULT_STEP, model.max_tokens_per_step), mask=mode)
    events: list[Event] = []
    for batch in arrivals(lambda: model.stream(audio=audio, options=options)):
        events += batch
        yield None
    yield runs.record(model, events, options, words_of(audio))


def _looked(model: Any, run: Run, audio: str | Path) -> Iterator[AnswerAttention | None]:
    """Yields None several times a second while the attention of a run waits for its turn or is computed, then it."""

    def compute() -> Generator[AnswerAttention, None, None]:
        yield answer_attention(model, run.result, run.options, audio=audio)

    for found in arrivals(compute):
        yield found[0] if found else None
        if found:
            return


def _question_of(model: Any, run: Run) -> Path:
    """Returns the recording of the question that a run answers.

    Raises:
        ValueError: the run is of other weights, or its question was not one of the examples.
    """
    if run.revision != runs.revision(model):
        raise ValueError(
            f"This run is of other weights ({run.model}, {run.revision}) than the model that is loaded. Attention is "
            "computed with the weights: choose a run of this model."
        )
    found = [example.path for example in EXAMPLES if example.text == run.question]
    if not found:
        raise ValueError("The sound of this run's question was not kept. Ask it above, or choose a run of an example.")
    return found[0]


def write_files(seen: AnswerAttention, result: Result, folder: Path) -> dict[str, Path]:
    """Writes what can be downloaded, and returns the paths by the names in `FILES`."""
    (folder / "attention.json").write_text(json.dumps(details(seen, result)))
    (folder / "attention.png").write_bytes(plots.png(plots.heads(seen)))
    return {name: folder / name for name in FILES}


def details(seen: AnswerAttention, result: Result) -> dict[str, Any]:
    """Returns all that is known of the attention of an answer, as plain JSON types."""
    return {
        "text": result.text,
        "speech_tokens": result.speech_tokens,
        "pieces": list(seen.pieces),
        "tokens_per_row": seen.attention.stride,
        "scores": seen.scores.tolist(),
        "chance": seen.chance,
        "visible": seen.attention.visible[:, : len(seen.pieces)].int().tolist(),
        "weights": seen.attention.text.tolist(),
    }


def _publish(app: App) -> None:
    """Publishes `/attention`."""
    with gr.Row(visible=False):
        clip = gr.Audio(type="filepath", label="audio")
        decoder = gr.Dropdown(list(app.model.decoders), value=app.model.decoders[0], label="decoder")
        mask = gr.Radio(["full", "streaming"], value="streaming", label="mask")
        outputs = [gr.JSON(label="attention"), gr.File(label="heads")]

    def attention(audio: str, decoder: str, mask: str) -> Views:
        model = app.model_for(decoder)
        for run in _answered(model, audio, mask):
            if run is None:
                yield gr.skip(), gr.skip()
                continue
            for seen in _looked(model, run, audio):
                if seen is None:
                    yield gr.skip(), gr.skip()
                    continue
                with TemporaryDirectory() as folder:
                    paths = write_files(seen, run.result, Path(folder))
                    yield details(seen, run.result), str(paths["attention.png"])

    endpoint(
        attention,
        "attention",
        "Answers a spoken question and returns the talker's attention over the text: {text, speech_tokens, pieces, "
        "scores (layers x heads), chance, visible (rows x pieces), weights (layers x heads x rows x pieces)}, and PNG.",
        inputs=[clip, decoder, mask],
        outputs=outputs,
    )


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
