"""The speech tokens of one run beside its sound: a strip of bars that follows the player, and the candidates of one.

All of it runs in the browser (timeline.js), so that neither playing nor choosing a token asks the server.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import gradio as gr
import soundfile

from demo.answering import to_int16
from demo.scripts import script
from vocalnet.runs import Run

N_CANDIDATES = 10
TEMPLATE = """
<div class="vn-timeline">
  <div class="vn-timeline-head">
    <audio data-part="audio" controls preload="auto"></audio>
    <div class="vn-toggle" role="group" aria-label="Height of the bars">
      <button type="button" data-measure="entropy" aria-pressed="true">Entropy</button>
      <button type="button" data-measure="max_prob" aria-pressed="false">Maximum probability</button>
    </div>
  </div>
  <div class="vn-strip" data-part="strip" tabindex="0" role="slider" aria-label="Speech tokens" aria-valuemin="1"></div>
  <div class="vn-timeline-notes"><span data-part="scale"></span><span class="vn-legend" data-part="legend"></span></div>
  <p class="vn-token-facts" data-part="facts"></p>
  <div class="vn-candidates" data-part="candidates"></div>
</div>
"""


def timeline() -> gr.HTML:
    """Lays out an empty timeline; its value is that of `timeline_value`."""
    return gr.HTML(value=None, html_template=TEMPLATE, js_on_load=script("timeline.js"))


def timeline_value(run: Run) -> dict[str, Any]:
    """Returns what the timeline draws: {"wav": base64, "tokens_per_s", "tokens": rows of `token_rows`}."""
    result = run.result
    assert result.audio is not None
    wav = io.BytesIO()
    soundfile.write(wav, to_int16(result.audio), result.sample_rate_hz, format="WAV", subtype="PCM_16")
    duration_s = len(result.audio) / result.sample_rate_hz
    return {
        "wav": base64.b64encode(wav.getvalue()).decode(),
        "tokens_per_s": len(result.speech_tokens) / duration_s if duration_s else 25.0,
        "tokens": token_rows(run),
    }


def token_rows(run: Run) -> list[dict[str, Any]]:
    """Returns what is known of each speech token: itself, its head, statistics and candidates, [unit, probability].

    Statistics tell of every pick, so those that were rejected are passed over, and end tokens, which are no speech.
    Where candidates were recorded they say which token was picked; otherwise places are counted.
    """
    result, made = run.result, run.candidates
    kept = [n for n, stat in enumerate(result.stats) if stat.kept]
    rows: list[dict[str, Any]] = []
    for n in kept:
        if len(rows) == len(result.speech_tokens):
            break
        token = result.speech_tokens[len(rows)]
        if made and made[n].token != token:
            continue
        stat = result.stats[n]
        rows.append(
            {
                "token": token,
                "head": stat.head,
                "entropy": stat.entropy,
                "max_prob": stat.max_prob,
                "logprob": stat.logprob,
                "candidates": [[unit, prob] for unit, prob in made[n].likeliest] if made else [],
            }
        )
    return rows
