"""OpenAudioBench: its format, its scales, and a run that is interrupted and resumed."""

from __future__ import annotations

import json

import pytest
import torch
from fakes import ANSWER
from typer.testing import CliRunner

import vocalnet
from vocalnet.__main__ import app
from vocalnet.benchmarks.journal import Journal
from vocalnet.benchmarks.judges import ChatJudge, ExactMatch
from vocalnet.benchmarks.openaudiobench import (
    SUBSETS,
    Instruments,
    accepted,
    evaluate,
    item_weighted,
    load_questions,
    simple,
    summary,
)


class Ear:
    """A recogniser of the fake model's answer that misses the number, and may break down."""

    def __init__(self, lasts: int = 1000) -> None:
        self.lasts = lasts

    def transcribe(self, samples, sample_rate_hz) -> str:
        self.lasts -= 1
        if self.lasts < 0:
            raise KeyboardInterrupt
        assert len(samples)
        return ANSWER.replace("440", "")


def instruments(judge=None, ear=None):
    return Instruments(judge or ExactMatch(), ear or Ear(), {"utmos": lambda samples, rate_hz: len(samples) / 6400})


def test_the_papers_counts():
    assert {name: subset.n for name, subset in SUBSETS.items()} == {
        "alpaca_eval": 199,
        "llama_questions": 300,
        "trivia_qa": 1000,
        "web_questions": 1000,
    }


@pytest.mark.parametrize(
    ("row", "average"),
    [  # WER of Table 2 and its "Avg"
        ((3.43, 3.27, 6.73, 4.88), 5.31),
        ((4.71, 2.68, 4.04, 3.11), 3.56),
        ((2.41, 0.93, 1.13, 4.68), 2.63),
    ],
)
def test_the_papers_average_weighs_items(row, average):
    counts = [subset.n for subset in SUBSETS.values()]
    assert item_weighted(row, counts) == pytest.approx(average, abs=0.0051)
    assert simple(row, counts) == pytest.approx(sum(row) / 4)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("Paris", ["Paris"]),
        ("['paris', 'city of light']", ["paris", "city of light"]),
        ('["it\'s", "a \\"b\\""]', ["it's", 'a "b"']),
        ("['Jamaican Creole' 'English']", ["Jamaican Creole", "English"]),
        ("['a'\n 'b']", ["a", "b"]),
        ("[1066]", ["[1066]"]),
        ("Rock 'n' roll", ["Rock 'n' roll"]),
    ],
)
def test_accepted_answers_are_read_one_by_one(cell, expected):
    assert accepted(cell) == expected


def test_the_published_layout_is_read(bench):
    questions = load_questions(bench)
    assert [q.id for q in questions[:3]] == ["alpaca_eval-0", "alpaca_eval-1", "llama_questions-0"]
    assert load_questions(bench / "eval_datas") == questions
    by_id = {q.id: q for q in questions}
    assert by_id["trivia_qa-0"].answers == ("four hundred and forty hertz", "440 hertz")
    assert by_id["web_questions-1"].answers == ("France", 'the "West"')
    assert by_id["alpaca_eval-1"].text == "Write a haiku."
    assert by_id["web_questions-2"].audio.is_file()
    assert len(load_questions(bench, n=1)) == 4


def test_what_is_wrong_with_a_folder_is_a_sentence(bench, tmp_path):
    with pytest.raises(ValueError, match=r"holds none of alpaca_eval.*eval_datas/NAME/NAME\.csv"):
        load_questions(tmp_path / "bench" / "eval_datas" / "trivia_qa")
    folder = bench / "eval_datas" / "trivia_qa"
    (folder / "audios" / "trivia_qa_1.wav").unlink()
    with pytest.raises(ValueError, match=r"trivia_qa\.csv, item 2: there is no recording"):
        load_questions(bench)
    path = folder / "trivia_qa.csv"
    path.write_text(path.read_text().replace("answer_normalized_aliases", "aliases"))
    with pytest.raises(ValueError, match="item 1: nothing in the column answer_normalized_aliases"):
        load_questions(bench)


