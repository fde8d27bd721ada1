"""The streaming player and what one talks to it with: two components, all of whose work is done in the browser.

Sound is sent as 16-bit samples and scheduled by Web Audio (player.js): no encoder, no playlist, no ffmpeg. Questions
are recorded, or decoded from any file that the browser can read, and arrive as 16 kHz WAV (talk.js).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from demo.answering import to_int16
from demo.question import MAX_WORDS, check_words
from demo.scripts import script
from vocalnet import AudioChunk, Finished, TextDelta
from vocalnet.events import Event, Result

MAX_WAV_BYTES = 16 * 2**20  # beyond the longest question that the model takes, 300 s
TALK = """
<div class="vn-talk">
  <button type="button" class="vn-mic" data-part="mic" aria-pressed="false">Hold to talk <kbd>Space</kbd></button>
  <div class="vn-status vn-idle" data-part="said" role="status"><i></i><span></span></div>
  <form class="vn-type">
    <input type="text" data-part="typed" maxlength="{most}" placeholder="Or type a question"
      aria-label="Typed question">
    <button type="submit" data-part="send" disabled>Ask</button>
    <label class="vn-file">Use a recording<input type="file" data-part="file" accept="audio/*,video/*"></label>
  </form>
  <div class="vn-asks" role="group" aria-label="Or try one of these">{examples}</div>
</div>
"""
PLAYER = """
<div class="vn-player" data-rate="{rate}">
  <div class="vn-turns" data-part="turns" aria-live="polite"></div>
  <div class="vn-placeholder" data-part="empty">{empty}</div>
  <div class="vn-deck">
    <button type="button" class="vn-stop" data-part="stop" disabled>Stop <kbd>Esc</kbd></button>
    <dl>
      <div class="vn-ahead"><dt>Buffer</dt><dd data-part="buffer">0 ms</dd><span><i data-part="gauge"></i></span></div>
      <div><dt>Underruns</dt><dd data-part="underruns">0</dd></div>
      <div><dt>Played</dt><dd data-part="played">0.0 of 0.0 s</dd></div>
    </dl>
  </div>
</div>
"""


def talk(examples: Sequence[str]) -> gr.HTML:
    """Lays out where questions are asked; its value is for `read_question`, its event is `submit`."""
    buttons = "".join(
        f'<button type="button" data-example="{n}">{escape(words)}</button>' for n, words in enumerate(examples)
    )
    return gr.HTML(
        value=None, html_template=TALK.format(examples=buttons, most=MAX_WORDS), js_on_load=script("talk.js")
    )


def player(rate_hz: int, empty: str) -> gr.HTML:
    """Lays out the conversation; its values are those of `Turn.value`, its event is `stop`."""
    template = PLAYER.format(rate=rate_hz, empty=escape(empty))
    return gr.HTML(value=None, html_template=template, js_on_load=script("player.js"))


def read_question(value: Any, folder: Path, examples: Sequence[Path]) -> dict[str, Any]:
    """Returns {"audio": path} or {"text": words} of what the browser sent; a recording is written into `folder`.

    Raises:
        ValueError: it is none of them.
    """
    value = value if isinstance(value, dict) else {}
    number, words, wav = value.get("example"), value.get("text"), value.get("wav")
    if isinstance(number, int) and 0 <= number < len(examples):
        return {"audio": str(examples[number])}
    if isinstance(words, str) and words.strip():
        return {"text": check_words(words)}
    if not isinstance(wav, str) or len(wav) > MAX_WAV_BYTES:
        raise ValueError("There is no question. Hold the button and speak, type, or choose an example.")
    path = folder / "question.wav"
    try:
        path.write_bytes(base64.b64decode(wav, validate=True))
    except binascii.Error as error:
        raise ValueError("The recording was damaged on its way. Ask again.") from error
    return {"audio": str(path)}


def pcm_text(samples: np.ndarray) -> str:
    """Returns float samples as little-endian 16-bit ones in base64."""
    return base64.b64encode(to_int16(samples).astype("<i2").tobytes()).decode()


@dataclass
class Turn:
    """One answer on its way to the player.

    Attributes:
        run: its number; the player shows the highest.
        id: what the browser called the question, "" for a replay.
        question: its words, where they are known.
        note: what else is to be said beside it.
        rate_hz: of the sound.
        stage: what is going on.
        text: of the answer so far.
        chunks: its sound, as of `pcm_text`.
        chips: name, value and explanation of each measured time.
        events: all that has come.
        result: the whole answer, once it is finished.
    """

    run: int
    id: str
    question: str
    note: str
    rate_hz: int
    stage: str = "Listening to the question"
    text: str = ""
    chunks: list[str] = field(default_factory=list)
    chips: list[tuple[str, str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    result: Result | None = None

    def take(self, events: Sequence[Event]) -> None:
        """Takes what has come."""
        self.events += events
        for event in events:
            match event:
                case TextDelta(text=text, t_s=t_s):
                    if not self.text:
                        self._chip("first text", t_s, "On the server, from the call to the first word")
                    self.stage, self.text = "Writing", self.text + text
                case AudioChunk(samples=samples, t_s=t_s):
                    if not self.chunks:
                        self._chip("first audio", t_s, "On the server, from the call to the first samples")
                    self.stage = "Speaking"
                    self.chunks.append(pcm_text(samples))
                case Finished(result=result):
                    self.result = result
                    if result.audio is not None and len(result.audio):
                        factor = result.timings["total"] * result.sample_rate_hz / len(result.audio)
                        self.chips.append(("RTF", f"{factor:.2f}", "Seconds of work per second of sound"))

    def value(self) -> dict[str, Any]:
        """Returns what the player draws."""
        return {
            "run": self.run,
            "id": self.id,
            "question": self.question,
            "note": self.note,
            "rate": self.rate_hz,
            "text": self.text,
            "chunks": list(self.chunks),
            "chips": list(self.chips),
            "isDone": False,
        }

    def ended(self, has_failed: bool = False) -> dict[str, Any]:
        """Returns the last value, sound and all: a page in the background may not have drawn those before it."""
        return {**self.value(), "isDone": True, "problem": has_failed}

    def _chip(self, name: str, seconds: float, hint: str) -> None:
        text = f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
        self.chips.append((name, text, hint))
