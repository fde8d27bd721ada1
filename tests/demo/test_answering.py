"""Snapshots of an event stream: fold, pace, cancellation, errors."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import ANSWER, FakeModel

from demo.answering import TICK_S, UNEXPECTED, explain, snapshots, to_int16
from demo.examples import EXAMPLES
from vocalnet import TextDelta

CLIP = str(EXAMPLES[0].path)


def test_the_last_snapshot_is_the_whole_answer():
    *_, last = snapshots(FakeModel(), audio=CLIP)
    assert last.text == ANSWER
    assert last.n_text == len(ANSWER.split())
    assert last.n_speech == 40
    assert last.audio_s == pytest.approx(1.6)
    assert last.finished.result.speech_tokens == list(range(40))


def test_text_only_grows():
    texts = [snapshot.text for snapshot in snapshots(FakeModel(), audio=CLIP)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_a_silent_model_does_not_silence_the_page():
    go_on, end = threading.Event(), threading.Event()

    def stuck(**request):
        go_on.wait(10)
        yield TextDelta("late", 0.0)
        end.wait(10)

    waiting = snapshots(SimpleNamespace(stream=stuck))
    assert [next(waiting).text for _ in range(3)] == ["", "", ""]
    go_on.set()
    assert any(next(waiting).text == "late" for _ in range(20))
    waiting.close()
    end.set()


def test_closing_the_snapshots_closes_the_stream():
    model = FakeModel()
    answer = snapshots(model, audio=CLIP, prompt="slowly")
    next(answer)
    answer.close()
    deadline_s = time.monotonic() + 20 * TICK_S
    while model.n_closed == 0 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert (model.n_opened, model.n_closed) == (1, 1)


def test_errors_of_the_stream_are_raised_here():
    with pytest.raises(RuntimeError, match="secret"):
        list(snapshots(FakeModel(), audio=CLIP, prompt="crash"))


def test_a_stream_without_an_end_is_an_error():
    def cut_short(**request):
        yield TextDelta("x", 0.0)

    with pytest.raises(RuntimeError, match="Finished"):
        list(snapshots(SimpleNamespace(stream=cut_short)))


def test_only_sentences_for_users_are_shown(caplog):
    assert explain(ValueError("Speak up.")) == "Speak up."
    assert explain(RuntimeError("/secret")) == UNEXPECTED
    assert "/secret" in caplog.text


def test_int16_keeps_the_level_and_clips():
    np.testing.assert_array_equal(to_int16(np.array([0.0, 0.5, 2.0, -2.0])), [0, 16383, 32767, -32767])