def test_a_run_is_recounted_by_hand(bench, fake_model, tmp_path):
    fake_model.answer = ANSWER
    out = tmp_path / "r.json"
    report = evaluate(fake_model, load_questions(bench), instruments(), out, seed=3, settings={"model": "fake"})
    assert json.loads(out.read_text()) == json.loads(json.dumps(report))
    assert (report["n"], report["n_of_the_benchmark"], report["is_complete"]) == (9, 2499, False)
    sets = report["sets"]
    assert {name: sets[name]["n"] for name in SUBSETS} == dict(zip(SUBSETS, (2, 2, 2, 3), strict=True))
    # the text says "this voice has 440 hertz": "A voice" is not in it, "440 hertz" and "voice" are
    assert sets["llama_questions"]["s->t"]["mean"] == 0
    assert sets["trivia_qa"]["s->t"]["mean"] == 5.0
    assert sets["web_questions"]["s->t"]["mean"] == pytest.approx(10 / 3)
    # the ear misses the number
    assert sets["trivia_qa"]["s->s"]["mean"] == 0
    assert sets["web_questions"]["s->s"]["mean"] == pytest.approx(10 / 3)
    assert sets["alpaca_eval"]["s->t"] == {"mean": None, "ci95": None, "n": 0}
    low, high = sets["trivia_qa"]["s->t"]["ci95"]
    assert (low, high) == (0.0, 10.0)
    assert sets["trivia_qa"]["wer"]["deletions"] == 2
    assert sets["trivia_qa"]["wer"]["wer"] == pytest.approx(1 / 10)
    assert sets["alpaca_eval"]["utmos"]["mean"] == 4.0
    weighted, plain = (report["means"][how] for how in ("item_weighted", "simple"))
    assert weighted["right s->t"] == pytest.approx(100 * 2 / 7)
    assert plain["right s->t"] == pytest.approx((0 + 50 + 100 / 3) / 3)
    assert weighted["wer"] == pytest.approx(1 / 10)
    assert plain["wer"] == pytest.approx(1 / 10)
    assert weighted["utmos"] == 4.0
    assert report["judge"]["name"] == "exact match"
    assert {"machine", "date", "seed", "commit"} <= set(report)
    assert not list(tmp_path.glob("*.journal"))


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(bench, fake_model, server, tmp_path):
    fake_model.answer = ANSWER
    questions, outs = load_questions(bench), [tmp_path / "whole.json", tmp_path / "parts.json"]

    def judge():
        return ChatJudge(server.url, "stub", wait=lambda s: None)

    whole = evaluate(fake_model, questions, instruments(judge()), outs[0])
    with pytest.raises(KeyboardInterrupt):
        evaluate(fake_model, questions, instruments(judge(), Ear(lasts=4)), outs[1])
    assert not outs[1].exists()
    server.replies = [401]
    with pytest.raises(ValueError, match="run the same command again"):
        evaluate(fake_model, questions, instruments(judge()), outs[1])
    journal = outs[1].with_name("parts.json.journal")
    with journal.open("a") as file:
        file.write('{"id": "web_qu')  # cut by the power
    n_asked = len(fake_model.requests)
    parts = evaluate(fake_model, questions, instruments(judge()), outs[1])
    assert len(fake_model.requests) - n_asked == 5
    assert (whole["n_resumed"], parts["n_resumed"]) == (0, 4)
    same = ("n", "sets", "means", "cells", "judge")
    assert {key: parts[key] for key in same} == {key: whole[key] for key in same}
    assert parts["judge"]["served_as"] == ["stub-1"]
    assert parts["sets"]["alpaca_eval"]["s->s"]["mean"] == 7.0
    assert not journal.exists()


def test_a_journal_of_another_run_is_not_mixed_in(bench, fake_model, tmp_path):
    out = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(fake_model, load_questions(bench), instruments(ear=Ear(lasts=1)), out, settings={"model": "a"})
    with pytest.raises(ValueError, match=r"of a run with another items, model\. Choose another --out"):
        evaluate(fake_model, load_questions(bench, 1), instruments(), out, settings={"model": "b"})
    (tmp_path / "r.json.journal").write_text("{\n")
    with pytest.raises(ValueError, match="damaged"):
        evaluate(fake_model, load_questions(bench), instruments(), out)


def test_a_journal_knows_questions_that_changed_under_their_ids(bench, fake_model, tmp_path):
    out = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(fake_model, load_questions(bench), instruments(ear=Ear(lasts=1)), out)
    table = bench / "eval_datas" / "llama_questions" / "llama_questions.csv"
    table.write_text(table.read_text().replace("Lead", "Gold"))
    with pytest.raises(ValueError, match=r"of a run with another items\. "):
        evaluate(fake_model, load_questions(bench), instruments(), out)


