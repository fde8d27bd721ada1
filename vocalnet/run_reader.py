"""Reads the three files of a run, which a stranger may have written: known names, bounded sizes, every field checked.

Nothing is unpacked to the disk. `runs.load` makes a `Run` of what this returns.
"""

from __future__ import annotations

import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vocalnet.audio import FULL_SCALE
from vocalnet.config import from_dict
from vocalnet.decoder.options import DecodeOptions, RepetitionAware, RepetitionPenalty
from vocalnet.events import AudioChunk, Candidates, Event, Finished, Result, SpeechTokens, TextDelta, Timings, TokenStat
from vocalnet.vocoder.options import VocoderOptions

VERSION = 1
MANIFEST, EVENTS, AUDIO = FILES = ("run.json", "events.jsonl", "audio.wav")

TEXT, WHOLE, NUMBER, FLAG = (str,), (int,), (int, float), (bool,)
LIST, OBJECT = (list,), (dict,)
LATER_FIELDS = {"voice": None, "sound": None}  # of the manifest: earlier programs did not write them
LATER_OPTIONS = {"text_chunk": None, "speech_chunk": None}  # of decoding: nor these
MAX_ANSWER_S = 3600.0  # of an answer's events: nobody waits for longer
MAX_NUMBER = 2.0**53  # whole numbers are exact up to here
MAX_HEADS = 64  # of a talker: no one has trained as many
Kinds = dict[str, tuple[type, ...]]  # the fields of a JSON object and the types that each may have
MANIFEST_FIELDS: Kinds = {
    "version": WHOLE,
    "model": TEXT,
    "revision": TEXT,
    "decoder": TEXT,
    "tokens_per_step": WHOLE,
    "policy": TEXT,
    "seed": (int, type(None)),
    "options": OBJECT,
    "voice": (str, type(None)),
    "sound": (dict, type(None)),
    "question": TEXT,
    "text": TEXT,
    "warnings": LIST,
    "timings": OBJECT,
    "sample_rate_hz": WHOLE,
    "device": TEXT,
    "versions": OBJECT,
    "date": TEXT,
}
EVENT_FIELDS: dict[str, Kinds] = {
    "TextDelta": {"text": TEXT, "stages": OBJECT},
    "SpeechTokens": {"tokens": LIST, "stats": LIST, "candidates": LIST, "stages": OBJECT},
    "AudioChunk": {"n_samples": WHOLE, "stages": OBJECT},
    "Timings": {"stages": OBJECT},
    "Finished": {},
}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may unpack to any size at once, or not at all
TIMES = ("first_text", "total")  # that the timings of every answer hold
STAMPED = ("TextDelta", "SpeechTokens", "AudioChunk")
STAT_FIELDS: Kinds = {"head": WHOLE, "entropy": NUMBER, "max_prob": NUMBER, "logprob": NUMBER, "kept": FLAG}
CANDIDATE_FIELDS: Kinds = {"token": WHOLE, "likeliest": LIST}


def read(path: Path, max_bytes: int) -> tuple[dict[str, Any], DecodeOptions, VocoderOptions | None, list[Event]]:
    """Returns the manifest, the options of decoding and of the vocoder, and the events of a run's folder or ZIP.

    Raises:
        ValueError: it is missing, damaged, too large, of another version, or something else; the message says where.
    """
    files = _read_folder(path, max_bytes) if path.is_dir() else _read_zip(path, max_bytes)
    manifest = _object(_parse(files[MANIFEST], MANIFEST), {"version": WHOLE}, MANIFEST, is_open=True)
    if manifest["version"] != VERSION:
        raise ValueError(
            f"{MANIFEST} has version {manifest['version']}; this program reads version {VERSION}. "
            "Update VocalNet, or record the run again."
        )
    manifest = _object({**LATER_FIELDS, **manifest}, MANIFEST_FIELDS, MANIFEST)
    _numbers(manifest["timings"], f"{MANIFEST}: timings")
    missing = [name for name in TIMES if name not in manifest["timings"]]
    if missing:
        raise ValueError(f"{MANIFEST}: the timings lack {', '.join(missing)}. Export the run again.")
    samples = _read_wav(files[AUDIO], manifest["sample_rate_hz"])
    events, end_s = _events(files[EVENTS], samples, manifest["sample_rate_hz"])
    events.append(Finished(_fold(events, manifest, samples), end_s))
    return manifest, _options(manifest), _sound(manifest), events


# --- files ---


