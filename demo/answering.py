"""Turns the event stream of one answer into snapshots that a page can draw.

The stream is pulled in a worker thread: a stage of a large model may take seconds, while Gradio can stop a
generator only where it yields, so the page's generator must yield several times a second.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from demo.turns import CLOSING, TURNS
from vocalnet import AudioChunk, Finished, SpeechTokens, TextDelta
from vocalnet.audio import write_wav
from vocalnet.events import Result

TICK_S = 0.15
MAX_ANSWER_S = 300.0  # waiting for its turns included
TOO_BUSY = f"The model was busy for {MAX_ANSWER_S / 60:.0f} minutes. Ask again later."
TOO_LONG = f"The answer took longer than {MAX_ANSWER_S / 60:.0f} minutes and was stopped. Ask something shorter."
_NOTHING = object()  # after the last item
UNEXPECTED = "Something went wrong on the server; the details are in its log."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What is known of an answer so far; `finished` ends it."""

    stage: str = "Listening to the question"
    text: str = ""
    n_text: int = 0  # text events; each carries the text of one token
    n_speech: int = 0  # speech tokens
    audio_s: float = 0.0
    elapsed_s: float = 0.0
    finished: Finished | None = None
    events: tuple[Any, ...] = ()  # all of them, once the answer is finished


def snapshots(model: Any, **request: Any) -> Iterator[Snapshot]:
    """Yields the fold of `model.stream(**request)` at each arrival, and at least every `TICK_S` seconds.

    Closing this generator closes the stream at its next event. An error of the stream is raised here.
    """
    start = time.perf_counter()
    snapshot, seen = Snapshot(), list[Any]()
    with closing(arrivals(lambda: model.stream(**request))) as batches:
        for events in batches:
            seen += events
            snapshot = functools.reduce(_fold, events, snapshot)
            if snapshot.finished is not None:
                snapshot = replace(snapshot, events=tuple(seen))
            yield replace(snapshot, elapsed_s=time.perf_counter() - start)
            if snapshot.finished is not None:
                return
    raise RuntimeError("the stream ended without Finished")


def arrivals(
    make: Callable[[], Generator[Any, None, None]],
    is_alone: bool = False,
    has_model: bool = True,
    limit_s: float | None = None,
) -> Generator[list[Any], None, None]:
    """Yields what a generator gives, pulled in a worker thread: all that has come, at least every `TICK_S` seconds.

    Closing this generator closes that one at its next item. Its error is raised here, after all that came before.

    Args:
        make: makes the generator, in the worker.
        is_alone: it measures: also at most every `TICK_S` seconds, since drawing takes the interpreter from the worker,
            with the device to itself, and for as long as it takes.
        has_model: its items are computed, in turns with those of other jobs, and end after `limit_s`.
        limit_s: waiting for its turns included; None: `MAX_ANSWER_S`.

    Raises:
        ValueError: it took too long, or the server is shutting down.
    """
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    has_begun, is_closed = threading.Event(), threading.Event()
    whole, each = (TURNS.turn, nullcontext) if is_alone else (nullcontext, TURNS.turn if has_model else nullcontext)

    def next_item(items: Iterator[Any]) -> Any:
        """Returns the next item, computed when it is its turn; `_NOTHING` after the last, or when nobody waits."""
        if is_closed.is_set():
            return _NOTHING
        with each():
            has_begun.set()
            return _NOTHING if is_closed.is_set() else next(items, _NOTHING)

    def pull() -> None:
        try:
            with TURNS.job(), whole():
                if is_closed.is_set():  # while it waited
                    return
                with closing(make()) as items:
                    while (item := next_item(items)) is not _NOTHING:
                        inbox.put(item)
            inbox.put(_End())
        except Exception as error:  # handed to the reader of the inbox, who raises it
            inbox.put(_End(error))

    limit_s = MAX_ANSWER_S if limit_s is None else limit_s
    deadline_s = time.monotonic() + (limit_s if has_model and not is_alone else float("inf"))
    threading.Thread(target=pull, name="answer", daemon=True).start()
    has_finished = False
    try:
        while True:
            if is_alone:
                time.sleep(TICK_S)
            items = _arrived(inbox)
            end = items.pop() if items and isinstance(items[-1], _End) else None
            has_finished = isinstance(items[-1], Finished) if items else has_finished
            if items or not (end or has_finished):  # what a program gets last is the last item
                yield items
            if end is not None:
                if end.error is not None:
                    raise end.error
                return
            if TURNS.is_closing:
                raise ValueError(CLOSING)
            if time.monotonic() > deadline_s:
                raise ValueError(TOO_LONG if has_begun.is_set() else TOO_BUSY)
    finally:
        is_closed.set()


@dataclass(frozen=True)
class _End:
    """Comes after the last item."""

    error: Exception | None = None


def _arrived(inbox: queue.SimpleQueue[Any]) -> list[Any]:
    """Returns all that has arrived, after waiting up to `TICK_S` for the first of it."""
    try:
        items = [inbox.get(timeout=TICK_S)]
        while not inbox.empty():
            items.append(inbox.get_nowait())
    except queue.Empty:
        return []
    return items


def _fold(snapshot: Snapshot, event: Any) -> Snapshot:
    """Returns the snapshot after one more event."""
    match event:
        case TextDelta(text=text):
            return replace(snapshot, stage="Writing", text=snapshot.text + text, n_text=snapshot.n_text + 1)
        case SpeechTokens(tokens=tokens):
            return replace(snapshot, stage="Choosing speech tokens", n_speech=snapshot.n_speech + len(tokens))
        case AudioChunk(samples=samples, sample_rate_hz=rate):
            return replace(snapshot, stage="Speaking", audio_s=snapshot.audio_s + len(samples) / rate)
        case Finished(result=result):
            return replace(snapshot, stage="Done", text=result.text, finished=event)
        case _:
            return snapshot


def explain(error: Exception) -> str:
    """Returns the sentence that a visitor sees: the message of a ValueError, otherwise a pointer to the log."""
    if isinstance(error, ValueError):
        return str(error)
    log.error("an answer failed", exc_info=error)
    return UNEXPECTED


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Returns float samples in [-1, 1] as 16-bit integers; Gradio would rescale floats to full volume."""
    return (np.clip(samples, -1.0, 1.0) * np.iinfo(np.int16).max).astype(np.int16)


def wav_file(result: Result, path: Path) -> str | None:
    """Writes the sound of an answer for a player that may show it together with others; None where it is silent.

    Gradio writes an array's file anew whenever it is shown, also while the browser still reads it; a path it copies.
    """
    if result.audio is None or not len(result.audio):
        return None
    write_wav(path, result.audio, result.sample_rate_hz)
    return str(path)


def playable(result: Result) -> tuple[int, np.ndarray] | None:
    """Returns (sample rate in Hz, int16 samples) of an answer, None where it is silent."""
    return (result.sample_rate_hz, to_int16(result.audio)) if result.audio is not None and len(result.audio) else None
