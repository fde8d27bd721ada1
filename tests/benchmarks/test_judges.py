"""Judges: what is asked of a server, what is made of its replies, and what needs no server."""

from __future__ import annotations

import datetime

import pytest

from vocalnet.benchmarks.judges import ChatJudge, ExactMatch


@pytest.fixture
def judge(server):
    """A judge that does not wait between its tries."""
    waited = []
    judge = ChatJudge(server.url, "stub", key="secret", wait=waited.append)
    judge.waited = waited
    return judge


def test_exact_match_finds_whole_words_after_normalisation():
    judge = ExactMatch()
    assert judge.is_right("?", ("four hundred and forty hertz",), "It has 440 Hertz.")
    assert judge.is_right("?", ("Rome", "the city of Paris"), "It is the City of Paris!")
    assert not judge.is_right("?", ("Paris",), "Parisian")
    assert not judge.is_right("?", ("Paris",), "")
    assert judge.rating("Write.", "Anything.") is None
    assert judge.describe() == {"name": "exact match", "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def test_a_server_is_asked_with_question_references_and_answer(judge, server):
    assert judge.is_right("What rings?", ("A voice", "a bell"), "A voice rings.")
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("stub", 0)
    prompt = body["messages"][0]["content"]
    assert all(words in prompt for words in ("What rings?", "A voice; a bell", "A voice rings."))
    assert not judge.is_right("Who?", ("Lear",), "Nobody.")
    assert judge.rating("Write.", "A haiku.") == 7.0
    described = judge.describe()
    assert (described["name"], described["served_as"]) == ("stub", ["stub-1"])
    assert described["date"] == datetime.datetime.now(datetime.UTC).date().isoformat()
    assert "{question}" in described["prompts"]["rating"]


def test_braces_in_an_answer_are_text(judge, server):
    judge.rating("Write {x}.", "{answer} {0}")
    assert "{answer} {0}" in server.requests[0][2]["messages"][0]["content"]


def test_what_may_pass_is_tried_again_and_what_cannot_is_not(judge, server):
    server.replies = [429, "no idea", "11", "Rating: 8.5"]
    assert judge.rating("Write.", "A haiku.") == 8.5
    assert judge.waited == [2.0, 4.0, 8.0]
    server.replies = [401]
    with pytest.raises(ValueError, match=r"HTTP 401 .*run the same command again"):
        judge.rating("Write.", "A haiku.")
    assert len(server.requests) == 5
    server.replies = [503] * 4
    with pytest.raises(ValueError, match="HTTP 503"):
        judge.rating("Write.", "A haiku.")


def test_an_empty_answer_is_not_sent(judge, server):
    assert judge.rating("Write.", " ") == 1.0
    assert judge.is_right("Who?", ("voice",), "") is False
    assert server.requests == []


def test_a_server_that_is_not_there_is_a_sentence():
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/v1 gave no verdict \(URLError"):
        ChatJudge("http://127.0.0.1:9/v1", "x", n_tries=2, wait=lambda s: None).rating("a", "b")
    with pytest.raises(ValueError, match="must begin with http"):
        ChatJudge("localhost:8000", "x")
