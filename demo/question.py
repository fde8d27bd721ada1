"""The question of an answering tab: microphone or file, examples, prompt, and what can be wrong with a clip."""

from __future__ import annotations

import gradio as gr
import soundfile

from demo import render
from demo.answering import Snapshot
from demo.examples import EXAMPLES
from demo.job import busy
from demo.theme import waveform

MIN_AUDIO_S = 0.1
MAX_AUDIO_S = 300.0
MAX_WORDS = 2000  # characters of a typed question or a prompt
READY = "Record, upload or pick a question, then press Answer."
NO_FIGURES = "Times and speed appear here with the answer."


def ask() -> tuple[gr.Audio, gr.Textbox]:
    """Lays out the question and its examples; returns the clip (a path) and the prompt."""
    audio = record("Your question")
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
        max_length=MAX_WORDS,
    )
    return audio, prompt


def record(label: str) -> gr.Audio:
    """Lays out a microphone that also takes files; its value is a path."""
    return gr.Audio(
        label=label,
        sources=["microphone", "upload"],
        type="filepath",
        waveform_options=waveform(sample_rate=16_000),
        buttons=["download"],
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


def check_clip(path: str | None) -> None:
    """Raises ValueError with the sentence of `clip_problem`, if there is one."""
    problem = clip_problem(path)
    if problem is not None:
        raise ValueError(problem)


def check_words(words: str) -> str:
    """Returns a typed question without the spaces around it.

    Raises:
        ValueError: it is too long.
    """
    words = words.strip()
    if len(words) > MAX_WORDS:
        raise ValueError(f"The question is longer than {MAX_WORDS} characters. Ask a shorter one.")
    return words


def progress(snapshot: Snapshot) -> str:
    """Returns the status line of a snapshot."""
    if snapshot.finished is not None:
        return render.status(f"Answered in {snapshot.elapsed_s:.1f} s.", "done")
    details = {
        "Choosing speech tokens": f", {snapshot.n_speech} so far",
        "Speaking": f", {snapshot.audio_s:.1f} s of audio so far",
    }
    return busy(snapshot.stage + details.get(snapshot.stage, ""), snapshot.elapsed_s)
