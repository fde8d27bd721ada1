"""Run files: one recorded answer as `run.json`, `events.jsonl` and `audio.wav`, in a folder or in a ZIP.

run.json says what was asked of which model (model, revision, decoder, decoding options, voice and vocoder options,
versions, device) and how long each stage took; events.jsonl holds the events of the answer, one a line, each with its
time; audio.wav the samples of all `AudioChunk` events in their order, 16 bits. The page exports runs, draws their
statistics and replays them.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vocalnet import run_reader
from vocalnet.audio import write_wav
from vocalnet.decoder.options import DecodeOptions
from vocalnet.events import AudioChunk, Candidates, Event, Finished, Result, SpeechTokens
from vocalnet.files import atomic_path
from vocalnet.provenance import code_version, fingerprint
from vocalnet.run_reader import AUDIO, EVENTS, FILES, MANIFEST, VERSION
from vocalnet.vocoder.options import VocoderOptions

MAX_BYTES = 64 * 2**20  # of the three files together, unpacked: twenty minutes of speech
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # equal runs make equal files


@dataclass(frozen=True)
class Run:
    """One recorded answer.

    Attributes:
        model: name of the checkpoint.
        revision: which weights: the checkpoint's own word for it, otherwise a fingerprint of them.
        decoder: name of the decoder, a member of `VocalNet.decoders`.
        options: how speech was decoded.
        question: the words of the question where they are known, else "".
        device: what it ran on.
        versions: of the code, torch and Python.
        date: when it was recorded, UTC.
        events: all events of the answer, `Finished` last.
        voice: name of the voice that was asked for, None: the vocoder's default.
        sound: how the vocoder was to speak, None: as the checkpoint says.
    """

    model: str
    revision: str
    decoder: str
    options: DecodeOptions
    question: str
    device: str
    versions: dict[str, str]
    date: str
    events: tuple[Event, ...]
    voice: str | None = None
    sound: VocoderOptions | None = None

    @property
    def result(self) -> Result:
        """The answer: the fold of the events."""
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last.result

    @property
    def candidates(self) -> list[Candidates]:
        """Those of every entry of `result.stats`, or none where they were not recorded."""
        found = [made for event in self.events if isinstance(event, SpeechTokens) for made in event.candidates]
        return found if len(found) == len(self.result.stats) else []


def record(
    model: Any,
    events: Sequence[Event],
    options: DecodeOptions | None = None,
    question: str = "",
    voice: str | None = None,
    sound: VocoderOptions | None = None,
) -> Run:
    """Returns the run of a finished answer.

    Args:
        model: what answered; its first decoder spoke.
        events: all events of `model.stream(...)`.
        options: what the stream was given; None: the talker's default.
        question: the words of the question, where they are known.
        voice, sound: what the stream was given; of a voice's path its name is kept.

    Raises:
        ValueError: the answer is not finished, or in text only.
    """
    if not events or not isinstance(events[-1], Finished):
        raise ValueError("A run needs all events of an answer, Finished last. Let the stream end.")
    if events[-1].result.audio is None:
        raise ValueError("A run file holds a spoken answer; this one is text only. Ask with speech=True.")
    return Run(
        model=str(model.card.get("name", "unnamed")),
        revision=revision(model),
        decoder=model.decoders[0],
        options=options or model.talker.default_options(),
        question=question,
        device=str(model.device),
        versions=_versions(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        events=tuple(events),
        voice=None if voice is None else Path(voice).name,
        sound=sound,
    )


def revision(model: Any) -> str:
    """Returns which weights a model has: the checkpoint's own word for it, otherwise their fingerprint."""
    return str(model.card.get("revision") or fingerprint(model))


@functools.cache
def _versions() -> dict[str, str]:
    return {"vocalnet": code_version(), "torch": torch.__version__, "python": platform.python_version()}


def replay(
    run: Run, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep
) -> Iterator[Event]:
    """Yields the events of a run at the pace at which they were measured."""
    began = clock()
    for event in run.events:
        wait_s = event.t_s - (clock() - began)
        if wait_s > 0:
            sleep(wait_s)
        yield event


def load(path: str | Path, max_bytes: int = MAX_BYTES) -> Run:
    """Reads a run file, a folder or a ZIP, which need not be trusted; nothing is unpacked to the disk.

    Raises:
        ValueError: it is missing, damaged, too large, of another version, or something else; the message says where.
    """
    manifest, options, sound, events = run_reader.read(Path(path), max_bytes)
    names = ("model", "revision", "decoder", "question", "device", "versions", "date", "voice")
    return Run(**{name: manifest[name] for name in names}, options=options, sound=sound, events=tuple(events))


def save(run: Run, path: str | Path) -> Path:
    """Writes a run as a ZIP (a name that ends with .zip) or as a new folder; it appears whole or not at all.

    Raises:
        ValueError: it cannot be written there, or there is such a folder already.
    """
    path = Path(path)
    if path.suffix == ".zip":
        with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
            _write(run, Path(folder))
            with zipfile.ZipFile(temporary, "w") as archive:
                for name in FILES:
                    info = zipfile.ZipInfo(name, ZIP_DATE)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(info, (Path(folder) / name).read_bytes())
        return path
    if path.exists():
        raise ValueError(f"Cannot write the run to {path}: it exists already. Choose another name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        _write(run, temporary)
        temporary.rename(path)
    except OSError as error:
        raise ValueError(f"Cannot write the run to {path}: {error.strerror}. Choose another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _write(run: Run, folder: Path) -> None:
    """Writes the three files into an existing folder."""
    result, options = run.result, asdict(run.options)
    assert result.audio is not None
    manifest = {
        "version": VERSION,
        "model": run.model,
        "revision": run.revision,
        "decoder": run.decoder,
        **{name: options.pop(name) for name in ("tokens_per_step", "policy", "seed")},
        "options": options,
        "voice": run.voice,
        "sound": None if run.sound is None else asdict(run.sound),
        "question": run.question,
        "text": result.text,
        "warnings": result.warnings,
        "timings": result.timings,
        "sample_rate_hz": result.sample_rate_hz,
        "device": run.device,
        "versions": run.versions,
        "date": run.date,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = [json.dumps(to_line(event), ensure_ascii=False) for event in run.events]
    (folder / EVENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_wav(folder / AUDIO, result.audio, result.sample_rate_hz)


def to_line(event: Event) -> dict[str, Any]:
    """Returns the JSON of one event; samples are in audio.wav, and the result in all files together."""
    values: dict[str, Any] = {"type": type(event).__name__, "t_s": event.t_s}
    match event:
        case AudioChunk(samples=samples, stages=stages):
            return {**values, "n_samples": len(samples), "stages": stages}
        case Finished():
            return values
        case _:
            return {**values, **asdict(event)}
