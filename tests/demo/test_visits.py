"""What a visit keeps, the blind test, and how statistics are lined up with speech."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import FakeModel, tone

from demo import visits
from demo.blind import draw_trial, reveal, score
from demo.timeline import timeline_value, token_rows
from demo.visits import Visits
from vocalnet import DecodeOptions, lab, runs
from vocalnet.events import Candidates, Finished, Result, SpeechTokens, TokenStat


@pytest.fixture(scope="module")
def run():
    """A run of the fake model."""
    model, options = FakeModel(), DecodeOptions(tokens_per_step=2, seed=0, n_candidates=3)
    return runs.record(model, list(model.stream(audio=(tone(0.5), 16_000), options=options)), options, "A question?")


def test_a_visit_keeps_the_newest_runs(run):
    visit = Visits().of("a")
    names = [visit.add(run) for _ in range(visits.MAX_RUNS + 3)]
    assert list(visit.runs) == names[3:]
    assert names[0] == "1 · mtp_vocalnet 2 fixed · A question?"
    assert visit.add(replace(run, question="x" * 99)).endswith("x…")


def test_visits_are_apart_and_forgotten(run, monkeypatch):
    monkeypatch.setattr(visits, "MAX_VISITS", 2)
    kept = Visits()
    kept.of("a").add(run)
    assert not kept.of("b").runs
    assert kept.of("a").runs
    kept.of("c")  # b was away the longest
    assert len(kept) == 2
    assert kept.of("a").runs
    kept.forget("a")
    assert not kept.of("a").runs


def test_a_blind_trial_is_of_two_cells_and_one_question():
    visit = Visits().of("a")
    assert draw_trial(visit) is None
    cells = lab.make_cells(["mtp_vocalnet"], [1, 2, 3], options=DecodeOptions(seed=0))
    visit.reports = lab.measure(FakeModel(), [lab.Question((tone(0.5), 16_000))], cells, rounds=1)
    drawn = [draw_trial(visit) for _ in range(50)]
    pairs = {(trial.first.cell.label, trial.second.cell.label) for trial in drawn}
    assert len(pairs) == 6  # every pair in both orders
    assert all(trial.question == 0 for trial in drawn)
    assert score(visit.trials) == []
    first, second, third = drawn[:3]
    first.vote, second.vote, third.vote = "first", "second", "none"
    won = dict.fromkeys((name for pair in pairs for name in pair), 0)
    won[first.first.cell.label] += 1
    won[second.second.cell.label] += 1
    assert {name: int(n) for name, n, _ in score(visit.trials)}.items() <= won.items()
    assert sum(int(n) for *_, n in score(visit.trials)) == 6
    assert reveal(first).endswith(f"You preferred {first.first.cell.label}.")
    assert reveal(third).endswith("You heard no difference.")


def test_a_row_per_speech_token(run):
    rows = token_rows(run)
    assert [row["token"] for row in rows] == run.result.speech_tokens
    assert [row["head"] for row in rows[:4]] == [0, 1, 0, 1]
    assert rows[7]["candidates"] == [[7, 0.5], [8, 0.25], [9, pytest.approx(1 / 6)]]
    assert timeline_value(run)["tokens_per_s"] == 25


@pytest.mark.parametrize("has_candidates", [True, False])
def test_rejected_picks_and_end_tokens_are_no_speech(run, has_candidates):
    picks = [(11, 0, True), (12, 1, True), (13, 2, False), (99, 0, True), (21, 0, True), (22, 1, True), (99, 0, True)]
    if not has_candidates:
        picks.remove((99, 0, True))  # only candidates tell an end token between two segments
    stats = [TokenStat(head, float(token), 0.5, -0.7, kept) for token, head, kept in picks]
    made = [Candidates(token, ((token, 0.5),)) for token, *_ in picks] if has_candidates else []
    tokens = [11, 12, 21, 22]
    result = Result("", tone(0.5), 16_000, tokens, stats, {})
    odd = replace(run, events=(SpeechTokens(tokens, stats, 0.0, made), Finished(result, 0.0)))
    rows = token_rows(odd)
    assert [row["token"] for row in rows] == tokens
    assert [row["entropy"] for row in rows] == [11.0, 12.0, 21.0, 22.0]
    assert [row["head"] for row in rows] == [0, 1, 0, 1]
