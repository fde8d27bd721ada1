"""Speech to speech: ask aloud, read and hear the answer, choose how the speech tokens are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from demo import render
from demo.answering import Snapshot, playable, snapshots
from demo.decoding import Decoding, decode_options, decoding
from demo.examples import words_of
from demo.job import Views, controls, endpoint, wire
from demo.question import NO_FIGURES, READY, ask, check_clip, clip_problem, progress
from demo.state import App
from demo.theme import waveform
from vocalnet import DecodeOptions, runs

NO_TOKENS = "Speech tokens"


def tab(app: App) -> Decoding:
    """Lays out and wires the tab, and publishes `/speech_to_speech`; returns what a link may set."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300):
            audio, prompt = ask()
            settings = decoding(app)
            buttons = controls("Answer", READY, is_ready=False)
        with gr.Column(min_width=300):
            text = gr.Textbox(label="Answer", lines=3, interactive=False, buttons=["copy"], elem_classes="vn-answer")
            speech = gr.Audio(
                label="Spoken answer",
                interactive=False,
                autoplay=True,
                format="wav",
                buttons=["download"],
                waveform_options=waveform(),
            )
            numbers = gr.HTML(render.placeholder(NO_FIGURES))
            with gr.Accordion(NO_TOKENS, open=False) as token_box:
                tokens = gr.Textbox(show_label=False, container=False, lines=3, max_lines=8, buttons=["copy"])
    answer_json = gr.JSON(label="details", visible=False)

    def answer(clip: str, words: str, decoder: str, options: DecodeOptions) -> Iterator[Snapshot]:
        yield from snapshots(app.model_for(decoder), audio=clip, prompt=words.strip(), options=options)

    def draw(visitor: str | None, clip: str, words: str, decoder: str, *settings: Any) -> Views:
        options = decode_options(app.model.talker, *settings)
        yield {
            text: "",
            speech: None,
            tokens: "",
            token_box: gr.update(label=NO_TOKENS),
            numbers: render.placeholder(NO_FIGURES),
        }
        for snapshot in answer(clip, words, decoder, options):
            update: dict[Any, Any] = {buttons.status: progress(snapshot), text: snapshot.text}
            if snapshot.finished is not None:
                result = snapshot.finished.result
                run = runs.record(app.model_for(decoder), snapshot.events, options, words_of(clip))
                app.visits.of(visitor).add(run)
                update[speech] = playable(result)
                update[numbers] = _figures(snapshot)
                update[tokens] = " ".join(map(str, result.speech_tokens))
                update[token_box] = gr.update(label=f"{NO_TOKENS} ({len(result.speech_tokens)})")
            yield update

    def speech_to_speech(
        audio: str, decoder: str, tokens_per_step: int, policy: str, temperature: float, seed: int
    ) -> Views:
        check_clip(audio)
        options = decode_options(app.model.talker, tokens_per_step, policy, temperature, seed)
        for snapshot in answer(audio, "", decoder, options):
            if snapshot.finished is None:
                yield gr.skip()
            else:
                result = snapshot.finished.result
                yield (
                    playable(result),
                    {
                        "text": result.text,
                        "speech_tokens": result.speech_tokens,
                        "timings": result.timings,
                        "stats": [asdict(stat) for stat in result.stats],
                        "warnings": result.warnings,
                    },
                )

    wire(
        app.new_stops(),
        buttons,
        draw,
        inputs=[audio, prompt, *settings.components()],
        outputs=[text, speech, numbers, tokens, token_box],
        clip=audio,
        problem=clip_problem,
    )
    endpoint(
        speech_to_speech,
        "speech_to_speech",
        "Answers a spoken question in speech. Returns a WAV file and {text, speech_tokens, timings (seconds), stats, "
        "warnings}.",
        inputs=[audio, *settings.components()],
        outputs=[speech, answer_json],
    )
    return settings


def _figures(snapshot: Snapshot) -> str:
    """Returns the figures of a finished answer."""
    assert snapshot.finished is not None
    result = snapshot.finished.result
    timings = result.timings
    tiles = [
        ("First text", f"{timings['first_text']:.2f}", "s"),
        ("Whole answer", f"{timings['total']:.2f}", "s"),
        ("Talker speed", f"{len(result.speech_tokens) / max(timings['talker'], 1e-9):.0f}", "tokens/s"),
    ]
    if snapshot.audio_s > 0.0:
        tiles += [
            ("First audio", f"{timings['first_audio']:.2f}", "s"),
            ("Real-time factor", f"{timings['total'] / snapshot.audio_s:.2f}", "× real time"),
            ("Audio length", f"{snapshot.audio_s:.1f}", "s"),
        ]
    return render.figures(tiles, timings, result.warnings)


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
