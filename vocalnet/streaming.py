"""The protocol of `vocalnet stream --repeats`: how soon an answer sounds, how fast it is made, whether a chunk is late.

Questions take turns. The first answer of all is told apart as cold; the others are warm. Times count from the call,
which gets the whole question: from the question's end.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vocalnet.decoder.options import DecodeOptions
from vocalnet.events import Event, Finished
from vocalnet.metrics.latency import STAGES, first_audio_stages, real_time_factor, summarise
from vocalnet.metrics.playback import playback
from vocalnet.provenance import provenance
from vocalnet.vocoder.options import VocoderOptions


def observed(question: str, events: Sequence[Event]) -> dict[str, Any]:
    """Returns what the clock says of one answer.

    Raises:
        ValueError: it holds no sound.
    """
    heard = playback(events)
    if not heard.arrivals_s:
        raise ValueError(f"The answer to {question} holds no sound: there is nothing to time. Ask something else.")
    first = first_audio_stages(events)
    (result,) = (event.result for event in events if isinstance(event, Finished))
    audio_s = sum(heard.durations_s)
    return {
        "question": question,
        "text": result.text,
        "first_text_s": result.timings["first_text"],
        "first_audio_s": first["sum"],
        "total_s": result.timings["total"],
        "audio_s": audio_s,
        "real_time_factor": result.timings["total"] / audio_s,
        "lateness_s": heard.lateness_s,
        "stages": {name: first[name] for name in STAGES},  # up to the first sound
    }


def measure(
    model: Any,
    questions: Mapping[str, Any],
    repeats: int,
    options: DecodeOptions,
    speech: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the results of `repeats` warm answers after a cold one.

    Args:
        model: what answers.
        questions: recordings by name, as for `Session.stream`; they take turns.
        repeats: how many answers count.
        options: how they are spoken.
        speech: further arguments of `Session.stream`: sound and voice.

    Raises:
        ValueError: a question cannot be used, or its answer holds no sound.
    """
    names = list(questions)

    def answer(number: int) -> dict[str, Any]:
        name = names[number % len(names)]
        return observed(name, list(model.stream(audio=questions[name], options=options, **(speech or {}))))

    cold, *runs = [answer(number) for number in range(1 + repeats)]
    late_s = [seconds for run in runs for seconds in run["lateness_s"][1:]]  # the first is on time by definition
    firsts = [run["first_audio_s"] for run in runs]
    return {
        "repeats": repeats,
        "questions": names,
        "first_audio_s": statistics.median(firsts),
        "first_audio": summarise(firsts),
        "real_time_factor": real_time_factor([run["total_s"] for run in runs], [run["audio_s"] for run in runs]),
        "n_chunks": len(late_s),
        "n_late": sum(seconds > 0 for seconds in late_s),
        "worst_lateness_s": max(late_s, default=None),
        "stages": {name: statistics.median(run["stages"][name] for run in runs) for name in cold["stages"]},
        "cold": cold,
        "runs": runs,
        "options": asdict(options),
        "speech": {name: _plain(value) for name, value in (speech or {}).items()},
        "kernel": getattr(model, "kernel", "plain"),
        "decoder": model.decoders[0],
        "model": model.card.get("name", "unnamed"),
        "device": str(model.device),
        **provenance(options.seed),
    }


def _plain(value: Any) -> Any:
    """Returns options as a dict, and a name as it is."""
    return asdict(value) if isinstance(value, VocoderOptions) else value