def test_a_journal_keeps_what_other_lines_would_be_broken_at(tmp_path):
    rows = [{"id": str(i), "text": f"one{mark}two"} for i, mark in enumerate(("\u2028", "\u2029", "\x85", "\n"))]
    journal = Journal(tmp_path / "r.json", {"model": "a"})
    for row in rows:
        journal.add(row)
    assert Journal(tmp_path / "r.json", {"model": "a"}).rows == rows
    with journal.path.open("ab") as file:
        file.write('{"id": "é'.encode()[:-1])  # cut inside a letter
    assert Journal(tmp_path / "r.json", {"model": "a"}).rows == rows
    journal.path.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="damaged"):
        Journal(tmp_path / "r.json", {"model": "a"})


def test_text_alone_needs_no_ear(bench, fake_model, tmp_path):
    report = evaluate(fake_model, load_questions(bench), Instruments(ExactMatch()), tmp_path / "r.json")
    assert all(request["speech"] is False for request in fake_model.requests)
    assert report["sets"]["trivia_qa"]["wer"] is None
    assert report["sets"]["trivia_qa"]["s->s"]["n"] == 0
    assert set(report["means"]["simple"]) == {"right s->t"}


def test_a_silent_answer_is_heard_as_nothing(bench, fake_model, tmp_path):
    for path in (bench / "eval_datas" / "trivia_qa" / "audios").glob("*.wav"):
        path.rename(path.with_name("mute.wav"))
    table = bench / "eval_datas" / "trivia_qa" / "trivia_qa.csv"
    table.write_text(table.read_text().replace("trivia_qa_0.wav", "mute.wav").replace("trivia_qa_1.wav", "mute.wav"))
    questions = [q for q in load_questions(bench) if q.subset == "trivia_qa"]
    report = evaluate(fake_model, questions, instruments(), tmp_path / "r.json")
    assert report["sets"]["trivia_qa"]["wer"]["wer"] == 1.0
    assert report["sets"]["trivia_qa"]["utmos"]["n"] == 0


def test_a_complete_run_says_so():
    rows = [
        {"id": str(n), "set": name, "judged": {"text": 1.0}}
        for name, subset in SUBSETS.items()
        for n in range(subset.n)
    ]
    found = summary(rows)
    assert found["is_complete"]
    assert found["sets"]["llama_questions"]["s->t"]["mean"] == 100.0
    assert found["sets"]["web_questions"]["s->t"] == {"mean": 10.0, "ci95": (10.0, 10.0), "n": 1000}


def test_the_command(bench, server, tmp_path, monkeypatch, fake_model):
    fake_model.sample_rate_hz, fake_model.dtype, fake_model.kernel = 16_000, torch.float32, "packed"
    monkeypatch.setattr(vocalnet, "load", lambda name, **arguments: fake_model, raising=False)
    monkeypatch.setattr("vocalnet.metrics.asr.PocketSphinx", Ear)
    monkeypatch.setenv("JUDGE_KEY", "k")
    out = tmp_path / "r.json"
    shared = ["eval", "--set", "openaudiobench", "--out", out]
    asked = [
        *shared,
        "--data",
        bench,
        "--judge-url",
        server.url,
        "--judge-model",
        "stub",
        "--judge-key-env",
        "JUDGE_KEY",
    ]
    done = CliRunner().invoke(app, [str(word) for word in (*asked, "--json")])
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert "cells" not in printed
    assert printed["sets"]["alpaca_eval"]["s->t"]["mean"] == 7.0
    assert printed["sets"]["alpaca_eval"]["dnsmos_p808"]["n"] == 2
    assert (printed["asr"], printed["model"], printed["judge"]["name"]) == ("pocketsphinx", "nano", "stub")
    assert (printed["data"], printed["dtype"], printed["kernel"]) == (str(bench), "float32", "packed")
    assert server.requests[0][1]["Authorization"] == "Bearer k"
    for wrong, sentence in (
        ([], "--set openaudiobench needs --data"),
        (["--data", bench, "--judge-url", server.url], "--judge-url needs --judge-model"),
        (["--data", bench, "--utmos", bench / "no.pt"], "no UTMOS weights"),
    ):
        done = CliRunner().invoke(app, [str(word) for word in (*shared, *wrong)])
        assert done.exit_code == 2
        assert sentence in done.stderr
    text = CliRunner().invoke(app, [str(word) for word in (*shared, "--data", bench, "--text-only")])
    assert text.exit_code == 0, text.stderr
    assert "judged by exact match" in text.stderr
    assert not any("heard" in cell for cell in json.loads(out.read_text())["cells"])
