"""A blind test between two answers of a lab: who made which is told after the vote."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from demo import render
from demo.answering import wav_file
from demo.job import AT_ONCE, QUIET, Views
from demo.state import App
from demo.theme import waveform
from demo.visits import Trial, Visit

READY = "Two answers of the lab to the same question, in random order. Listen to both, then vote."
TOO_FEW = "Run a lab with at least two cells first: there is nothing to compare yet."
VOTES = {"first": "A sounds better", "none": "No difference", "second": "B sounds better"}


@dataclass(frozen=True)
class Blind:
    """The components of the test."""

    box: gr.Accordion
    line: gr.HTML
    players: list[gr.Audio]
    ballots: dict[str, gr.Button]
    tally: gr.HTML

    def components(self) -> list[Any]:
        """Returns all of them."""
        return [self.box, self.line, *self.players, *self.ballots.values(), self.tally]

    def fresh(self, is_visible: bool) -> dict[Any, Any]:
        """Returns the view of a test that nobody has taken yet."""
        return {
            self.box: gr.update(visible=is_visible),
            self.line: render.status(READY),
            **dict.fromkeys(self.players),
            **dict.fromkeys(self.ballots.values(), gr.update(interactive=False)),
            self.tally: "",
        }


def blind_test(app: App, download: gr.DownloadButton, export: Callable[[Visit, Path], Path]) -> Blind:
    """Lays out and wires the test; `export` writes a new file for `download` after a vote."""
    with gr.Accordion("Blind test: which sounds better?", open=False, visible=False, elem_classes="vn-blind") as box:
        line = gr.HTML(render.status(READY))
        with gr.Row(elem_classes="vn-columns"):
            players = [
                gr.Audio(label=name, interactive=False, buttons=[], waveform_options=waveform(), min_width=240)
                for name in "AB"
            ]
        with gr.Row(elem_classes="vn-buttons"):
            draw = gr.Button("Draw two answers", min_width=140)
            ballots = {vote: gr.Button(text, interactive=False, min_width=120) for vote, text in VOTES.items()}
        tally = gr.HTML()
    test = Blind(box, line, players, ballots, tally)

    def new_trial(request: gr.Request) -> Views:
        trial = draw_trial(app.visits.of(request.session_hash))
        if trial is None:
            yield {line: render.status(TOO_FEW, "problem")}
            return
        with TemporaryDirectory() as folder:
            results = [report.runs[trial.question].result for report in (trial.first, trial.second)]
            sounds = [wav_file(result, Path(folder, f"{name}.wav")) for name, result in zip("AB", results, strict=True)]
            yield {
                line: render.status(READY),
                **dict(zip(players, sounds, strict=True)),
                **dict.fromkeys(ballots.values(), gr.update(interactive=True)),
            }

    def cast(vote: str, visit: Visit) -> dict[Any, Any]:
        if not visit.trials or visit.trials[-1].vote:
            return {line: gr.skip()}
        visit.trials[-1].vote = vote
        return {
            line: render.status(reveal(visit.trials[-1]), "done"),
            tally: render.table("Votes", ("Cell", "Preferred", "Heard"), score(visit.trials)),
            **dict.fromkeys(ballots.values(), gr.update(interactive=False)),
        }

    def vote_for(vote: str) -> Callable[[gr.Request], dict[Any, Any]]:
        def voted(request: gr.Request) -> dict[Any, Any]:
            return cast(vote, app.visits.of(request.session_hash))

        return voted

    def renew(request: gr.Request) -> Views:
        with TemporaryDirectory() as folder:
            yield str(export(app.visits.of(request.session_hash), Path(folder)))

    draw.click(new_trial, None, [line, *players, *ballots.values()], **QUIET)
    for vote, ballot in ballots.items():
        voted = ballot.click(vote_for(vote), None, [line, tally, *ballots.values()], **AT_ONCE)
        voted.then(renew, None, download, **QUIET)
    return test


def draw_trial(visit: Visit) -> Trial | None:
    """Returns a new trial of two cells that spoke, drawn by chance, and notes it; None where there are not two."""
    heard = [report for report in visit.reports if all(run.result.speech_tokens for run in report.runs)]
    if len(heard) < 2:
        return None
    first, second = random.sample(heard, 2)
    visit.trials.append(Trial(first, second, random.randrange(len(first.runs))))
    return visit.trials[-1]


def reveal(trial: Trial) -> str:
    """Returns what was heard and preferred."""
    first, second = trial.first.cell.label, trial.second.cell.label
    preferred = {"first": f"You preferred {first}.", "second": f"You preferred {second}."}
    return f"A was {first}, B was {second}. {preferred.get(trial.vote, 'You heard no difference.')}"


def score(trials: Sequence[Trial]) -> list[list[str]]:
    """Returns how often each cell was preferred, and heard, in the trials that were voted on; the best first."""
    heard, won = Counter[str](), Counter[str]()
    for trial in trials:
        if trial.vote:
            labels = {"first": trial.first.cell.label, "second": trial.second.cell.label}
            heard.update(labels.values())
            won.update([labels[trial.vote]] if trial.vote in labels else [])
    order = sorted(heard, key=lambda label: (-won[label] / heard[label], label))
    return [[label, str(won[label]), str(heard[label])] for label in order]
