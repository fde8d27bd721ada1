"""The command line: what scripts read from it, and how it refuses bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import vocalnet
from vocalnet.__main__ import app
from vocalnet.vocoder.options import VocoderOptions

GENERATING = ("s2t", "s2s", "stream", "eval")


@pytest.fixture
def loads(monkeypatch, fake_model):
    """Replaces `vocalnet.load` by the fake model; returns the list of its calls."""
    calls = []

    def load(name, **arguments):
        calls.append((name, arguments))
        if name == "nowhere":
            raise ValueError("There is no checkpoint 'nowhere'. Give 'nano', a folder or a hub id.")
        return fake_model

    monkeypatch.setattr(vocalnet, "load", load, raising=False)
    return calls


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "q.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(16000) / 10), 16000)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


N_SAMPLES = 25_600  # of the fake model's voice


def last_json(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_s2t(loads, fake_model, question):
    result = run("s2t", "--audio", question, "--json")
    assert set(last_json(result)) == {"text", "timings", "warnings"}
    assert last_json(result)["text"] == fake_model.answer
    assert fake_model.requests[0]["speech"] is False
    assert "Warning: This answer comes from a test tone." in result.stderr
    assert run("s2t", "--audio", question).stdout == fake_model.answer + "\n"


def test_s2s(loads, question, tmp_path):
    record = last_json(run("s2s", "--audio", question, "--out", tmp_path / "a.wav", "--json"))
    keys = {"text", "audio", "sample_rate_hz", "speech_tokens", "timings", "stats", "acceptance", "warnings"}
    assert set(record) == keys
    assert record["acceptance"]["by_head"] == [1.0] * 3
    assert record["acceptance"]["tokens_per_step"] == pytest.approx(40 / 16)
    assert record["audio"] == str(tmp_path / "a.wav")
    assert record["stats"][2] == {"head": 2, "entropy": 1.0, "max_prob": 0.5, "logprob": -0.7, "kept": True}
    assert soundfile.info(record["audio"]).subtype == "PCM_16"
    assert soundfile.info(record["audio"]).frames == N_SAMPLES


def test_stream(loads, fake_model, question, tmp_path):
    result = run("stream", "--audio", question, "--out", tmp_path / "a.wav", "--json")
    record = last_json(result)
    assert record["first_audio_s"] == record["chunks"][0]["t_s"]
    assert [chunk["audio_s"] for chunk in record["chunks"]] == [0.4] * 4
    assert record["lateness_s"][0] == 0 > record["lateness_s"][3]
    assert fake_model.answer in result.stderr
    assert fake_model.requests[0]["options"].mask == "streaming"
    assert soundfile.info(record["audio"]).frames == N_SAMPLES


def test_stream_measures_the_examples(loads, fake_model, question, tmp_path):
    from demo.examples import EXAMPLES

    out = tmp_path / "stream.json"
    result = run("stream", "--repeats", len(EXAMPLES), "--results", out, "--json")
    report = json.loads(out.read_text())
    assert last_json(result) == report
    assert report["questions"] == [example.path.name for example in EXAMPLES]
    assert [row["question"] for row in report["runs"]] == [*report["questions"][1:], report["questions"][0]]
    assert report["cold"]["question"] == report["questions"][0]
    assert (report["n_late"], report["n_chunks"]) == (0, 3 * len(EXAMPLES))  # a first chunk is never late
    assert report["first_audio_s"] == 0.12  # the fake model's own word for it
    assert {"machine", "date", "commit"} <= set(report)
    assert run("stream", "--audio", question, "--repeats", 2).stdout.startswith("first sound 120 ms after the question")


def test_stream_is_told_what_to_do(loads, question, tmp_path):
    for arguments, sentence in (
        (["--audio", question], "One answer needs --out"),
        (["--audio", question, "--out", tmp_path / "a.wav", "--results", tmp_path / "r.json"], "give --repeats"),
        (["--out", tmp_path / "a.wav"], "Leave it out of a measurement"),
    ):
        result = run("stream", *arguments)
        assert (result.exit_code, sentence in result.stderr) == (2, True), result.stderr
    assert loads == []


@pytest.fixture
def small_set(question, tmp_path):
    path = tmp_path / "set.json"
    items = [{"id": "a", "audio": "q.wav", "key": "four"}, {"id": "b", "audio": "q.wav", "key": "five"}]
    path.write_text(json.dumps(items))
    return path


def test_eval_of_a_file(loads, small_set, tmp_path):
    out = tmp_path / "results.json"
    printed = last_json(run("eval", "--set", small_set, "--out", out, "--n-speech", 0, "--seed", 5, "--json"))
    written = json.loads(out.read_text())
    assert (written["n"], written["right"], written["seed"]) == (2, 1, 5)
    assert [cell["right"] for cell in written["cells"]] == [True, False]
    assert printed == {key: value for key, value in written.items() if key != "cells"}


def test_eval_speaks_as_it_is_told(loads, fake_model, small_set, monkeypatch, tmp_path):
    heard, respond = [], fake_model.respond

    def respond_to(voice=None, sound=None, **request):
        heard.append((voice, sound))
        return respond(**request)

    monkeypatch.setattr(fake_model, "respond", respond_to)
    out = tmp_path / "results.json"
    chosen = ["--voice", "low", "--flow-steps", 3, "--flow-chunk", 8]
    assert run("eval", "--set", small_set, "--out", out, "--n-speech", 0, *chosen).exit_code == 0
    assert heard == [("low", VocoderOptions(n_steps=3, chunk=8))] * 2
    written = json.loads(out.read_text())
    assert (written["voice"], written["flow_steps"], written["flow_chunk"]) == ("low", 3, 8)


def test_eval_of_a_grid_resumes_what_it_finds(loads, small_set, monkeypatch, tmp_path):
    out = tmp_path / "grid.json"
    seen = []

    def run_grid(model, questions, cells, options, outside, known, save):
        seen.append((len(questions), cells[0].label, options.n_answers, options.seed, known))
        report = {"cells": [{"said": "x", "answers": [1]}], "ceilings": {}, "skipped": []}
        save(report)
        return report

    monkeypatch.setattr("vocalnet.grid.run_grid", run_grid)
    options = ["--set", small_set, "--grid", "table3", "--out", out, "--seed", 5]
    for _ in range(2):
        assert run("eval", *options).stdout == f"1 cells, 0 skipped; details in {out}\n"
    assert seen == [(2, "ntp 1", 200, 5, {}), (2, "ntp 1", 200, 5, {"x": [1]})]
    assert json.loads(out.read_text())["grid"] == "table3"


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--grid", "table9"], "There is no grid 'table9'. Available: table3, table4, seeds, policies"),
        (["--grid", "table3", "--tokens-per-step", 3], "set --tokens-per-step themselves"),
        (["--grid", "table3", "--flow-steps", 3], "A grid speaks as the checkpoint says"),
    ],
)
def test_a_grid_is_checked_before_the_model_is_loaded(loads, small_set, tmp_path, extra, sentence):
    result = run("eval", "--set", small_set, "--out", tmp_path / "r.json", *extra)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert loads == []


def test_report_prints_draws_writes_and_checks(tmp_path):
    from grid_reports import grid_report

    results, readme, figures = tmp_path / "policies.json", tmp_path / "README.md", tmp_path / "figures"
    results.write_text(json.dumps(grid_report()))
    readme.write_text("# Title\n<!-- report: policies -->\n<!-- end of report -->\nEnd.\n")
    assert run("report", results).stdout.startswith("## policies\n\n| decoder |")
    stale = run("report", results, "--readme", readme, "--check")
    assert (stale.exit_code, readme.read_text().count("|")) == (2, 0)
    assert "older than the results" in stale.stderr
    assert run("report", results, "--readme", readme).exit_code == 0
    assert "| mtp_vocalnet | 5 | top_n=2 |" in readme.read_text()
    assert run("report", results, "--readme", readme, "--check").exit_code == 0
    figures.mkdir()
    drawn = last_json(run("report", results, "--figures", figures, "--json"))["figures"]
    assert drawn == [str(figures / f"policies-{what}.png") for what in ("pareto", "tokens", "ntp-tokens")]
    assert all((figures / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_report_without_results_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("report")
    assert result.exit_code == 2
    assert "There are no results in the folder results/" in result.stderr


def test_eval_of_the_heldout_set(loads, monkeypatch, question, tmp_path):
    def heldout_items(workdir, n):
        return [{"id": str(i), "audio": str(question), "key": "four", "voice": workdir.name} for i in range(n)]

    monkeypatch.setattr("vocalnet.training.heldout.heldout_items", heldout_items)
    options = ["--set", "heldout", "--n", 3, "--n-speech", 0, "--workdir", tmp_path / "clips"]
    result = run("eval", *options, "--out", tmp_path / "r.json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"3 of 3 right; details in {tmp_path / 'r.json'}\n"
    assert json.loads((tmp_path / "r.json").read_text())["right_by_voice"] == {"clips": {"n": 3, "right": 3}}


def test_eval_of_a_file_takes_its_first_items_and_draws_by_the_seed_it_writes(loads, fake_model, small_set, tmp_path):
    out = tmp_path / "r.json"
    assert run("eval", "--set", small_set, "--n", 1, "--n-speech", 0, "--temperature", 0.8, "--out", out).exit_code == 0
    report = json.loads(out.read_text())
    assert (report["n"], report["seed"]) == (1, fake_model.requests[0]["options"].seed)
    refused = run("eval", "--set", small_set, "--grid", "table3", "--n-speech", 0, "--out", out)
    assert "give --n-speech 1 or more" in refused.stderr


@pytest.mark.parametrize("command", GENERATING)
def test_every_generating_command_takes_the_shared_options(command, loads, fake_model, question, small_set, tmp_path):
    arguments = {
        "s2t": ["--audio", question],
        "s2s": ["--audio", question, "--out", tmp_path / "a.wav"],
        "stream": ["--audio", question, "--out", tmp_path / "a.wav"],
        "eval": ["--set", small_set, "--out", tmp_path / "r.json", "--n-speech", 0],
    }[command]
    shared = "--model m --decoder ntp --tokens-per-step 2 --policy fixed --temperature 0.5 --seed 3 --max-tokens 9"
    shared += " --device cpu --dtype float32 --encoder e --vocoder v --vocoder-backend official --base-llm b"
    shared += " --kernel int8"
    result = run(command, *arguments, *shared.split())
    assert result.exit_code == 0, result.stderr
    parts = {"encoder": "e", "vocoder": "v", "vocoder_backend": "official", "base_llm": "b", "kernel": "int8"}
    assert loads == [("m", {"decoder": "ntp", "device": "cpu", "dtype": "float32", **parts})]
    options = fake_model.requests[0]["options"]
    assert (options.tokens_per_step, options.policy, options.temperature) == (2, "fixed", 0.5)
    assert (options.seed, options.max_tokens) == (3, 9)


def test_defaults_are_the_librarys(loads, fake_model, question):
    from vocalnet.decoder.options import DecodeOptions

    run("s2t", "--audio", question)
    assert fake_model.requests[0]["options"] == fake_model.talker.default_options() == DecodeOptions()
    names = ("encoder", "vocoder", "decoder", "device", "dtype", "base_llm", "kernel")
    assert loads == [("nano", {**dict.fromkeys(names), "vocoder_backend": "native"})]


@pytest.mark.parametrize("mask", ["full", "streaming"])
def test_what_is_not_given_is_the_talkers_own(loads, fake_model, question, tmp_path, monkeypatch, mask):
    """Published weights keep their penalty and their way to count; a decoder of one token per step takes one."""
    from vocalnet.decoder.options import DecodeOptions

    own = DecodeOptions.released(1) if mask == "full" else DecodeOptions.released_streaming(1)
    talker = SimpleNamespace(default_options={mask: own}.__getitem__, session=lambda options: None)
    monkeypatch.setattr(type(fake_model), "talker", talker)
    done = run("stream", "--audio", question, "--out", tmp_path / "a.wav", "--mask", mask, "--seed", "7")
    assert done.exit_code == 0, done.stderr
    assert fake_model.requests[0]["options"] == replace(own, seed=7)


def test_info(monkeypatch):
    described = {"layout": "vocalnet", "missing": []}
    monkeypatch.setitem(sys.modules, "vocalnet.checkpoint", SimpleNamespace(describe=lambda model: described))
    assert last_json(run("info", "--model", "nano", "--json")) == described
    assert run("info").stdout == "layout: vocalnet\nmissing: []\n"


def test_demo_without_gradio_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "demo.page", None)
    result = run("demo")
    assert result.exit_code == 2
    assert 'pip install "vocalnet[demo]"' in result.stderr


def test_demo_serves_where_it_is_told(monkeypatch):
    from demo import page, state

    served = {}
    monkeypatch.setattr(state.App, "load", lambda *args, **kwargs: None)
    monkeypatch.setattr(page, "serve", lambda build, app, **where: served.update(where))
    assert run("demo", "--port", "7999", "--queue", "3").exit_code == 0
    assert served == {"host": "127.0.0.1", "port": 7999, "share": False, "queue": 3}
    refused = run("demo", "--queue", "0")
    assert refused.exit_code == 2
    assert "--queue" in refused.stderr


def nan_clip():
    samples = np.full(16000, 0.1, np.float32)
    samples[5] = np.nan
    return samples


BAD_QUESTIONS = {
    "missing": (None, "no file"),
    "text": (b"this is a text\n" * 50, "not a readable audio file"),
    "empty": (b"", "empty"),
    "short": (np.full(800, 0.1), r"too short"),
    "silent": (np.zeros(16000), "silent"),
    "nan": (nan_clip(), "not numbers"),
    "long": (np.full(600 * 8000, 0.1), "too long"),
}


def check_refusal(result, message, out):
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not out.exists()


@pytest.mark.parametrize("command", ["s2t", "s2s", "stream"])
@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_a_bad_question_is_refused_before_the_model_is_loaded(command, name, loads, tmp_path):
    content, message = BAD_QUESTIONS[name]
    path, out = tmp_path / "bad.wav", tmp_path / "a.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        soundfile.write(path, content, 8000 if name == "long" else 16000, subtype="FLOAT")
    output = [] if command == "s2t" else ["--out", out]
    check_refusal(run(command, "--audio", path, *output, "--json"), message, out)
    assert loads == []


@pytest.mark.parametrize("name", ["missing/a.wav", "."])
def test_an_unwritable_output_is_refused_before_the_model_is_loaded(name, loads, question, tmp_path):
    result = run("s2s", "--audio", question, "--out", tmp_path / name)
    check_refusal(result, "Cannot write", tmp_path / "missing")
    assert loads == []
    assert [p.name for p in tmp_path.iterdir()] == ["q.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "temperature must be"),
        (["--tokens-per-step", "0"], "tokens_per_step must be"),
        (["--temperature", "warm"], "--temperature"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_options_are_one_sentence(arguments, message, loads, question, tmp_path):
    out = tmp_path / "a.wav"
    check_refusal(run("s2s", "--audio", question, "--out", out, *arguments), message, out)


def test_other_bad_input(loads, fake_model, monkeypatch, question, tmp_path):
    out = tmp_path / "a.wav"
    check_refusal(run("s2s", "--audio", question, "--out", out, "--model", "nowhere"), "There is no checkpoint", out)
    result = run("eval", "--set", tmp_path / "no.json", "--out", tmp_path / "r.json")
    check_refusal(result, "Cannot read the set", tmp_path / "r.json")
    answer_in_text = fake_model.respond
    monkeypatch.setattr(fake_model, "respond", lambda **arguments: answer_in_text(**{**arguments, "speech": False}))
    result = run("s2s", "--audio", question, "--out", out)
    assert result.exit_code == 2
    assert "no speech decoder" in result.stderr
    assert not out.exists()


def test_as_a_program_bad_input_leaves_no_trace(tmp_path):
    command = [sys.executable, "-m", "vocalnet", "s2t", "--audio", str(tmp_path / "missing.wav"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"There is no file {tmp_path / 'missing.wav'}. Check the name.\n"


def test_help_does_not_import_torch():
    code = "import sys, vocalnet.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
