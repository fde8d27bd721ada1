"""Buttons for the files that a tab has made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr


def download_row(files: Mapping[str, str]) -> dict[str, gr.DownloadButton]:
    """Lays out a button per file, from file names to labels; each waits for its file."""
    with gr.Row(elem_classes="vn-downloads"):
        return {
            name: gr.DownloadButton(label, size="sm", interactive=False, min_width=120) for name, label in files.items()
        }


def offer(buttons: Mapping[str, gr.DownloadButton], paths: Mapping[str, Path]) -> dict[Any, Any]:
    """Returns the view of the buttons with their files, from file names to paths."""
    return {buttons[name]: gr.update(value=str(path), interactive=True) for name, path in paths.items()}