def _read_folder(path: Path, max_bytes: int) -> dict[str, bytes]:
    files, n_left = {}, max_bytes
    for name in FILES:
        file = path / name
        if not file.is_file():
            raise ValueError(f"{path.name} is not a run: it has no {name}.")
        with file.open("rb") as stream:
            files[name] = stream.read(n_left + 1)
        n_left = _left(path, n_left, files[name], max_bytes)
    return files


def _read_zip(path: Path, max_bytes: int) -> dict[str, bytes]:
    """Returns the three files of a ZIP; what a header claims of their size is not believed."""
    if not path.is_file():
        raise ValueError(f"There is no run file {path.name}. Give a run's folder or ZIP.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            names = sorted(info.filename for info in members)
            if names != sorted(FILES):
                raise ValueError(
                    f"{path.name} is not a run: it holds {', '.join(names[:4]) or 'nothing'}"
                    f"{' ...' if len(names) > 4 else ''}; a run is {', '.join(FILES)} and nothing else. "
                    "If it is the export of a lab, unpack it and take one of its runs."
                )
            files, n_left = {}, max_bytes
            for info in members:
                if info.compress_type not in METHODS:
                    raise ValueError(f"{path.name} is packed in an unusual way. Pack it as a plain ZIP (deflate).")
                with archive.open(info) as member:
                    files[info.filename] = member.read(n_left + 1)
                n_left = _left(path, n_left, files[info.filename], max_bytes)
            return files
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} is not a readable ZIP ({error}). Export the run again.") from error


def _left(path: Path, n_left: int, data: bytes, max_bytes: int) -> int:
    """Returns how many bytes may still be read."""
    if len(data) > n_left:
        raise ValueError(f"{path.name} is too large: a run file holds at most {max_bytes / 2**20:.0f} MB unpacked.")
    return n_left - len(data)


