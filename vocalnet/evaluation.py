"""The protocol of `vocalnet eval`: a model and a set of spoken questions in, one results dict out.

Right is judged on the answer's text. Speech is judged on a subset: a recogniser's word error rate against the model's
own text, and DNSMOS. Both are also measured for the source voice saying the same texts (the ceiling of a model that
learned from it) and, where the model has a speech tokenizer, for that voice resynthesised from its tokens.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from vocalnet.config import from_dict
from vocalnet.events import Result
from vocalnet.metrics.asr import Clip, transcribe_all
from vocalnet.metrics.latency import real_time_factor, summarise
from vocalnet.metrics.mos import Dnsmos, Mos
from vocalnet.metrics.wer import WordErrors, corpus_errors, difference_interval, interval, normalise, word_errors
from vocalnet.provenance import peak_memory_mb, provenance
from vocalnet.training.domain import REFUSAL_KEY

KINDS = ("in_domain", "out_of_domain")
SOURCE, RESYNTHESIS = "source", "resynthesis"


class SpokenModel(Protocol):
    """What the protocol needs of a model: the facade's `respond`."""

    def respond(self, *, audio: Any, speech: bool = True, options: Any = None, **more: Any) -> Result:
        """Returns the answer to a recording; `more`: voice and sound, where they are not the model's own."""
        ...


@dataclass(frozen=True)
class Item:
    """One question of a set, as in its JSON file."""

    id: str
    audio: str
    key: str  # what a right answer holds
    candidates: tuple[str, ...] = ()  # the answers of its topic: a right one holds no other of them
    topic: str = "all"
    voice: str = "unknown"
    voice_split: str = "heldout"  # "train": questions in this voice were trained on
    question: str = ""
    answer: str = ""
    kind: str = "in_domain"  # a right answer to an "out_of_domain" item is a refusal


@dataclass(frozen=True)
class Judges:
    """Who hears and scores the spoken answers; P.835 scores cost sixteen times the P.808 score, so they are extra."""

    transcribe: Callable[[Sequence[Clip]], list[str]] = transcribe_all
    make_mos: Callable[[], Callable[[np.ndarray, int], Mos]] = Dnsmos


@dataclass(frozen=True)
class _Answer:
    item: Item
    result: Result
    is_right: bool
    is_spoken: bool

    @property
    def clip(self) -> Clip:
        audio = self.result.audio
        return (np.zeros(0, np.float32) if audio is None else audio), self.result.sample_rate_hz


@dataclass(frozen=True)
class Track:
    """One rendering of the spoken texts, and what the judges say of it; `mos` is None where there is no sound."""

    heard: list[str]
    errors: list[WordErrors]
    mos: list[Mos | None] = field(default_factory=list)

    def mean(self, score: str) -> float | None:
        """Mean of one DNSMOS score over the clips with sound; None where it was not asked for."""
        values = [getattr(mos, score) for mos in self.mos if mos is not None]
        return float(np.mean(values)) if values and None not in values else None

    def row(self, number: int) -> dict[str, Any]:
        """Returns what was heard of one clip, with its errors and its score."""
        mos = self.mos[number]
        p808 = mos.p808 if mos else None
        return {"heard": self.heard[number], **asdict(self.errors[number]), "dnsmos_p808": p808}


def load_items(path: str | Path) -> list[dict[str, Any]]:
    """Reads a set: a JSON list of items, whose audio paths are relative to the file.

    Raises:
        ValueError: the file is missing or not such a list.
    """
    path = Path(path)
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"Cannot read the set {path}: {error.strerror}. Give 'heldout' or a JSON file.") from error
    except ValueError as error:
        raise ValueError(f"The set {path} is not JSON ({error}). Give a JSON list of items.") from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"The set {path} must be a JSON list of objects, each with id, audio and key.")
    for number, item in enumerate(items):
        if not isinstance(item.get("audio"), str):
            raise ValueError(f"Item {number} of the set {path} names no audio: give the path of a recording.")
    return [{**item, "audio": str(path.parent / item["audio"])} for item in items]


def is_right(answer: str, key: str, candidates: Iterable[str] = ()) -> bool:
    """Returns whether a normalised answer holds the key, and no other candidate, as whole words.

    A candidate inside the key ("guinea" in "guinea bissau") does not count where it is part of the key.
    """
    words, wanted = _words(answer), _words(key)
    if not wanted or not _holds(words, wanted):
        return False
    rest = _pattern(wanted).sub(" | ", words)
    others = {_words(candidate) for candidate in candidates} - {wanted, ""}
    return not any(_holds(words if _holds(other, wanted) else rest, other) for other in others)


