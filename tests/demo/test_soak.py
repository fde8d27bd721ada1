"""The soak: every outcome is told apart, and every bar can be missed."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from fakes import ANSWER
from gradio_client import Client

from demo import soak
from demo.soak import Visitors, bad_requests, bars, essence, good_requests, memory

GOOD = {
    "outcomes": {"equal": 5, "refused": 2, "cancelled": 3, "busy": 1},
    "memory": {"settled_mb": 100.0, "end_mb": 104.0},
    "live": {"jobs": 0, "sessions": 0, "answers": 0, "visits": 0},
    "temporary_files": {"at_rest": 0, "after_the_end": 0},
    "exit_code": 0,
}


def test_a_good_soak_meets_all_bars():
    assert all(bars(GOOD).values())


@pytest.mark.parametrize(
    ("changes", "bar"),
    [
        ({"exit_code": None}, "no crash"),
        ({"exit_code": 1}, "no crash"),
        ({"outcomes": {"equal": 5, "different": 1}}, "answers as to a single client"),
        ({"outcomes": {"refused": 5}}, "answers as to a single client"),
        ({"outcomes": {"equal": 5, "lost": 1}}, "none lost"),
        ({"outcomes": {"equal": 5, "accepted": 1}}, "bad requests refused"),
        ({"memory": {"settled_mb": 100.0, "end_mb": 106.0}}, "memory"),
        ({"memory": {"settled_mb": None, "end_mb": None}}, "memory"),
        ({"live": {"jobs": 0, "sessions": 1}}, "nothing alive"),
        ({"live": None}, "nothing alive"),
        ({"temporary_files": {"at_rest": 1, "after_the_end": 0}}, "no temporary files"),
        ({"temporary_files": {"at_rest": 0, "after_the_end": 1}}, "no temporary files"),
    ],
)
def test_every_bar_can_be_missed(changes, bar):
    assert [name for name, is_met in bars({**GOOD, **changes}).items() if not is_met] == [bar]


def test_memory_is_of_a_minute_after_five_and_at_the_end():
    samples = [(float(at), 500.0 if at < 300 else 600.0 if at < 360 else 630.0) for at in range(0, 1800, 2)]
    found = memory(samples, 1800)
    assert (found["settled_after_s"], found["settled_mb"], found["end_mb"]) == (300, 600.0, 630.0)
    short = memory(samples[:30], 60)
    assert (short["settled_after_s"], short["settled_mb"], short["end_mb"]) == (30, 500.0, 500.0)


def test_outcomes_are_told_apart(served, tmp_path):
    client, draws = Client(served.url, verbose=False, download_files=tmp_path), random.Random(0)
    (to_text, to_speech, streamed) = (good_requests("mtp_vocalnet")[n] for n in (0, 2, -1))
    right = (ANSWER, ())
    visitors = Visitors(served.url, {to_text: right}, bad_requests("mtp_vocalnet", tmp_path))
    assert visitors.ask_good(client, draws) == ("equal", "")
    visitors.expected = {to_speech: right}  # which says speech tokens, too
    assert visitors.ask_good(client, draws)[0] == "different"
    visitors.expected = {("/nowhere", to_text[1]): right}
    assert visitors.ask_good(client, draws)[0] == "lost"
    for request in visitors.bad:
        visitors.bad = [request]
        assert visitors.ask_bad(client, draws) == ("refused", "")
    visitors.bad = [to_text]
    assert visitors.ask_bad(client, draws)[0] == "accepted"
    visitors.bad = [("/speech_to_text", (to_text[1][0], "crash"))]  # which ends in no sentence of its own
    assert visitors.ask_bad(client, draws)[0] == "lost"
    visitors.expected = {streamed: essence(soak.ask(client, streamed))}
    assert visitors.ask_good(client, draws) == ("equal", "")
    assert visitors.ask_cancelled(client, draws) == ("cancelled", "")


def test_visitors_ask_until_it_is_over(served, tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "KINDS", ("good",))
    request = good_requests("mtp_vocalnet")[0]
    visitors = Visitors(served.url, {request: (ANSWER, ())}, [])
    end_s = time.monotonic() + 2
    threads = [
        threading.Thread(target=visitors.visit, args=(n, lambda: time.monotonic() > end_s, tmp_path)) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(visitors.counts) == {"equal"}
    assert visitors.odd == []


def test_temporary_files_are_those_outside_the_cache(tmp_path):
    for name in ("page/gradio/ab/clip.wav", "page/question.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert soak.temporary_files(tmp_path) == [tmp_path / "page/question.wav"]


def test_what_is_no_answer_is_an_error():
    with pytest.raises(ValueError, match="no answer"):
        essence((None, Path("a.wav")))
