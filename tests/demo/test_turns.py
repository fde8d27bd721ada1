"""Jobs take turns with the device, one that measures has it alone, and all of them end when the server does."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import gradio as gr
import pytest

from demo import answering, turns
from demo.answering import arrivals
from demo.player import Turn
from demo.recorded import recorded_runs
from demo.tabs.streaming import replayed
from demo.turns import CLOSING, Turns, live
from vocalnet.events import Finished, Result, TextDelta


@pytest.fixture(autouse=True)
def own_turns(monkeypatch):
    """Turns of this test alone."""
    own = Turns()
    monkeypatch.setattr(answering, "TURNS", own)
    monkeypatch.setattr(turns, "TURNS", own)
    return own


def job(name, said, n=20, pause_s=0.005):
    """A generator that notes when it computes, and whether another one does meanwhile."""

    def make():
        for _ in range(n):
            said.append(name)
            time.sleep(pause_s)
            said.append(name)
            yield name

    return make


def run(*jobs):
    """Draws generators from `arrivals` to their ends, each in a thread of its own."""
    threads = [threading.Thread(target=lambda views=views: list(views)) for views in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def test_the_longest_waiting_is_next(own_turns):
    order = []

    def take(number):
        with own_turns.turn():
            order.append(number)

    with own_turns.turn():
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while own_turns._n_asked < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_two_answers_take_turns_and_never_compute_at_once():
    said = []
    run(arrivals(job("a", said)), arrivals(job("b", said)))
    pairs = list(zip(said[::2], said[1::2], strict=True))
    assert all(begun == ended for begun, ended in pairs)
    changes = sum(first != second for (first, _), (second, _) in itertools.pairwise(pairs))
    assert changes > 20  # of at most 39


def test_what_measures_is_not_interrupted():
    said = []
    run(arrivals(job("a", said)), arrivals(job("lab", said), is_alone=True), arrivals(job("b", said)))
    first, last = said.index("lab"), len(said) - said[::-1].index("lab")
    assert set(said[first:last]) == {"lab"}
    assert said.count("a") == said.count("b") == 40


def test_what_is_no_work_of_the_model_keeps_nobody_waiting():
    said = []
    run(arrivals(job("replay", said, n=4, pause_s=0.2), has_model=False), arrivals(job("a", said)))
    assert said.index("a") < len(said) - 1 - said[::-1].index("replay")
    assert len(said) == 48


def test_an_answer_has_a_limit_of_time(monkeypatch):
    monkeypatch.setattr(answering, "MAX_ANSWER_S", 0.3)
    with pytest.raises(ValueError, match="took longer than 5 minutes"):
        list(arrivals(job("a", [], n=10**6)))
    assert len(list(arrivals(job("a", [], n=50, pause_s=0.01), is_alone=True))) > 1  # a lab takes its time


def test_a_job_that_waits_too_long_never_begins(own_turns, monkeypatch):
    monkeypatch.setattr(answering, "MAX_ANSWER_S", 0.3)
    said = []
    with own_turns.turn(), pytest.raises(ValueError, match=r"The model was busy for 5 minutes\. Ask again later\."):
        list(arrivals(job("a", said)))
    with own_turns.turn():
        views = arrivals(job("lab", said), is_alone=True)
        assert next(views) == []
        views.close()
    assert own_turns.close(10.0)
    assert said == []


def test_nothing_comes_after_the_end_of_an_answer(own_turns):
    """Also where the worker has to wait for another turn before it knows that there is no more."""
    finished = Finished(Result("", None, 16_000, [], [], {}), 0.0)

    def answer():
        yield finished
        time.sleep(3 * answering.TICK_S)

    assert list(arrivals(answer))[-1] == [finished]


def test_a_replay_that_nobody_watches_ends(own_turns):
    """Also while it waits for an event that comes in an hour."""
    run = replace(recorded_runs()[0], events=(TextDelta("a", 0.0), TextDelta("b", 3600.0)))
    views = replayed(Turn(1, "", "", "", 16_000), run, gr.HTML(), gr.HTML())
    assert [next(views) for _ in range(3)]
    assert own_turns.n_jobs == 1
    views.close()
    assert own_turns.close(10.0)


def test_closing_ends_all_jobs(own_turns):
    errors = []

    def draw():
        try:
            list(arrivals(job("a", [], n=10**6)))
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    while own_turns.n_jobs < 3:
        time.sleep(0.01)
    assert own_turns.close(10.0)
    for thread in threads:
        thread.join(10)
    assert errors == [CLOSING] * 3
    assert live()["jobs"] == 0


def test_sessions_and_answers_in_memory_are_counted(tiny_model):
    before = live()
    stream = tiny_model.stream(text="Hi", speech=False)
    next(stream)
    during = live()
    assert (during["sessions"], during["answers"]) == (before["sessions"] + 1, before["answers"] + 1)
    stream.close()
    del stream
    assert live() == before