def evaluate(
    model: SpokenModel,
    items: Sequence[dict[str, Any]],
    *,
    options: Any = None,
    speech: dict[str, Any] | None = None,
    seed: int = 0,
    n_speech: int = 100,
    source_voice: Callable[[str], Clip] | None = None,
    resynthesise: Callable[[np.ndarray, int], Clip] | None = None,
    judges: Judges | None = None,
) -> dict[str, Any]:
    """Answers every item and returns the results of API.md, section `vocalnet eval`.

    Args:
        model: anything with the facade's `respond`.
        items: dicts with the fields of `Item`.
        options: decoding options, passed on.
        speech: further arguments of `respond`, on how an answer sounds.
        seed: picks the spoken subset.
        n_speech: how many in-domain items are also judged by ear; the others are answered in text only.
        source_voice: says a text in the voice that the model learned from.
        resynthesise: a clip to the model's speech tokens and back.
        judges: the recogniser and the MOS predictor.

    Raises:
        ValueError: an item is malformed, or its recording cannot be used.
    """
    parsed = parse_items(items)
    spoken = spoken_ids(parsed, n_speech, seed)
    how = {"options": options, **(speech or {})}
    answers = [
        _answer(model, item, item.id in spoken, how) for item in tqdm(parsed, "answers", unit="clip", disable=None)
    ]
    peak_mb = peak_memory_mb()  # of answering alone: the judges have not been loaded yet
    tracks = _tracks([a for a in answers if a.is_spoken and _words(a.result.text)], source_voice, resynthesise, judges)
    return {
        **_count(answers),
        **_speech_report(tracks, seed),
        **_speed_report(answers),
        "peak_memory_mb": peak_mb,
        "options": asdict(options) if options is not None else None,
        "cells": _cells(answers, tracks),
        **provenance(seed),
    }


def parse_items(items: Sequence[dict[str, Any]]) -> list[Item]:
    """Returns the items of a set.

    Raises:
        ValueError: there are none, or one is malformed.
    """
    if not items:
        raise ValueError("The set is empty: there is nothing to evaluate.")
    return [_parse(item, number) for number, item in enumerate(items)]


def spoken_ids(items: Sequence[Item], n: int, seed: int) -> set[str]:
    """Returns the ids of the `n` in-domain items whose answers are judged by ear, or of all if there are fewer."""
    in_domain = [item.id for item in items if item.kind == "in_domain"]
    return set(random.Random(seed).sample(in_domain, min(n, len(in_domain))))


def _parse(values: dict[str, Any], number: int) -> Item:
    missing = [name for name in ("id", "audio", "key") if name not in values]
    if missing:
        raise ValueError(f"Item {number} of the set lacks {', '.join(missing)}.")
    item = from_dict(Item, values, f"item {number}")
    if item.kind not in KINDS:
        raise ValueError(f"Item {item.id}: kind is {item.kind!r}; it must be one of {', '.join(KINDS)}.")
    return item


def _answer(model: SpokenModel, item: Item, is_spoken: bool, how: dict[str, Any]) -> _Answer:
    try:
        result = model.respond(audio=item.audio, speech=is_spoken, **how)
    except ValueError as error:
        raise ValueError(f"Item {item.id}: {error}") from error
    key = item.key if item.kind == "in_domain" else REFUSAL_KEY
    return _Answer(item, result, is_right(result.text, key, item.candidates), is_spoken)


def _tracks(
    answers: Sequence[_Answer],
    source_voice: Callable[[str], Clip] | None,
    resynthesise: Callable[[np.ndarray, int], Clip] | None,
    judges: Judges | None,
) -> dict[str, Track]:
    """Judges the model's clips and, where there is one, the source voice's and its resynthesis, on the same texts."""
    if not answers:
        return {}
    judges = judges or Judges()
    texts = [answer.result.text for answer in answers]
    clips = {"": [answer.clip for answer in answers]}
    if source_voice is not None:
        clips[SOURCE] = [source_voice(text) for text in tqdm(texts, "source voice", disable=None)]
        if resynthesise is not None:
            clips[RESYNTHESIS] = [resynthesise(*clip) for clip in tqdm(clips[SOURCE], "resynthesis", disable=None)]
    score = judges.make_mos()
    return {name: judge(texts, own, judges.transcribe, score, name) for name, own in clips.items()}


def judge(
    texts: Sequence[str],
    clips: Sequence[Clip],
    transcribe: Callable[[Sequence[Clip]], list[str]],
    score: Callable[[np.ndarray, int], Mos],
    name: str = "",
) -> Track:
    """Hears and scores one rendering of the texts; `name` is for the progress bar."""
    heard = transcribe(clips)
    errors = [word_errors(text, words) for text, words in zip(texts, heard, strict=True)]
    mos = [score(*clip) if len(clip[0]) else None for clip in tqdm(clips, f"DNSMOS {name}", disable=None)]
    return Track(heard, errors, mos)


