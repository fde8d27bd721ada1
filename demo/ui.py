"""The table of contents of the page: which tabs there are, and what a link may select."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from demo.job import AT_ONCE
from demo.page import new_page
from demo.run_picker import Runs
from demo.state import App
from demo.tabs import about, attention, latency, speech_to_speech, speech_to_text, speedup_lab, streaming, token_stats


def build(app: App) -> gr.Blocks:
    """Returns the page of one model; nothing is served yet."""
    with new_page(app) as blocks:
        with gr.Tabs(selected=tab_names(app)[0], overflow_behavior="wrap") as tabs:
            settings: dict[str, Any] = {}  # what a link may set, by its name
            shown: dict[gr.Tab, Runs] = {}  # tabs that show runs
            if app.has_speech:
                with gr.Tab("Speech to speech", id="s2s"):
                    decoding = speech_to_speech.tab(app)
            with gr.Tab("Speech to text", id="s2t"):
                speech_to_text.tab(app)
            if app.has_speech:
                with gr.Tab("Streaming", id="stream") as talking:
                    talk = streaming.tab(app)
                    talk.refresh(talking.select)
                with gr.Tab("Speedup lab", id="lab"):
                    compared = speedup_lab.tab(app)
                with gr.Tab("Token statistics", id="stats") as stats:
                    shown[stats] = token_stats.tab(app, has_player=True)
                with gr.Tab("Latency", id="latency") as times:
                    shown[times] = latency.tab(app, has_player=True)
                with gr.Tab("Attention", id="attention") as looks:
                    shown[looks] = attention.tab(app, has_player=True)
                settings = {
                    "decoder": decoding.decoder,
                    "step": decoding.tokens_per_step,
                    "decoders": compared.decoders,
                    "steps": compared.tokens_per_step,
                    "policies": compared.policies,
                }
            with gr.Tab("About", id="about"):
                about.tab(app)

        for opened, runs in shown.items():
            runs.refresh(opened.select)
            runs.picker.again.click(lambda: gr.Tabs(selected="stream"), None, tabs, **AT_ONCE)
            talk.replays(runs.picker)

        def follow_link(request: gr.Request) -> list[Any]:
            choice = link_choice(request.query_params, app)
            values = [choice.get(name, gr.skip()) for name in settings]
            return [gr.Tabs(selected=choice["tab"]) if "tab" in choice else gr.skip(), *values]

        blocks.load(
            follow_link,
            None,
            [tabs, *settings.values()],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    return blocks


def tab_names(app: App) -> list[str]:
    """Returns the names that a link may select; the first tab is open at the start."""
    spoken = ["s2s", "s2t", "stream", "lab", "stats", "latency", "attention", "about"]
    return spoken if app.has_speech else ["s2t", "about"]


def link_choice(query: Mapping[str, str], app: App) -> dict[str, Any]:
    """Returns the valid part of a link's query; the rest is ignored.

    `?tab=s2s&decoder=mtp_vocalnet&steps=3` sets one answer, `?tab=lab&decoders=ntp,mtp_vocalnet&steps=1,3` a lab.
    """
    model = app.model
    choice: dict[str, Any] = {}
    for name, allowed in {"tab": tab_names(app), "decoder": model.decoders}.items():
        if query.get(name) in allowed:
            choice[name] = query[name]
    most = max(model.max_tokens_per_step, speedup_lab.MOST_STEPS)
    lists = {"decoders": model.decoders, "policies": model.policies, "steps": [str(K) for K in range(1, most + 1)]}
    for name, known in lists.items():
        picked = [value for value in query.get(name, "").split(",") if value in known]
        if picked:
            choice[name] = list(dict.fromkeys(picked))
    if "steps" in choice:
        choice["steps"] = [int(K) for K in choice["steps"]]
        if len(picked) == 1 and choice["steps"][0] <= model.max_tokens_per_step:
            choice["step"] = choice["steps"][0]
    return choice
