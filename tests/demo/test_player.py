"""What the player is sent, what it sends back, and what the tabs Latency and Attention draw."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import soundfile
import torch
from fakes import ANSWER, CHUNK_S, SAMPLE_RATE_HZ, FakeModel, tone

from demo import plots, render
from demo.attention_view import heads_value, masks_value
from demo.examples import EXAMPLES
from demo.player import MAX_WAV_BYTES, Turn, pcm_text, read_question
from demo.recorded import recorded_runs
from demo.state import App
from demo.tabs import latency, streaming
from demo.visits import Visit
from vocalnet import DecodeOptions, Finished
from vocalnet.attention import BEGIN, END, AnswerAttention
from vocalnet.decoder.attention import Attention
from vocalnet.metrics.playback import playback

PATHS = [example.path for example in EXAMPLES]


@pytest.fixture(scope="module")
def events():
    """An answer of the fake model, with what a real one says of its first audio."""
    return list(FakeModel().stream(text="pace 0", options=DecodeOptions(mask="streaming")))


def test_a_question_is_read(tmp_path):
    assert read_question({"id": "a", "example": 1}, tmp_path, PATHS) == {"audio": str(PATHS[1])}
    assert read_question({"id": "a", "text": " Why? "}, tmp_path, PATHS) == {"text": "Why?"}
    wav = io.BytesIO()
    soundfile.write(wav, tone(0.5), SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    sent = {"id": "a", "wav": base64.b64encode(wav.getvalue()).decode()}
    samples, rate_hz = soundfile.read(read_question(sent, tmp_path, PATHS)["audio"], dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    np.testing.assert_allclose(samples, tone(0.5), atol=1e-3)


TOO_LONG = "A" * (MAX_WAV_BYTES + 1)


@pytest.mark.parametrize("words", ["a" * 2001, "word " * 500])
def test_too_many_words_are_refused(tmp_path, words):
    with pytest.raises(ValueError, match="longer than 2000 characters"):
        read_question({"id": "a", "text": words}, tmp_path, PATHS)
    assert read_question({"id": "a", "text": "a" * 2000}, tmp_path, PATHS)


NO_QUESTIONS = (None, "x", {}, {"example": 99}, {"example": -1}, {"text": " "}, {"wav": 3}, {"wav": TOO_LONG})


@pytest.mark.parametrize("sent", NO_QUESTIONS, ids=range(len(NO_QUESTIONS)))
def test_what_is_no_question_is_refused(tmp_path, sent):
    with pytest.raises(ValueError, match="There is no question"):
        read_question(sent, tmp_path, PATHS)


def test_a_damaged_recording_is_refused(tmp_path):
    with pytest.raises(ValueError, match="damaged"):
        read_question({"wav": "no base64!"}, tmp_path, PATHS)


def test_a_turn_holds_text_sound_and_times(events):
    turn = Turn(3, "a", "Why?", "", SAMPLE_RATE_HZ)
    assert turn.value()["chunks"] == []
    turn.take(events[:-1])
    assert (turn.text, turn.result, turn.stage) == (ANSWER, None, "Speaking")
    sound = b"".join(base64.b64decode(chunk) for chunk in turn.value()["chunks"])
    np.testing.assert_allclose(np.frombuffer(sound, "<i2") / 32767, tone(12 * CHUNK_S), atol=1e-3)
    assert [name for name, *_ in turn.chips] == ["first text", "first audio"]
    turn.take(events[-1:])
    assert turn.chips[-1][:2] == ("RTF", f"{0.16 / (12 * CHUNK_S):.2f}")
    last = turn.ended()
    assert (last["isDone"], last["problem"], len(last["chunks"])) == (True, False, 12)


def test_another_decoder_goes_on_with_the_conversation():
    app, visit = App("fake", FakeModel(), load_s=0.0), Visit()
    _, first = streaming._conversation(app, visit, "mtp_vocalnet")
    model, second = streaming._conversation(app, visit, "ntp")
    assert second is first
    assert second.model is model
    assert model.decoders[0] == "ntp"


def test_events_for_programs(events):
    lines = [streaming.event_json(event) for event in events]
    assert lines[0] == {"type": "TextDelta", "t_s": events[0].t_s, "text": "You", "stages": {}}
    sound = next(line for line in lines if line["type"] == "AudioChunk")
    assert sound["pcm16_base64"] == pcm_text(tone(CHUNK_S))
    assert sound["sample_rate_hz"] == SAMPLE_RATE_HZ
    assert lines[-1]["text"] == ANSWER
    assert "audio" not in lines[-1]


def test_measured_answers(events, tmp_path):
    found = latency.measured([events, events], events, {"model": "fake"})
    assert found["model"] == "fake"
    assert found["stages"]["sum"] == {"n": 2, "mean": 0.12, "p50": 0.12, "p90": 0.12, "p99": 0.12, "cold": 0.12}
    assert [row["chunks"] for row in found["answers"]] == [12, 12]
    paths = latency.write_files(found, [events], tmp_path)
    assert len(paths["latency.csv"].read_text().splitlines()) == 3
    assert paths["waterfall.png"].read_bytes().startswith(b"\x89PNG")


def test_a_waterfall_starts_each_stage_where_the_last_ended():
    numbers = {"audio": 0.0, "encoder": 0.1, "llm": 0.2, "talker": 0.3, "vocoder": 0.4, "other": 0.0, "sum": 1.0}
    stages = {name: {"n": 2, "p50": value, "p90": 2 * value, "cold": None} for name, value in numbers.items()}
    (axes,) = plots.waterfall(stages, latency.LABELS).axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    starts = [0, 0, 100, 300, 600, 1000, 0]
    np.testing.assert_allclose(bars, list(zip(starts, [1000 * v for v in numbers.values()], strict=True)), atol=1e-9)
    assert {label.get_text() for label in axes.get_yticklabels()} == {
        *render.STAGES.values(),
        "Everything else",
        "First audio",
    }


def test_playback_is_drawn(events):
    (axes,) = plots.playback(playback(events)).axes
    produced, played = axes.lines
    assert produced.get_ydata()[-1] == pytest.approx(12 * CHUNK_S)
    assert played.get_ydata()[-1] == pytest.approx(12 * CHUNK_S)
    assert plots.playback(playback([])).axes


def test_masks_of_figure_two():
    found = masks_value(n_text=4, n_speech=4, text_chunk=1, speech_chunk=2, rule="own")
    full, streamed = (mask["rows"] for mask in found["masks"])
    assert full == ["11110000"] * 4 + ["11111000", "11111100", "11111110", "11111111"]
    assert streamed[:4] == ["10000000", "11000000", "11100000", "11110000"]
    assert streamed[4:] == ["11001000", "11001100", "11101110", "11101111"]


@pytest.fixture
def seen():
    """Attention of two layers and a head over begin, one word and end."""
    weights = torch.zeros(2, 1, 4, 7)
    weights[..., 0] = 1.0
    visible = torch.ones(4, 7, dtype=torch.bool)
    visible[0, 2] = False
    return AnswerAttention((BEGIN, "word", END), Attention(weights, visible, 3, 1), np.array([[0.5], [0.25]]))


def test_the_attention_is_sent_as_it_is(seen):
    value = heads_value(seen)
    weights = np.frombuffer(base64.b64decode(value["weights"]), "<f4").reshape(2, 1, 4, 3)
    assert (weights[..., 0] == 1).all()
    assert (weights[..., 1:] == 0).all()
    visible = np.frombuffer(base64.b64decode(value["visible"]), np.uint8).reshape(4, 3)
    assert visible.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert (value["scores"], value["chance"]) == ([[0.5], [0.25]], 0.5)
    assert [axes.get_title() for axes in plots.heads(seen).axes] == ["1.1: 0.50", "2.1: 0.25"]


def test_the_shipped_runs_can_be_replayed():
    found = recorded_runs()
    assert len(found) == 2
    for run in found:
        assert run.question in {example.text for example in EXAMPLES}
        assert run.options.mask == "streaming"
        assert isinstance(run.events[-1], Finished)
        assert latency.measured([run.events], (), {})["stages"]["sum"]["p50"] > 0
