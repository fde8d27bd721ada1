"""The two pictures of the tab Attention, drawn in the browser: the masks of Figure 2, and the talker's attention."""

from __future__ import annotations

import base64
from typing import Any

import gradio as gr
import numpy as np
import torch

from demo.scripts import script
from vocalnet.attention import AnswerAttention
from vocalnet.masks import full_mask, streaming_mask

MASK_NAMES = ("Non-streaming (Eq. 2)", "Streaming (Eq. 3)")
TOKENS_PER_S = 25.0
MASKS = """
<div class="vn-masks">
  <div class="vn-inspector"><label><span data-part="which"></span>
    <input type="range" data-part="row" min="0" value="0" aria-label="Row"></label></div>
  <div class="vn-pair">{figures}</div>
  <p class="vn-legend"><span class="vn-head-0">sees text</span><span class="vn-head-1">sees speech</span>
    <span class="vn-shut">forbidden</span></p>
</div>
"""
MASK = """<figure><figcaption>{name}</figcaption><canvas role="img" data-part="mask-{n}"></canvas>
<p data-part="said-{n}"></p></figure>"""
HEADS = """
<div class="vn-attention">
  <div class="vn-heads" data-part="heads" role="group" aria-label="Layer and head"></div>
  <h4 data-part="title"></h4>
  <div class="vn-map">
    <div data-part="labels"></div>
    <div class="vn-field"><canvas role="img" data-part="map"></canvas><i data-part="cursor"></i></div>
  </div>
  <div class="vn-inspector"><label><span data-part="which"></span>
    <input type="range" data-part="row" min="0" value="0" aria-label="Speech row"></label></div>
  <p class="vn-legend"><span class="vn-head-0">more weight (square root)</span><span class="vn-shut">forbidden, exactly
    0</span></p>
</div>
"""


def masks_view(value: dict[str, Any]) -> gr.HTML:
    """Lays out both masks and the row inspector; its values are those of `masks_value`."""
    figures = "".join(MASK.format(name=name, n=n) for n, name in enumerate(MASK_NAMES))
    return gr.HTML(value=value, html_template=MASKS.format(figures=figures), js_on_load=script("masks.js"))


def heads_view() -> gr.HTML:
    """Lays out the attention of an answer; its values are those of `heads_value`."""
    return gr.HTML(value=None, html_template=HEADS, js_on_load=script("attention.js"))


def masks_value(n_text: int, n_speech: int, text_chunk: int, speech_chunk: int, rule: str) -> dict[str, Any]:
    """Returns both masks of a text and its speech, each row as a string of 0 and 1.

    Args:
        n_text: text positions, begin included.
        n_speech: speech rows, start token included.
        text_chunk: C_t.
        speech_chunk: C_s.
        rule: reading of Eq. 3, see `vocalnet.masks`.
    """
    sizes = torch.tensor([n_text]), torch.tensor([n_speech])
    found = (full_mask(*sizes)[0], streaming_mask(*sizes, text_chunk, speech_chunk, rule)[0])
    masks = [
        {"name": name, "rows": ["".join("01"[cell] for cell in row) for row in mask.int().tolist()]}
        for name, mask in zip(MASK_NAMES, found, strict=True)
    ]
    return {"n_text": n_text, "n_speech": n_speech, "speech_chunk": speech_chunk, "masks": masks}


def heads_value(seen: AnswerAttention) -> dict[str, Any]:
    """Returns the attention on text of every layer and head, as 32-bit floats in base64."""
    weights = seen.attention.text.float().cpu().numpy()  # (layers, H, L_s, L_t)
    n_layers, n_heads, n_rows, n_text = weights.shape
    visible = seen.attention.visible[:, :n_text].cpu().numpy().astype(np.uint8)
    return {
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_rows": n_rows,
        "pieces": list(seen.pieces),
        "stride": seen.attention.stride,
        "tokens_per_s": TOKENS_PER_S,
        "scores": seen.scores.tolist(),
        "chance": seen.chance,
        "weights": base64.b64encode(weights.astype("<f4").tobytes()).decode(),
        "visible": base64.b64encode(np.ascontiguousarray(visible).tobytes()).decode(),
    }
