"""About: what is running, how its numbers are measured, licences, privacy, versions, health."""

from __future__ import annotations

import platform
from importlib import metadata

import gradio as gr

from demo import render
from demo.state import App

MEASURING = """
### How the numbers are measured
- **Load**, **warm-up** and **inference** are three separate times. Load is from the call of `vocalnet.load` to a model
  in memory; warm-up is the first answer after it; the times beside an answer hold neither.
- *First text* and *first audio* count on the server, from the moment the model gets the clip to its first text token
  and its first samples. Upload, queue and your browser's player come on top.
- *First sound here* counts in your browser, from the end of the question (or the press of a button) to the first sound
  of the answer, upload and buffer included. *Underruns* are chunks that came after they should have sounded.
- *Latency* takes the same stages up to the first samples; cold is the first answer after loading.
- A stage's bar is the sum of the seconds spent in it, wall clock, one answer at a time.
- A *speedup* is three numbers: nominal (tokens kept per step), its bound (layers run, weights read), and measured (wall
  clock of the talker over the fastest one token per step, in turns on the same texts).
- *Talker speed* is speech tokens divided by the talker's seconds; *text speed* is text tokens divided by the language
  model's seconds.
- *Real-time factor* is the whole answer's seconds divided by its seconds of audio. Below 1, speech is made faster than
  it plays.
- Entropy, maximum probability and log-probability in `stats` are of the raw logits, in nats, before temperature.
"""

PRIVACY = """
### Privacy
Clips are processed on this server only, and nothing is sent elsewhere. Uploaded clips and answers lie in a temporary
folder and are deleted within two hours; runs and labs of a visit are forgotten when its page is closed. There is no run
history, no analytics, and the page loads nothing from other hosts.
"""

LICENCES = """
### Licences
The code is under Apache-2.0. The embedded *nano* model was trained by this repository on synthetic speech. Other
checkpoints keep the licence of their model card. The example questions were made with flite and eSpeak NG. The method
is from *VocalNet: Speech LLM with Multi-Token Prediction for Faster and High-Quality Generation*.
"""

API = """
### Use it from a program
```python
from gradio_client import Client, handle_file
client = Client("http://127.0.0.1:7860")  # this page's address
clip = handle_file("question.wav")
answer = client.predict(clip, api_name="/speech_to_text")
{speech}```
"""
SPEECH_API = """wav, details = client.predict(
    clip, "{decoder}", {steps}, "{policy}", 0.0, 0,
    api_name="/speech_to_speech",
)
table, archive = client.predict(
    [clip], ["{decoder}"], [1, {steps}], ["{policy}"], 3, 0, "full", False, 0.0,
    api_name="/speedup_lab",
)
statistics, image, tokens = client.predict(
    handle_file("run.zip"),  # from runs/ in the archive
    api_name="/token_stats",
)
settings = ("{decoder}", {steps}, "{policy}", 0.0, 0)
for event, wav in client.submit(clip, *settings, api_name="/stream"):
    print(event["type"], event["t_s"])  # the WAV file comes with the last
times, waterfall, playback = client.predict(clip, 10, *settings, api_name="/latency")
weights, heads = client.predict(clip, "{decoder}", "streaming", api_name="/attention")
"""

PACKAGES = ("vocalnet", "torch", "transformers", "gradio", "numpy")


def tab(app: App) -> None:
    """Lays out the tab and publishes `/health`."""
    with gr.Row(elem_classes="vn-columns"):
        with gr.Column(min_width=300):
            gr.Markdown("### The model")
            gr.HTML(render.rows(app.model.card))
            gr.Markdown(LICENCES)
            gr.Markdown(PRIVACY)
            gr.Markdown(_api_example(app))
        with gr.Column(min_width=300):
            gr.Markdown("### This server")
            health = gr.JSON(app.health(), label="Health", show_label=False)
            refresh = gr.Button("Refresh", size="sm", variant="secondary")
            gr.HTML(render.rows(versions()))
            gr.Markdown(MEASURING)
    refresh.click(
        app.health,
        None,
        health,
        queue=False,
        show_progress="hidden",
        api_name="health",
        api_description="Returns {status, model, device, load_s, warmup_s}; GET /health gives the same JSON.",
    )


def _api_example(app: App) -> str:
    """Returns a program that calls every endpoint with values that this model accepts."""
    model = app.model
    if not app.has_speech:
        return API.format(speech="")
    settings = {"decoder": model.decoders[0], "steps": model.max_tokens_per_step, "policy": model.policies[0]}
    return API.format(speech=SPEECH_API.format(**settings))


def versions() -> dict[str, str]:
    """Returns the versions that matter for a bug report."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


if __name__ == "__main__":
    from demo.page import alone, main

    main(alone(tab), __doc__)
