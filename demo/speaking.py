"""The choice of voice, chunks and flow, for an answer that is heard while it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from demo.state import App
from vocalnet import DecodeOptions, VocoderOptions

OWN = "The checkpoint's own"
INFO = "Empty: the checkpoint's own."


@dataclass(frozen=True)
class Speaking:
    """The components that say how an answer is spoken, in the order of the endpoint's arguments."""

    voice: gr.Dropdown
    text_chunk: gr.Number
    speech_chunk: gr.Number
    flow_steps: gr.Number
    flow_chunk: gr.Number

    def components(self) -> list[Any]:
        """Returns the components in that order."""
        return [self.voice, self.text_chunk, self.speech_chunk, self.flow_steps, self.flow_chunk]


def speaking(app: App) -> Speaking:
    """Lays out the choice."""
    voices = [(OWN, ""), *((name, name) for name in app.model.voices)]
    labels = (
        "Text tokens per chunk (C_t)",
        "Speech tokens per chunk (C_s)",
        "Flow steps (NFE)",
        "Speech tokens per flow",
    )
    voice = gr.Dropdown(voices, value="", label="Voice", interactive=len(voices) > 1)
    with gr.Row():
        numbers = [gr.Number(None, label=label, info=INFO, precision=0, minimum=1, min_width=180) for label in labels]
    return Speaking(voice, *numbers)


def chunked(options: DecodeOptions, text_chunk: int | None, speech_chunk: int | None) -> DecodeOptions:
    """Returns the options with these chunks; None: the checkpoint's own."""
    return replace(options, text_chunk=text_chunk, speech_chunk=speech_chunk)


def speech(voice: str, flow_steps: int | None, flow_chunk: int | None) -> dict[str, Any]:
    """Returns how an answer sounds, as arguments of `Session.stream`; what is not chosen is left out."""
    is_own = flow_steps is None and flow_chunk is None
    sound = {} if is_own else {"sound": VocoderOptions(n_steps=flow_steps, chunk=flow_chunk)}
    return {**({"voice": voice} if voice else {}), **sound}
