"""The table of contents of the page: which tabs there are, and what a link may select."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from demo.page import new_page
from demo.state import App
from demo.tabs import about, speech_to_speech, speech_to_text


def build(app: App) -> gr.Blocks:
    """Returns the page of one model; nothing is served yet."""
    with new_page(app) as blocks:
        with gr.Tabs(selected=tab_names(app)[0], overflow_behavior="wrap") as tabs:
            settings: list[Any] = []
            if app.has_speech:
                with gr.Tab("Speech to speech", id="s2s"):
                    decoding = speech_to_speech.tab(app)
                    settings = [decoding.decoder, decoding.tokens_per_step]
            with gr.Tab("Speech to text", id="s2t"):
                speech_to_text.tab(app)
            with gr.Tab("About", id="about"):
                about.tab(app)

        def follow_link(request: gr.Request) -> list[Any]:
            choice = link_choice(request.query_params, app)
            values = [choice.get("decoder", gr.skip()), choice.get("steps", gr.skip())]
            return [gr.Tabs(selected=choice["tab"]) if "tab" in choice else gr.skip(), *values[: len(settings)]]

        blocks.load(
            follow_link,
            None,
            [tabs, *settings],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    return blocks


def tab_names(app: App) -> list[str]:
    """Returns the names that a link may select; the first tab is open at the start."""
    return ["s2s", "s2t", "about"] if app.has_speech else ["s2t", "about"]


def link_choice(query: Mapping[str, str], app: App) -> dict[str, Any]:
    """Returns the valid part of a link's query, e.g. `?tab=s2s&decoder=mtp_vocalnet&steps=3`; the rest is ignored."""
    steps = [str(step) for step in range(1, app.model.max_tokens_per_step + 1)]
    allowed = {"tab": tab_names(app), "decoder": app.model.decoders, "steps": steps}
    choice: dict[str, Any] = {key: query[key] for key, values in allowed.items() if query.get(key) in values}
    if "steps" in choice:
        choice["steps"] = int(choice["steps"])
    return choice
