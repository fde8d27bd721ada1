"""The protocol of `vocalnet eval --grid`: decoders and policies of one checkpoint, compared on identical texts.

The LLM answers every question once. Every cell then speaks the same answers from the same LLM states, so that cells
differ in their speech alone and are compared utterance by utterance.

First come the answers, the speech tokens of all cells, and the times, for which the cells take turns. Then each cell's
sound is judged, by far the longest part; the report is saved after every cell. A run that is started again repeats the
first part, so that all times come from one run, and takes over what the judges said of the same speech.

Letters: L_t text positions, D LLM width.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from vocalnet.bench import take_turns
from vocalnet.config import TalkerConfig
from vocalnet.decoder import session as decoding
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker
from vocalnet.evaluation import RESYNTHESIS, SOURCE, Item, Judges, judge, parse_items, spoken_ids
from vocalnet.events import TokenStat, acceptance
from vocalnet.grids import Cell
from vocalnet.metrics.asr import Clip
from vocalnet.metrics.speedup import bounds_of, measured, nominal, tokens_per_second
from vocalnet.metrics.tokens import agreement, token_summary
from vocalnet.metrics.wer import difference, errors_in, normalise, rate
from vocalnet.model import VocalNet
from vocalnet.provenance import fingerprint, provenance
from vocalnet.sounding import cost, streamed_wave, whole_wave
from vocalnet.vocoder.token2wav import Token2Wav


@dataclass(frozen=True)
class GridOptions:
    """How a grid is measured.

    Attributes:
        n_answers: how many in-domain questions are answered and spoken.
        n_timed: how many of the answers are timed.
        repeats: times that each cell speaks them, in turn, answer by answer; medians are reported. A shared machine is
            now faster and now slower, for seconds and by a third and more: turns have to be short, and many.
        seed: picks the questions, and is that of all draws and intervals.
    """

    n_answers: int = 200
    n_timed: int = 20
    repeats: int = 15
    seed: int = 0


@dataclass(frozen=True)
class Outside:
    """What a grid is measured with besides the model; without a source voice there are no ceilings."""

    source_voice: Callable[[str], Clip] | None = None
    resynthesise: Callable[[np.ndarray, int], Clip] | None = None
    judges: Judges = field(default_factory=Judges)


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, what the talker hears of it, LLM states (L_t, D) by segment, and the most speech tokens of each."""

    id: str
    text: str
    segments: list[Tensor]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Speech:
    """One answer as a cell says it."""

    tokens: list[int]
    stats: list[TokenStat]


@dataclass(frozen=True, slots=True)
class Spoken:
    """All that a cell said, in the order of the answers, and the seconds of each timed run of some of it."""

    cell: Cell
    talker: Talker
    speeches: list[Speech]
    seconds: list[float]
    n_timed: int  # speech tokens of a timed run

    @property
    def tokens_per_s(self) -> float:
        """Speech tokens per second of the talker, projector included."""
        return tokens_per_second(self.n_timed, self.seconds)