def _speech_report(tracks: dict[str, Track], seed: int) -> dict[str, Any]:
    """Rates, intervals and mean scores of every track; None for one that was not made."""
    report: dict[str, Any] = {"n_speech": len(tracks[""].errors) if tracks else 0, "ci95": {}, "word_errors": {}}
    for name in ("", SOURCE, RESYNTHESIS):
        track, suffix = tracks.get(name), f"_{name}" if name else ""
        report[f"wer{suffix}"] = corpus_errors(track.errors).wer if track else None
        report[f"dnsmos{suffix}" if name else "dnsmos_p808"] = track.mean("p808") if track else None
        report[f"dnsmos_ovrl{suffix}"] = track.mean("overall") if track else None
        if track:
            report["word_errors"][f"wer{suffix}"] = asdict(corpus_errors(track.errors))
            report["ci95"][f"wer{suffix}"] = interval(track.errors, seed)
    if SOURCE in tracks:
        report["ci95"]["wer_minus_source"] = difference_interval(tracks[""].errors, tracks[SOURCE].errors, seed)
    return report


def _count(answers: Sequence[_Answer]) -> dict[str, Any]:
    """Right answers to in-domain items by topic, voice and voice split; refusals apart."""
    known = [a for a in answers if a.item.kind == "in_domain"]
    unknown = [a for a in answers if a.item.kind == "out_of_domain"]
    return {
        "n": len(known),
        "right": sum(a.is_right for a in known),
        "right_by_topic": _by(known, "topic"),
        "right_by_voice": _by(known, "voice"),
        "right_by_voice_split": _by(known, "voice_split"),
        "refused_in_domain": sum(is_right(a.result.text, REFUSAL_KEY) for a in known),
        "out_of_domain": {
            "n": len(unknown),
            "right": sum(a.is_right for a in unknown),
            "right_by_topic": _by(unknown, "topic"),
        },
    }


def _by(answers: Sequence[_Answer], attribute: str) -> dict[str, dict[str, int]]:
    """{value: {"n", "right"}} in alphabetical order."""
    table: dict[str, dict[str, int]] = {}
    for answer in sorted(answers, key=lambda a: getattr(a.item, attribute)):
        row = table.setdefault(getattr(answer.item, attribute), {"n": 0, "right": 0})
        row["n"] += 1
        row["right"] += answer.is_right
    return table


def _speed_report(answers: Sequence[_Answer]) -> dict[str, Any]:
    """Stage times of the spoken answers, and work per second of spoken answer, both by the session's own clock."""
    spoken = [a for a in answers if a.is_spoken and len(a.clip[0])]
    if not spoken:
        return {"real_time_factor": None, "timings": {}}
    busy_s = [a.result.timings["total"] for a in spoken]
    audio_s = [len(samples) / sample_rate_hz for samples, sample_rate_hz in (a.clip for a in spoken)]
    stages = sorted({stage for a in spoken for stage in a.result.timings})
    times = {
        stage: summarise([a.result.timings[stage] for a in spoken if stage in a.result.timings]) for stage in stages
    }
    return {"real_time_factor": real_time_factor(busy_s, audio_s), "timings": times}


def _cells(answers: Sequence[_Answer], tracks: dict[str, Track]) -> list[dict[str, Any]]:
    """One row per item, so that every number above can be recounted."""
    cells, row = [], 0
    for answer in answers:
        item = asdict(answer.item)
        del item["audio"], item["candidates"]  # a path of this machine, and a list that repeats in every row of a topic
        cell = {**item, "text": answer.result.text, "right": answer.is_right}
        if answer.is_spoken and _words(answer.result.text):
            samples, sample_rate_hz = answer.clip
            cell |= {"audio_s": len(samples) / sample_rate_hz, "total_s": answer.result.timings["total"]}
            cell |= {name or "speech": track.row(row) for name, track in tracks.items()}
            row += 1
        cells.append(cell)
    return cells


def _words(text: str) -> str:
    """Normalised words, each sentence on its own: the normaliser joins "It is two. Three ..." to the number 23."""
    sentences = (normalise(sentence) for sentence in re.split(r"[.;:!?]+(?:\s|$)", text))
    return " ".join(sentence for sentence in sentences if sentence)


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\S){re.escape(words)}(?!\S)")


def _holds(words: str, phrase: str) -> bool:
    return _pattern(phrase).search(words) is not None
