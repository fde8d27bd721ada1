"""vocalnet stream: what it answers, how often, and what it says of the times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from vocalnet.commands.console import tell

REPEATS = 20  # of a measurement


@dataclass(frozen=True)
class Asked:
    """The options of `vocalnet stream` that only it has; there is their help."""

    audio: Path | None
    repeats: int | None
    results: Path | None

    def questions(self) -> dict[str, str]:
        """Returns the recordings by name: the one that is given, or the page's examples.

        Raises:
            ValueError: none is given, and the page is not installed.
        """
        if self.audio is not None:
            return {self.audio.name: str(self.audio)}
        try:
            from demo.examples import EXAMPLES
        except ModuleNotFoundError as error:
            raise ValueError("There are no example questions without the page's files. Give --audio.") from error
        return {example.path.name: str(example.path) for example in EXAMPLES}


def answer(model: Any, audio: Path, options: Any, speech: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Streams one answer, its text to stderr while it comes; returns the result, and times by chunk."""
    from vocalnet.events import AudioChunk, TextDelta
    from vocalnet.metrics.playback import playback

    events = []
    for event in model.stream(audio=audio, options=options, **speech):
        events.append(event)
        if isinstance(event, TextDelta):
            typer.echo(event.text, nl=False, err=True)
    tell("")
    chunks = [
        {"t_s": event.t_s, "audio_s": len(event.samples) / event.sample_rate_hz}
        for event in events
        if isinstance(event, AudioChunk)
    ]
    times = {
        "first_audio_s": chunks[0]["t_s"] if chunks else None,
        "chunks": chunks,
        "lateness_s": playback(events).lateness_s,
    }
    return events[-1].result, times


def measure(model: Any, asked: Asked, options: Any, speech: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Measures many answers, into `results` where a name is given; returns the report, and one sentence on it."""
    from vocalnet import files
    from vocalnet.streaming import measure as run

    report = run(model, asked.questions(), asked.repeats or REPEATS, options, speech)
    if asked.results is not None:
        files.write_json(asked.results, report)
    worst_s = report["worst_lateness_s"]
    spare = (
        "" if worst_s is None else f", the worst {abs(worst_s):.2f} s {'after' if worst_s > 0 else 'before'} its time"
    )
    return report, (
        f"first sound {1000 * report['first_audio_s']:.0f} ms after the question (median of {report['repeats']}, warm; "
        f"p90 {1000 * report['first_audio']['p90']:.0f} ms), real-time factor {report['real_time_factor']:.2f}, "
        f"{report['n_late']} of {report['n_chunks']} chunks late{spare}"
    )