def run_grid(
    model: VocalNet,
    items: Sequence[dict[str, Any]],
    cells: Sequence[Cell],
    options: GridOptions,
    outside: Outside,
    known: dict[str, list[dict[str, Any]]] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Measures a grid and returns its report.

    Args:
        model: a checkpoint with the cells' decoders.
        items: spoken questions, as for `evaluation.evaluate`.
        cells: what to compare; one that the checkpoint cannot run is skipped, with the reason.
        options: how.
        outside: source voice, resynthesis and judges.
        known: judgements of an earlier run (`judgements_in`), used for speech that is the same.
        save: takes the report so far, after every judged rendering.

    Raises:
        ValueError: no cell can run, an item is malformed, or no question was answered.
    """
    revision = fingerprint(model)
    offered, skipped = offered_cells(model, cells)
    if not offered:
        raise ValueError(f"This checkpoint cannot run any cell of the grid: {skipped[0]['reason']}")
    asked = parse_items(items)
    chosen = spoken_ids(asked, options.n_answers, options.seed)
    heard = [hear(model, item) for item in tqdm([i for i in asked if i.id in chosen], "answers", disable=None)]
    answers = [answer for answer in heard if normalise(answer.text)]
    if not answers:
        raise ValueError("No question of the set was answered in words: there is nothing to speak.")
    spoken = speak_all(model, offered, answers, options)
    frame = {
        "n_answers": len(answers),
        "options": asdict(options),
        "decoders": model.decoders,
        "kernel": model.kernel,
        "model": {"name": model.card.get("name", "unnamed"), "fingerprint": revision},
        "texts": [{"id": answer.id, "text": answer.text} for answer in answers],
        "skipped": skipped,
        **provenance(options.seed),
    }
    texts, known = [answer.text for answer in answers], known or {}
    score, judged = outside.judges.make_mos(), dict[str, dict[str, Any]]()
    streams, costs = {one.cell.label: one for one in spoken if one.cell.sound}, dict[str, dict[str, Any]]()
    for name, said, render in _renderings(model, revision, texts, spoken, outside):
        rows = known.get(said)
        if rows is None:
            track = judge(texts, render(), outside.judges.transcribe, score, name)
            rows = [track.row(number) for number in range(len(texts))]
        judged[name] = {"said": said, "answers": rows}
        if name in streams and name not in costs:
            costs[name] = _cost(model, streams[name])
        report = {**frame, **_tables(spoken, judged, options.seed, costs)}
        save(report)
    return report


def judgements_in(report: Any) -> dict[str, list[dict[str, Any]]]:
    """Returns what the judges said in an earlier report, by the digest of what was said; {} if it is no such report."""
    if not isinstance(report, dict) or not isinstance(report.get("ceilings"), dict):
        return {}
    rows = [*report["cells"], *report["ceilings"].values()]
    return {row["said"]: row["answers"] for row in rows}


def offered_cells(model: VocalNet, cells: Sequence[Cell]) -> tuple[list[Cell], list[dict[str, str]]]:
    """Returns the cells that a checkpoint can run, and {"cell", "reason"} of each other."""
    offered, skipped = [], []
    for cell in cells:
        try:
            _talker(model, cell.decoder).session(cell.options)
            if cell.sound is not None and not isinstance(model.vocoder, Token2Wav):
                raise ValueError("This vocoder's stream takes no options.")
            offered.append(cell)
        except ValueError as error:
            skipped.append({"cell": cell.label, "reason": str(error)})
    return offered, skipped


def hear(model: VocalNet, item: Item) -> Answer:
    """Answers a question in text, and keeps what the talker would have heard.

    Raises:
        ValueError: the recording cannot be used.
    """
    listener = _Listener(_talker(model, model.decoders[0]).config)
    listening = copy.copy(model)
    listening._modules = {**model._modules, "talker": listener}  # the copy's own table of the same modules
    try:
        result = listening.respond(audio=item.audio, options=DecodeOptions(mask="full"))
    except ValueError as error:
        raise ValueError(f"Item {item.id}: {error}") from error
    return Answer(item.id, result.text, listener.segments, listener.max_tokens)


def speak(talker: Talker, answer: Answer, options: DecodeOptions) -> Speech:
    """Says an answer as `Session` does under the options' mask, but for the last tokens that the published code drops.

    Text that comes C_t tokens at a time makes the same speech as the whole of it under the streaming mask (`Session`).
    """
    segments = _decode(talker, answer, options)
    units = talker.config.n_units
    tokens = [token for spoken in segments for token in spoken.tokens if token < units]
    return Speech(tokens, [stat for spoken in segments for stat in spoken.take_picks()])


def speak_all(model: VocalNet, cells: Sequence[Cell], answers: Sequence[Answer], options: GridOptions) -> list[Spoken]:
    """Lets every cell say every answer; then they take turns at the first `n_timed` of them, against the clock."""
    talkers = {cell.decoder: _talker(model, cell.decoder) for cell in cells}
    seeded = {cell: replace(cell.options, seed=options.seed) for cell in cells}
    speeches = {
        cell: [speak(talkers[cell.decoder], answer, seeded[cell]) for answer in answers]
        for cell in tqdm(cells, "speech tokens", unit="cell", disable=None)
    }

    def say(cell: Cell, answer: Answer) -> None:
        _decode(talkers[cell.decoder], answer, seeded[cell])

    turns = [
        take_turns({cell.label: partial(say, cell, answer) for cell in cells}, options.repeats)
        for answer in answers[: options.n_timed]
    ]
    return [
        Spoken(
            cell=cell,
            talker=talkers[cell.decoder],
            speeches=speeches[cell],
            seconds=[sum(turn) for turn in zip(*(of_one[cell.label] for of_one in turns), strict=True)],
            n_timed=sum(len(speech.tokens) for speech in speeches[cell][: options.n_timed]),
        )
        for cell in cells
    ]


def _decode(talker: Talker, answer: Answer, options: DecodeOptions) -> list[decoding.Spoken]:
    return talker.decode(answer.segments, replace(options, max_tokens=answer.max_tokens))


def _renderings(
    model: VocalNet, revision: str, texts: list[str], spoken: Sequence[Spoken], outside: Outside
) -> Iterator[tuple[str, str, Callable[[], list[Clip]]]]:
    """Yields (name, digest of what is said, function that makes the clips): ceilings, then cells."""
    voice, resynthesise = outside.source_voice, outside.resynthesise
    if voice is not None:
        yield SOURCE, _digest(SOURCE, texts), lambda: [voice(text) for text in texts]
        if resynthesise is not None:
            said = _digest(RESYNTHESIS, texts, revision)
            yield RESYNTHESIS, said, lambda: [resynthesise(*voice(text)) for text in texts]
    for one in spoken:
        tokens = [speech.tokens for speech in one.speeches]
        how = () if one.cell.sound is None else (asdict(one.cell.sound),)
        said = _digest("speech", texts, revision, tokens, *how)
        yield one.cell.label, said, partial(_sound_all, model, tokens, one.cell)


def _sound_all(model: VocalNet, speeches: Sequence[list[int]], cell: Cell) -> list[Clip]:
    """Returns the sound of speech tokens, none for none, in one piece or streamed as the cell says."""
    clips: list[Clip] = []
    for tokens in tqdm(speeches, f"sound of {cell.label}", disable=None):
        if cell.sound is None:
            wave = whole_wave(model.vocoder, tokens)
        else:
            assert isinstance(model.vocoder, Token2Wav)
            wave = streamed_wave(model.vocoder, tokens, cell.sound)
        clips.append((wave, model.sample_rate_hz))
    return clips


def _cost(model: VocalNet, one: Spoken) -> dict[str, Any]:
    """Returns what the vocoder's stream of a cell costs."""
    assert isinstance(model.vocoder, Token2Wav)
    assert one.cell.sound is not None
    return cost(model.vocoder, [speech.tokens for speech in one.speeches], one.cell.sound)


def _tables(
    spoken: Sequence[Spoken], judged: dict[str, dict[str, Any]], seed: int, costs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Returns the rows of all cells and ceilings that have been judged."""
    singles = [one for one in spoken if one.cell.is_single]
    fastest = max((one for one in singles if one.n_timed), key=lambda one: one.tokens_per_s, default=None)
    labels = [one.cell.label for one in spoken]
    errors = {name: errors_in(found["answers"]) for name, found in judged.items()}

    def minus(one: Spoken, name: str | None) -> dict[str, Any] | None:
        own = one.cell.label
        return difference(errors[own], errors[name], seed) if name in errors and name != own else None

    baseline = singles[0].cell.label if singles else None
    cells = [
        {
            **_measures(one, spoken, fastest),
            **_judgement(judged[label], seed),
            "minus_baseline": minus(one, baseline),
            "minus_fixed_3": minus(one, one.cell.fixed_3.label),
            "minus_offline": minus(one, one.cell.offline.label),
            "minus_whole": minus(one, one.cell.whole.label),
            "stream": costs.get(label),
            **judged[label],
        }
        for label, one in zip(labels, spoken, strict=True)
        if label in judged
    ]
    ceilings = {name: _judgement(found, seed) | found for name, found in judged.items() if name not in labels}
    return {
        "baseline": baseline,
        "fastest_single": fastest.cell.label if fastest else None,
        "is_complete": len(cells) == len(spoken),
        "cells": cells,
        "ceilings": ceilings,
    }


def _measures(one: Spoken, spoken: Sequence[Spoken], fastest: Spoken | None) -> dict[str, Any]:
    """Returns what the tokens and the clock say of a cell."""
    stats = [stat for speech in one.speeches for stat in speech.stats]
    bounds = bounds_of(one.talker.config, stats)
    return {
        "cell": one.cell.label,
        "decoder": one.cell.decoder,
        "head": one.talker.config.head,
        "n_heads": one.talker.head.n_heads,
        "tokens_per_step": one.cell.options.tokens_per_step,
        "policy": one.cell.options.policy,
        "options": asdict(one.cell.options),
        "n_tokens": sum(len(speech.tokens) for speech in one.speeches),
        "n_steps": acceptance(stats).n_steps,
        "speedup": {
            "nominal": nominal(stats),
            "bound_layers": bounds["layers"],
            "bound_weights": bounds["weights"],
            "measured": measured(one.tokens_per_s, fastest.tokens_per_s) if fastest else None,
        },
        "tokens_per_s": one.tokens_per_s,
        "seconds": one.seconds,
        "agreement": _agreement(one, spoken),
        "token_stats": token_summary(stats),
    }


def _agreement(one: Spoken, spoken: Sequence[Spoken]) -> dict[str, float] | None:
    """Returns the shares of tokens and of answers that are those of the same decoder's one token per step."""
    own, warmth = one.cell.decoder, one.cell.options.temperature
    singles = (other for other in spoken if other.cell.is_single and other.cell.options.temperature == warmth)
    single = next((other for other in singles if other.cell.decoder == own), None)
    if single is None:
        return None
    pairs = [(a.tokens, b.tokens) for a, b in zip(one.speeches, single.speeches, strict=True)]
    return {
        "tokens": float(np.mean([agreement(own, other) for own, other in pairs])),
        "answers": float(np.mean([own == other for own, other in pairs])),
    }


def _judgement(found: dict[str, Any], seed: int) -> dict[str, Any]:
    scores = [row["dnsmos_p808"] for row in found["answers"] if row["dnsmos_p808"] is not None]
    return {
        "wer": rate(errors_in(found["answers"]), seed),
        "dnsmos_p808": float(np.mean(scores)) if scores else None,
    }


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _talker(model: VocalNet, decoder: str) -> Talker:
    talker = model.with_decoder(decoder).talker
    if talker is None:
        raise ValueError("This checkpoint answers in text only: it has no decoder to compare.")
    return talker


class _Listener(nn.Module):
    """Stands in a model for its talker, says nothing, and keeps what it was to say."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.config = config
        self.segments: list[Tensor] = []
        self.max_tokens = 0

    def session(self, options: DecodeOptions) -> None:
        """Refuses no options: the cells have been tried on the talker itself."""

    def decode(self, hidden: Sequence[Tensor], options: DecodeOptions) -> list[decoding.Spoken]:
        """Takes the states (L_t, D) of all segments; returns no speech."""
        assert options.max_tokens is not None
        self.segments, self.max_tokens = list(hidden), options.max_tokens
        return [decoding.Spoken() for _ in hidden]
