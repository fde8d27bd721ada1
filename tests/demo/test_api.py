"""The public endpoints, called as users' scripts call them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import ANSWER, SAMPLE_RATE_HZ, tone
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from demo.answering import UNEXPECTED
from demo.examples import EXAMPLES

CLIP = str(EXAMPLES[0].path)
DECODING = ("decoder", "tokens_per_step", "policy", "temperature", "seed")
SPEAKING = ("voice", "text_chunk", "speech_chunk", "flow_steps", "flow_chunk")
HEALTH_KEYS = {"status", "model", "device", "load_s", "warmup_s"}


@pytest.fixture(scope="module")
def client(served):
    return Client(served.url, verbose=False)


@pytest.fixture
def clip_of(tmp_path):
    def write(samples, name="clip.wav"):
        soundfile.write(tmp_path / name, samples, SAMPLE_RATE_HZ)
        return tmp_path / name

    return write


def test_exactly_the_documented_endpoints_are_public(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    parameters = {name: [p["parameter_name"] for p in info["parameters"]] for name, info in endpoints.items()}
    assert parameters == {
        "/speech_to_text": ["audio", "prompt"],
        "/speech_to_speech": ["audio", *DECODING],
        "/speedup_lab": [
            "questions",
            "decoders",
            "tokens_per_step",
            "policies",
            "rounds",
            "seed",
            "mask",
            "is_judged",
            "temperature",
            "top_n",
            "alpha",
            "eps",
            "tau",
        ],
        "/stream": ["audio", *DECODING, "text", *SPEAKING],
        "/token_stats": ["run_file"],
        "/latency": ["audio", "rounds", *DECODING],
        "/attention": ["audio", "decoder", "mask"],
        "/health": [],
    }


def test_speech_to_text(client):
    answer = client.predict(handle_file(CLIP), api_name="/speech_to_text")
    assert set(answer) == {"text", "timings", "warnings"}
    assert answer["text"] == ANSWER
    assert answer["timings"]["first_text"] == 0.08


def test_the_prompt_reaches_the_model(client, served):
    client.predict(handle_file(CLIP), "in one word", api_name="/speech_to_text")
    assert served.model.requests[-1]["prompt"] == "in one word"
    assert served.model.requests[-1]["speech"] is False


def test_speech_to_speech(client, served):
    wav, answer = client.predict(handle_file(CLIP), "mtp_vocalnet", 2, "fixed", 0.5, 7, api_name="/speech_to_speech")
    assert set(answer) == {"text", "speech_tokens", "timings", "stats", "warnings"}
    assert len(answer["speech_tokens"]) == len(answer["stats"]) == 40
    assert set(answer["stats"][0]) == {"head", "entropy", "max_prob", "logprob", "kept"}
    assert soundfile.info(wav).subtype == "PCM_16"
    samples, rate_hz = soundfile.read(wav, dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    np.testing.assert_allclose(samples, tone(1.6), atol=2e-3)  # not rescaled to full volume
    options = served.model.requests[-1]["options"]
    assert (options.tokens_per_step, options.policy, options.temperature, options.seed) == (2, "fixed", 0.5, 7)


def test_another_decoder_answers(client):
    _, answer = client.predict(handle_file(CLIP), "ntp", 1, "fixed", 0.0, 0, api_name="/speech_to_speech")
    assert answer["text"] == ANSWER
    with pytest.raises(AppError, match="this talker takes 1"):
        client.predict(handle_file(CLIP), "ntp", 3, "fixed", 0.0, 0, api_name="/speech_to_speech")


def test_stream(client, served):
    job = client.submit(handle_file(CLIP), "mtp_vocalnet", 2, "fixed", 0.0, 0, api_name="/stream")
    *_, (last, wav) = [(event, wav) for event, wav in job]
    assert (last["type"], last["text"], len(last["speech_tokens"])) == ("Finished", ANSWER, 40)
    kinds = {event["type"] for event, _ in job.outputs()}
    assert kinds == {"TextDelta", "SpeechTokens", "AudioChunk", "Timings", "Finished"}
    samples, rate_hz = soundfile.read(wav, dtype="float32")
    assert rate_hz == SAMPLE_RATE_HZ
    np.testing.assert_allclose(samples, tone(1.6), atol=2e-3)
    assert served.model.requests[-1]["options"].mask == "streaming"


def test_stream_takes_text_voice_chunks_and_flow(client, served):
    chosen = {"voice": "low", "text_chunk": 2, "speech_chunk": 7, "flow_steps": 3, "flow_chunk": 9}
    last, _ = client.predict(text="Why?", tokens_per_step=2, **chosen, api_name="/stream")
    assert last["text"] == ANSWER
    asked = served.model.requests[-1]
    assert (asked["audio"], asked["text"], asked["voice"]) == (None, "Why?", "low")
    assert (asked["options"].text_chunk, asked["options"].speech_chunk, asked["options"].mask) == (2, 7, "streaming")
    assert (asked["sound"].n_steps, asked["sound"].chunk) == (3, 9)
    client.predict(text="Why?", api_name="/stream")
    asked = served.model.requests[-1]
    assert (asked["voice"], asked["sound"], asked["options"].text_chunk) == (None, None, None)


def test_stream_refuses_what_is_no_question_in_a_sentence(client):
    for wrong, words in (({}, "one question"), ({"text": "a" * 2001}, "longer than 2000 characters")):
        with pytest.raises(AppError, match=words):
            client.predict(**wrong, api_name="/stream")
    with pytest.raises(AppError, match=r"text_chunk must be at least 1|minimum"):
        client.predict(text="Why?", text_chunk=0, api_name="/stream")


def test_latency(client):
    found, waterfall, playback = client.predict(
        handle_file(CLIP), 2, "mtp_vocalnet", 2, "fixed", 0.0, 0, api_name="/latency"
    )
    assert found["stages"]["sum"]["p50"] == 0.12
    assert (len(found["answers"]), found["decoder"], found["options"]["mask"]) == (2, "mtp_vocalnet", "streaming")
    assert {"machine", "date", "seed", "commit"} < set(found)
    for image in (waterfall, playback):
        assert Path(image).read_bytes().startswith(b"\x89PNG")


def test_speedup_lab(client, tmp_path):
    job = client.submit(
        [handle_file(CLIP)], ["mtp_vocalnet", "ntp"], [1, 3], ["fixed"], 2, 0, "full", True, api_name="/speedup_lab"
    )
    last, archive = job.result(timeout=120)
    assert [(row["decoder"], row["tokens_per_step"]) for row in last["rows"]] == [
        ("mtp_vocalnet", 1),
        ("mtp_vocalnet", 3),
        ("ntp", 1),
    ]
    assert [row["rounds"] for row in last["rows"]] == [2, 2, 2]
    assert {row["wer_percent"] for row in last["rows"]} == {10.0}
    assert last["questions"] == [{"words": EXAMPLES[0].text, "answer": ANSWER}]
    assert [row["cell"] for row in last["refused"]] == ["ntp 3"]
    with zipfile.ZipFile(archive) as files:
        names = files.namelist()
        files.extract("runs/mtp_vocalnet-3-question-1.zip", tmp_path)
    assert {"table.csv", "table.json", "speedups.png", "pareto.png"} < set(names)
    statistics, image, table = client.predict(
        handle_file(tmp_path / "runs/mtp_vocalnet-3-question-1.zip"), api_name="/token_stats"
    )
    assert (statistics["run"]["decoder"], statistics["summary"]["n_kept"]) == ("mtp_vocalnet", 40)
    assert [len(token["candidates"]) for token in statistics["tokens"]] == [10] * 40
    assert Path(image).read_bytes().startswith(b"\x89PNG")
    assert len(Path(table).read_text().splitlines()) == 41


def test_a_lab_draws_at_the_temperature_that_is_asked_for(client):
    one = ([handle_file(CLIP)], ["mtp_vocalnet"], [3], ["fixed"], 1, 0, "full", False)
    drawn, archive = client.predict(*one, 0.8, api_name="/speedup_lab")
    greedy, _ = client.predict(*one, api_name="/speedup_lab")
    assert (drawn["temperatures"], greedy["temperatures"]) == ([0.8], [0.0])
    with zipfile.ZipFile(archive) as files:
        assert "runs/mtp_vocalnet-3-T=0.8-question-1.zip" in files.namelist()


def test_a_lab_tunes_its_policies(client):
    how = ([handle_file(CLIP)], ["mtp_vocalnet"], [3], ["typical", "confidence", "top_n"], 1, 0, "full", False, 0.0)
    own, _ = client.predict(*how, api_name="/speedup_lab")
    tuned, _ = client.predict(*how, 2, 1.0, 0.3, 0.7, api_name="/speedup_lab")
    assert [row["policy"] for row in own["rows"]] == ["typical=0.3 eps=0.09", "confidence=0.5", "top_n=5"]
    assert [row["policy"] for row in tuned["rows"]] == ["typical=1 eps=0.3", "confidence=0.7", "top_n=2"]
    with pytest.raises(AppError, match="field tau holds no number"):
        client.predict(*how, 2, 1.0, 0.3, None, api_name="/speedup_lab")


def test_a_lab_that_cannot_be_run_is_refused_in_a_sentence(client, tmp_path):
    ask = [handle_file(CLIP)]
    for wrong, words in (
        (([], ["ntp"], [1], ["fixed"], 1), "at least one question"),
        ((ask, [], [1], ["fixed"], 1), "at least one decoder"),
        ((ask, ["ntp"], [3], ["fixed"], 1), "cannot run any of these cells"),
        ((ask, ["ntp", "mtp_vocalnet"], [1, 2, 3, 4, 5], ["fixed", "greedy_verify"], 1), "20 cells; 16 are the most"),
        ((ask * 9, ["mtp_vocalnet"], [1, 2, 3], ["fixed"], 10), "270 answers; 240 are the most"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(*wrong, 0, "full", False, api_name="/speedup_lab")
    for name, wrong in (
        ("/speedup_lab", (ask, ["ntp"], [1], ["fixed"], 1, None, "full", False)),
        ("/latency", (ask[0], 1, "ntp", 1, "fixed", 0.0, None)),
    ):
        with pytest.raises(AppError, match="Seed is empty"):
            client.predict(*wrong, api_name=name)
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    with pytest.raises(AppError, match="cannot be read as audio"):
        client.predict([handle_file(text)], ["ntp"], [1], ["fixed"], 1, 0, "full", False, api_name="/speedup_lab")


def test_a_file_that_is_no_run_is_refused_in_a_sentence(client, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as files:
        files.writestr("something.txt", "else")
    with pytest.raises(AppError, match=r"other.zip is not a run: it holds something.txt"):
        client.predict(handle_file(tmp_path / "other.zip"), api_name="/token_stats")


def test_health_is_the_same_by_both_ways(client, served):
    with urllib.request.urlopen(f"{served.url}health") as response:
        by_get = json.load(response)
    assert by_get == client.predict(api_name="/health")
    assert set(by_get) == HEALTH_KEYS
    assert by_get["status"] == "ok"
    assert by_get["load_s"] == 1.5
    assert by_get["warmup_s"] > 0


def test_monitoring_is_closed(served):
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{served.url}monitoring")


def test_bad_clips_are_refused_in_a_sentence(client, clip_of, tmp_path):
    text_file = tmp_path / "text.wav"
    text_file.write_text("not audio")
    empty = tmp_path / "empty.wav"
    empty.touch()
    cases: dict[Path, str] = {
        text_file: "cannot be read as audio",
        empty: "cannot be read as audio",
        clip_of(tone(0.05), "short.wav"): "too short",
        clip_of(np.zeros(SAMPLE_RATE_HZ), "silence.wav"): "silent",
        clip_of(np.zeros(301 * SAMPLE_RATE_HZ, np.int16), "long.wav"): "too long",
    }
    for path, words in cases.items():
        with pytest.raises(AppError, match=words) as caught:
            client.predict(handle_file(path), api_name="/speech_to_text")
        assert str(caught.value).endswith("."), path


def test_bad_settings_are_refused_in_a_sentence(client):
    with pytest.raises(AppError, match="nonsense"):
        client.predict(handle_file(CLIP), "nonsense", 1, "fixed", 0.0, 0, api_name="/speech_to_speech")
    with pytest.raises(AppError, match="greater than maximum"):
        client.predict(handle_file(CLIP), "ntp", 99, "fixed", 0.0, 0, api_name="/speech_to_speech")


def test_an_unexpected_error_shows_nothing_of_the_server(client):
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(CLIP), "crash", api_name="/speech_to_text")
    assert str(caught.value) == UNEXPECTED


def test_a_full_queue_says_so(client, served):
    jobs = [client.submit(handle_file(CLIP), "slowly", api_name="/speech_to_text") for _ in range(24)]
    refused = next(as_completed([job.future for job in jobs], timeout=15))
    for job in jobs:
        job.cancel()
    assert "Queue is full" in str(refused.exception())
    assert client.predict(handle_file(CLIP), api_name="/speech_to_text")["text"] == ANSWER  # the line is empty again
