"""Looks: one calm theme for light and dark; its fonts come with Gradio, so that nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

THEME = gr.themes.Base(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    # Weight 700, as Gradio's files of weight 600 hold only some letters.
    font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
    font_mono=(LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"),
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_title_text_color="*neutral_600",
    block_title_text_color_dark="*neutral_300",
    block_border_width="1px",
    block_shadow="none",
    block_label_text_weight="600",
    block_title_text_weight="600",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_500",
    button_primary_text_color="white",
    button_transition="background-color 120ms ease",
)

CSS = (Path(__file__).parent / "page.css").read_text()


def waveform(**options: Any) -> gr.WaveformOptions:
    """Returns the looks of every player, with further options of Gradio's."""
    return gr.WaveformOptions(waveform_color="#94a3b8", waveform_progress_color="#0d9488", **options)
