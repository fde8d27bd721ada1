"""Streaming: what is measured of it, many sessions of one model at once, and a minute in and out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import vocalnet
from demo.examples import EXAMPLES
from vocalnet import AudioChunk, DecodeOptions, Finished, TextDelta, VocoderOptions
from vocalnet.metrics.playback import playback
from vocalnet.streaming import measure

OPTIONS = DecodeOptions(tokens_per_step=3, max_tokens=60, min_tokens=50, mask="streaming")
CHEAP = VocoderOptions(n_steps=1, cfg_rate=0.0)


def chunk(t_s, audio_s):
    return AudioChunk(np.zeros(round(1000 * audio_s), np.float32), 1000, t_s)


def test_a_chunk_is_late_by_what_was_due_before_it():
    events = [TextDelta("a", 0.1), chunk(0.5, 1.0), chunk(1.2, 0.5), chunk(2.1, 0.5), chunk(2.4, 0.5)]
    assert playback(events).lateness_s == pytest.approx([0.0, -0.3, 0.1, -0.1])
    assert playback([TextDelta("a", 0.1)]).lateness_s == []


def test_questions_take_turns_and_only_the_first_answer_is_cold(tiny_model, question):
    other = (question[0][::-1].copy(), question[1])
    report = measure(tiny_model, {"a": question, "b": other}, 4, OPTIONS, {"sound": CHEAP})
    assert report["cold"]["question"] == "a"
    assert [run["question"] for run in report["runs"]] == ["b", "a", "b", "a"]
    firsts = sorted(run["first_audio_s"] for run in report["runs"])
    assert report["first_audio_s"] == report["first_audio"]["p50"] == pytest.approx((firsts[1] + firsts[2]) / 2)
    late_s = [seconds for run in report["runs"] for seconds in run["lateness_s"][1:]]  # the first is the clock's zero
    assert report["n_chunks"] == len(late_s) > 0
    assert report["n_late"] == sum(seconds > 0 for seconds in late_s)
    assert report["worst_lateness_s"] == max(late_s)
    for run in report["runs"]:
        assert 0 < sum(run["stages"].values()) <= run["first_audio_s"] <= run["total_s"]
    assert report["speech"]["sound"]["n_steps"] == 1


def test_an_answer_without_sound_cannot_be_timed(tiny_model, question):
    with pytest.raises(ValueError, match="The answer to a holds no sound"):
        measure(tiny_model, {"a": question}, 1, replace(OPTIONS, min_tokens=0, max_tokens=1))


def test_fifty_answers_of_eight_threads_are_those_of_one(tiny_model, question):
    """One model, sessions of several questions, speeds and masks at once, none of which hears another."""

    def ask(number):
        samples = np.roll(question[0], 997 * (number % 5))
        mask = ("streaming", "full")[number % 2]
        options = replace(OPTIONS, tokens_per_step=1 + number % 3, mask=mask, seed=number, temperature=number % 2)
        return tiny_model.respond(audio=(samples, question[1]), options=options, sound=CHEAP)

    alone = [ask(number) for number in range(10)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, [number % 10 for number in range(50)]))
    assert len({tuple(result.speech_tokens) for result in alone}) > 5
    for number, result in enumerate(together):
        expected = alone[number % 10]
        assert (result.text, result.speech_tokens) == (expected.text, expected.speech_tokens)
        assert np.array_equal(result.audio, expected.audio)


@pytest.fixture(scope="module")
def nano():
    return vocalnet.load("nano")


def test_interleaved_streams_of_nano_are_those_of_one(nano):
    """As the page runs them: an event of each in turn."""

    def asked(example):
        return nano.stream(audio=str(example.path), options=replace(OPTIONS, min_tokens=0), sound=CHEAP)

    alone = [list(asked(example))[-1].result for example in EXAMPLES[:3]]
    streams, results = [asked(example) for example in EXAMPLES[:3]], {}
    while len(results) < 3:
        for number, stream in enumerate(streams):
            event = next(stream, None)
            if isinstance(event, Finished):
                results[number] = event.result
    for number, expected in enumerate(alone):
        assert results[number].speech_tokens == expected.speech_tokens
        assert np.array_equal(results[number].audio, expected.audio)


def test_resynthesis_sounds_about_as_long_as_what_it_is_of(nano):
    samples = np.random.default_rng(0).standard_normal(24000).astype(np.float32) * 0.1
    again, rate_hz = nano.resynthesise(samples, 24000)
    assert (again.dtype, again.ndim, rate_hz) == (np.float32, 1, 16000)
    assert abs(len(again) - 16000) <= 640  # one speech token


def test_a_minute_in_is_heard_in_windows(nano):
    clip, rate_hz = _clip(EXAMPLES[0])
    minute = np.resize(clip, 60 * rate_hz)
    result = nano.respond(audio=(minute, rate_hz), speech=False)
    assert any("60.0 s long; it was heard in windows" in warning for warning in result.warnings)


@pytest.mark.parametrize(("size", "mask"), [("nano", "streaming"), ("tiny", "full")])
def test_a_minute_out(nano, tiny_model, size, mask):
    model = nano if size == "nano" else tiny_model
    options = DecodeOptions(tokens_per_step=min(5, model.max_tokens_per_step), min_tokens=1500, mask=mask)
    sound = VocoderOptions(n_steps=1, cfg_rate=0.0, chunk=50)
    result = model.respond(text="What is the capital of France?", options=options, sound=sound)
    assert len(result.stats) >= 1500
    assert len(result.audio) == 640 * len(result.speech_tokens)
    assert len(result.audio) >= 50 * model.sample_rate_hz  # a special token among the 1500 is no sound
    assert np.isfinite(result.audio).all()


def _clip(example):
    import soundfile

    return soundfile.read(example.path, dtype="float32")
