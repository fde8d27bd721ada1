"""Counts of a list: hours, words, tokens, durations, and their figure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vocalnet.__main__ import app
from vocalnet.data.statistics import N_BINS, statistics


def test_a_list_is_counted(pairs):
    report = statistics(pairs.path, count=len, n_workers=1)
    questions_s = [0.5, 0.7, 0.9, 1.1]
    assert report["n_entries"] == 4
    assert report["question_hours"] == pytest.approx(sum(questions_s) / 3600)
    assert report["answer_hours"] == pytest.approx(2 * sum(questions_s) / 3600)
    assert report["n_speech_tokens"] == 25 + 35 + 45 + 55
    assert (report["n_words"], report["n_text_tokens"]) == (16, 4 * len("The answer is 0."))
    assert report["question_s"]["p50"] == pytest.approx(0.8)
    histogram = report["histogram"]
    assert len(histogram["edges_s"]) == N_BINS + 1
    assert (sum(histogram["questions"]), sum(histogram["answers"])) == (4, 4)
    assert histogram["answers"][-1] == 1  # the longest


def test_a_list_for_stage_1_has_no_answers_to_count(pairs):
    for entry in pairs.entries:
        del entry["units"]
    report = statistics(pairs.write(), n_workers=1)
    assert [report[key] for key in ("answer_hours", "n_speech_tokens", "answer_s", "n_text_tokens")] == [None] * 4


def run(*arguments):
    return CliRunner().invoke(app, ["data", "stats", *(str(a) for a in arguments), "--workers", "1"])


def test_the_command_counts_an_llms_tokens_and_draws(pairs):
    figure = pairs.folder / "durations.png"
    done = run(pairs.path, "--model", "nano", "--figure", figure, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["n_text_tokens"] >= report["n_words"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "160 speech tokens" in run(pairs.path).stdout


def test_what_cannot_be_measured_is_named(pairs):
    np.save(pairs.units(1), np.zeros(3))
    assert f"{pairs.units(1)} holds float64, not integers. Run: vocalnet data validate" in run(pairs.path).stderr
    pairs.question(0).unlink()
    missing = run(pairs.path)
    assert missing.exit_code == 2
    assert f"{pairs.question(0)} is missing or no audio" in missing.stderr