def _read_wav(data: bytes, sample_rate_hz: int) -> np.ndarray:
    """Returns the samples (n,) of a mono 16-bit WAV, the inverse of `write_wav`."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            found = (file.format, file.subtype, file.channels, file.samplerate)
            pcm = file.read(dtype="int16") if found == ("WAV", "PCM_16", 1, sample_rate_hz) else None
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{AUDIO} cannot be read as audio. Export the run again.") from error
    if pcm is None:
        raise ValueError(f"{AUDIO} must be a mono 16-bit WAV at {sample_rate_hz} Hz; it is {found}.")
    return pcm.astype(np.float32) / (FULL_SCALE["int16"] - 1)


# --- JSON ---


def _parse(text: bytes, where: str) -> Any:
    """Returns a JSON value; numbers that are none, infinite or beyond all measure, and half characters are refused."""

    def number(digits: str) -> float:
        value = float(digits)
        if not abs(value) < MAX_NUMBER:
            raise ValueError(f"{digits[:20]} is not a usable number")
        return int(digits) if digits.lstrip("-").isdigit() else value

    try:
        value = json.loads(text.decode("utf-8"), parse_float=number, parse_int=number, parse_constant=number)
        if rb"\u" in text:  # one half of a surrogate pair may be written so, but no page can show it
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}). Export the run again.") from error


def _object(value: Any, kinds: Kinds, where: str, is_open: bool = False) -> dict[str, Any]:
    """Returns a JSON object that has these fields, each of one of its types, and no others unless it `is_open`."""
    if type(value) is not dict:
        raise ValueError(f"{where} must be a JSON object.")
    for name, types in kinds.items():
        if name not in value:
            raise ValueError(f"{where} has no {name!r}.")
        if type(value[name]) not in types:
            raise ValueError(f"{where}: {name!r} must be of type {' or '.join(t.__name__ for t in types)}.")
    unknown = sorted(set(value) - set(kinds))
    if unknown and not is_open:
        raise ValueError(f"{where} has an unknown field {unknown[0]!r}.")
    return value


def _numbers(values: dict[str, Any], where: str) -> None:
    if any(type(value) not in NUMBER for value in values.values()):
        raise ValueError(f"{where} must be numbers.")


# --- events ---


def _events(text: bytes, samples: np.ndarray, sample_rate_hz: int) -> tuple[list[Event], float]:
    """Returns the events but for Finished, and its time."""
    events: list[Event] = []
    n_used, now_s, end_s = 0, 0.0, None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{EVENTS}, line {number}"
        values = _object(_parse(line, where), {"type": TEXT, "t_s": NUMBER}, where, is_open=True)
        kind, t_s = values.pop("type"), values.pop("t_s")
        if kind not in EVENT_FIELDS:
            raise ValueError(f"{where}: there is no event {kind!r}; known: {', '.join(EVENT_FIELDS)}.")
        if kind in STAMPED:
            values.setdefault("stages", {})  # earlier programs did not write them
        _object(values, EVENT_FIELDS[kind], where)
        _numbers(values.get("stages", {}), f"{where}: stages")
        if t_s < now_s:
            raise ValueError(f"{where}: time runs backwards, from {now_s} s to {t_s} s.")
        if t_s > MAX_ANSWER_S:
            raise ValueError(
                f"{where}: a run file holds an answer of at most an hour, not {t_s:g} s. Export a shorter one."
            )
        if end_s is not None:
            raise ValueError(f"{where}: there is an event after Finished.")
        now_s = t_s
        if kind == "Finished":
            end_s = t_s
        elif kind == "AudioChunk":
            n = max(0, values["n_samples"])
            events.append(AudioChunk(samples[n_used : n_used + n], sample_rate_hz, t_s, values["stages"]))
            n_used += n
        else:
            events.append(_event(kind, values, t_s, where))
    if end_s is None:
        raise ValueError(f"{EVENTS} does not end with Finished: the recording was cut short.")
    if n_used != len(samples):
        raise ValueError(f"{EVENTS} tells of {n_used} samples, {AUDIO} holds {len(samples)}. Export the run again.")
    return events, end_s


def _event(kind: str, values: dict[str, Any], t_s: float, where: str) -> Event:
    """Returns an event that is all in its line."""
    if kind == "TextDelta":
        return TextDelta(values["text"], t_s, values["stages"])
    if kind == "Timings":
        return Timings(values["stages"], t_s)
    stats = [TokenStat(**_object(stat, STAT_FIELDS, f"{where}: a statistic")) for stat in values["stats"]]
    made = [_candidates(entry, f"{where}: a candidate") for entry in values["candidates"]]
    if any(type(token) is not int for token in values["tokens"]):
        raise ValueError(f"{where}: tokens must be whole numbers.")
    if any(not 0 <= stat.head < MAX_HEADS for stat in stats):
        raise ValueError(f"{where}: a head is a whole number from 0 to {MAX_HEADS - 1}.")
    if made and len(made) != len(stats):
        raise ValueError(f"{where}: there are {len(stats)} statistics, but candidates for {len(made)}.")
    return SpeechTokens(values["tokens"], stats, t_s, made, values["stages"])


def _candidates(entry: Any, where: str) -> Candidates:
    values = _object(entry, CANDIDATE_FIELDS, where)
    for row in values["likeliest"]:
        if type(row) is not list or len(row) != 2 or type(row[0]) is not int or type(row[1]) not in NUMBER:
            raise ValueError(f"{where} must hold pairs of a token and its probability.")
    return Candidates(values["token"], tuple((token, prob) for token, prob in values["likeliest"]))


def _fold(events: Sequence[Event], manifest: dict[str, Any], samples: np.ndarray) -> Result:
    """Returns the result that the events add up to."""
    spoken = [event for event in events if isinstance(event, SpeechTokens)]
    return Result(
        text=manifest["text"],
        audio=samples,
        sample_rate_hz=manifest["sample_rate_hz"],
        speech_tokens=list(itertools.chain.from_iterable(event.tokens for event in spoken)),
        stats=list(itertools.chain.from_iterable(event.stats for event in spoken)),
        timings=manifest["timings"],
        warnings=[str(warning) for warning in manifest["warnings"]],
    )


def _options(manifest: dict[str, Any]) -> DecodeOptions:
    """Returns the decoding options of a manifest; they check themselves."""
    values = {
        **LATER_OPTIONS,
        **manifest["options"],
        **{name: manifest[name] for name in ("tokens_per_step", "policy", "seed")},
    }
    missing = sorted({field.name for field in fields(DecodeOptions)} - set(values))
    if missing:
        raise ValueError(f"{MANIFEST}: the options lack {', '.join(missing)}.")
    nested: dict[str, type] = {"penalty": RepetitionPenalty, "repetition_aware": RepetitionAware}
    try:
        for name, kind in nested.items():
            if values[name] is not None:
                values[name] = from_dict(kind, values[name], f"{MANIFEST}: {name}")
        return from_dict(DecodeOptions, values, f"{MANIFEST}: options")
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{MANIFEST} has options that cannot be used ({error}).") from error


def _sound(manifest: dict[str, Any]) -> VocoderOptions | None:
    """Returns how the vocoder was to speak; the options check themselves."""
    if manifest["sound"] is None:
        return None
    try:
        return from_dict(VocoderOptions, manifest["sound"], f"{MANIFEST}: sound")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{MANIFEST} has vocoder options that cannot be used ({error}).") from error
