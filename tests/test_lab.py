"""The lab: turns, rounds, what a row holds, and that it can be stopped."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fakes import JUDGES, FakeModel, tone

from vocalnet import DecodeOptions, lab, runs
from vocalnet.audio import write_wav
from vocalnet.lab import Progress, Question, Report, make_cells
from vocalnet.metrics.speedup import bound_by_layers

QUESTIONS = [Question((tone(0.5), 16_000), "one"), Question((tone(0.6), 16_000), "two")]
OPTIONS = DecodeOptions(seed=0, n_candidates=2)


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    """A lab of two decoders at two numbers of tokens per step."""
    cells = make_cells(["mtp_vocalnet", "mtp_deepseek"], [1, 3], options=OPTIONS)
    return lab.measure(FakeModel(), QUESTIONS, cells, rounds=2, judges=JUDGES)


def test_a_row_per_cell_in_the_order_of_the_cells(reports):
    assert [report.cell.label for report in reports] == [
        "mtp_vocalnet 1",
        "mtp_vocalnet 3",
        "mtp_deepseek 1",
        "mtp_deepseek 3",
    ]
    assert all(list(report.row) == list(lab.COLUMNS) for report in reports)


def test_what_a_row_says(reports):
    row = reports[1].row
    assert (row["decoder"], row["tokens_per_step"], row["policy"], row["rounds"]) == ("mtp_vocalnet", 3, "fixed", 2)
    assert (row["tokens"], row["steps"]) == (80, 32)  # 4 steps of 10 tokens, as the fake model has them
    assert row["nominal"] == 2.5
    assert row["bound_layers"] < bound_by_layers(FakeModel().parts.talker, 3) == 1.5
    assert row["tokens_per_s"] == pytest.approx(40 / 0.04)
    assert row["measured"] == pytest.approx(3.0)
    assert row["first_audio_p50_s"] == row["first_audio_p90_s"] == 0.12
    assert row["real_time_factor"] == 0.1
    assert row["dnsmos_p808"] == 3.0
    assert row["wer_percent"] == 10.0  # the number was missed
    assert row["agreement_percent"] == 97.5  # one of forty tokens
    assert row["baseline"] in ("ntp 1", "mtp_vocalnet 1")


def test_nominal_bound_and_measured_are_three_numbers(reports):
    assert len({reports[1].row[name] for name in ("nominal", "bound_layers", "bound_weights", "measured")}) == 4


def test_every_answer_is_kept_as_a_run(reports):
    for report in reports:
        assert [run.question for run in report.runs] == ["one", "two"]
        assert {run.decoder for run in report.runs} == {report.cell.decoder}
        assert all(len(run.candidates[0].likeliest) == 2 for run in report.runs)


def test_cells_take_turns_after_a_warm_up():
    model = FakeModel()
    cells = make_cells(["mtp_vocalnet"], [1, 2], ["fixed", "greedy_verify"], OPTIONS)
    items = list(lab.stream(model, QUESTIONS[:1], cells, rounds=2))
    asked = [request["options"] for request in model.requests]
    turn = [cells[0].options, *(cell.options for cell in cells)]  # ntp, the other baseline, answers first
    assert asked == turn * 3  # warm-up, two rounds
    assert [report.row["rounds"] for report in items if isinstance(report, Report)] == [1] * 4 + [2] * 4
    done = [item.n_done for item in items if isinstance(item, Progress)]
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(done))
    assert items[-2].n_all == 10 == done[-1] + 1


def test_the_last_rows_are_all_over_the_same_baseline(monkeypatch):
    seconds = iter([1.0, 2.0, 1.0, 0.1])  # the second baseline becomes the fastest in the last answer
    made = lab._Trial.of
    monkeypatch.setattr(lab._Trial, "of", lambda result: replace(made(result), talker_s=next(seconds)))
    cells = make_cells(["ntp", "mtp_vocalnet"], [1], options=OPTIONS)
    rows = [report.row for report in lab.measure(FakeModel(), QUESTIONS[:1], cells, rounds=2)]
    assert [row["baseline"] for row in rows] == ["mtp_vocalnet 1"] * 2
    assert [row["measured"] for row in rows] == [pytest.approx(0.19), 1.0]


def test_how_many_answers_a_lab_takes():
    cells = make_cells(["mtp_deepseek", "ntp"], [1, 3], options=OPTIONS)
    model = FakeModel()
    items = list(lab.stream(model, QUESTIONS, cells, rounds=2))
    progress = [item for item in items if isinstance(item, Progress)]
    asked = 2 * 2  # of ntp at three per step, which it does not take
    assert lab.most_answers(model.decoders, 2, cells, 2) - asked == progress[-1].n_all == progress[-1].n_done + 1


def test_the_judges_come_last_and_say_how_far_they_are(reports):
    plain = lab.measure(FakeModel(), QUESTIONS * 3, [report.cell for report in reports], rounds=1)
    assert {report.row["wer_percent"] for report in plain} == {None}
    items = list(lab.judged(plain, JUDGES))
    done = [item.n_done for item in items if isinstance(item, Progress)]
    assert done == [0, 4, 6, 10, 12, 16, 18, 22]  # at most four answers at once, so that it can be stopped
    assert {item.n_all for item in items if isinstance(item, Progress)} == {24}
    heard = [item for item in items if isinstance(item, Report)]
    assert [report.cell for report in heard] == [report.cell for report in plain]
    assert {(report.row["wer_percent"], report.row["dnsmos_p808"]) for report in heard} == {(10.0, 3.0)}
    assert all(
        {**new.row, "wer_percent": None, "dnsmos_p808": None} == old.row for new, old in zip(heard, plain, strict=True)
    )


def test_a_judge_that_is_not_there_says_so_before_the_work():
    def missing(clips):
        raise ValueError("Install it.")

    model = FakeModel()
    judges = replace(JUDGES, transcribe=missing)
    with pytest.raises(ValueError, match="Install it"):
        lab.measure(model, QUESTIONS, make_cells(["ntp"], [1], options=OPTIONS), rounds=1, judges=judges)
    assert model.n_opened == 0


def test_verified_speech_agrees_with_one_token_per_step():
    cells = make_cells(["mtp_deepseek"], [3], ["greedy_verify"], OPTIONS)
    (report,) = lab.measure(FakeModel(), QUESTIONS[:1], cells, rounds=1)
    assert report.row["agreement_percent"] == 100.0
    assert report.row["wer_percent"] is None


def test_a_cell_that_cannot_run_is_left_out():
    cells = make_cells(["ntp"], [1, 3], options=OPTIONS)
    assert [report.cell.label for report in lab.measure(FakeModel(), QUESTIONS[:1], cells, rounds=1)] == ["ntp 1"]
    with pytest.raises(ValueError, match="cannot run any of these cells: this talker takes 1"):
        lab.measure(FakeModel(), QUESTIONS, cells[1:])


def test_nothing_to_do_is_refused():
    cells = make_cells(["ntp"], [1])
    for arguments in (([], cells, 1), (QUESTIONS, [], 1), (QUESTIONS, cells, 0)):
        with pytest.raises(ValueError, match="at least one question, one cell and one round"):
            lab.measure(FakeModel(), *arguments)


def test_a_silent_answer_makes_no_times_of_sound(tmp_path):
    clip = tmp_path / "mute.wav"
    write_wav(clip, tone(0.5), 16_000)
    cells = make_cells(["mtp_vocalnet"], [3], options=OPTIONS)
    (report,) = lab.measure(FakeModel(), [Question(clip)], cells, rounds=1, judges=JUDGES)
    silent = {"first_audio_p50_s", "first_audio_p90_s", "real_time_factor", "bound_layers", "bound_weights"}
    assert all(report.row[name] is None for name in silent)
    assert report.row["dnsmos_p808"] is None
    assert report.row["tokens"] == report.row["tokens_per_s"] == 0


def test_closing_ends_the_answer():
    model = FakeModel()
    items = lab.stream(model, QUESTIONS, make_cells(["ntp"], [1], options=OPTIONS))
    for _ in range(3):
        next(items)
    items.close()
    assert (model.n_opened, model.n_closed) == (1, 1)


def test_different_texts_are_not_compared():
    model = FakeModel()
    other = FakeModel("Something else.")
    other.decoders = ("ntp", "mtp_vocalnet")
    model.with_decoder = lambda name: other if name == "ntp" else model
    with pytest.raises(ValueError, match="another text"):
        lab.measure(model, QUESTIONS, make_cells(["mtp_vocalnet"], [1], options=OPTIONS))


def test_the_export_holds_the_table_and_every_run(reports, tmp_path):
    path = lab.save(reports, tmp_path / "lab.zip", {"speedups.png": b"png"})
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        table = list(csv.reader(io.StringIO(archive.read("table.csv").decode())))
        data = json.loads(archive.read("table.json"))
        archive.extract("runs/mtp_deepseek-3-question-2.zip", tmp_path)
    assert {"table.csv", "table.json", "speedups.png"} < names
    assert len(names) == 3 + 8
    assert table == [list(lab.COLUMNS), *(lab.texts(report.row) for report in reports)]
    assert data["rows"] == [report.row for report in reports]
    assert data["seed"] == 0
    assert data["questions"][0]["words"] == "one"
    run = runs.load(tmp_path / "runs" / "mtp_deepseek-3-question-2.zip")
    assert run.result.speech_tokens == reports[3].runs[1].result.speech_tokens
    np.testing.assert_allclose(run.result.audio, reports[3].runs[1].result.audio, atol=1e-4)


def test_a_tiny_model_in_the_lab(tiny_model, question):
    options = DecodeOptions(seed=0, temperature=1.0, max_tokens=30, min_tokens=20)
    found = lab.measure(tiny_model, [Question(question)], make_cells(["mtp_vocalnet"], [1, 3], options=options))
    single, triple = (report.row for report in found)
    assert single["nominal"] == single["bound_layers"] == single["measured"] == 1
    assert single["agreement_percent"] == 100
    assert triple["measured"] > 0
    assert 1 <= triple["bound_weights"] < triple["nominal"] <= 3
