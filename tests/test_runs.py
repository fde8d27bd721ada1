"""Run files: what is written is read again, at the measured pace; what is damaged is refused in a sentence."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import FakeModel

import vocalnet
from vocalnet import DecodeOptions, RepetitionPenalty, VocoderOptions, runs
from vocalnet.decoder.kernels import use_kernel
from vocalnet.decoder.options import RepetitionAware
from vocalnet.events import AudioChunk, Finished, SpeechTokens, TextDelta
from vocalnet.provenance import fingerprint
from vocalnet.run_reader import FILES

OPTIONS = DecodeOptions(
    tokens_per_step=2,
    temperature=0.5,
    seed=7,
    penalty=RepetitionPenalty(),
    repetition_aware=RepetitionAware(),
    n_candidates=3,
    max_tokens=80,
    min_tokens=40,
)


@pytest.fixture(scope="module")
def run(tiny_model, question) -> runs.Run:
    """A recorded answer of a tiny model."""
    events = list(tiny_model.stream(audio=question, options=OPTIONS))
    voice, sound = "/some/where/anna.wav", VocoderOptions(n_steps=4, chunk=5)
    return runs.record(tiny_model, events, OPTIONS, "What is two plus two?", voice, sound)


@pytest.fixture
def files(run, tmp_path) -> dict[str, bytes]:
    """The three files of it."""
    folder = runs.save(run, tmp_path / "good")
    return {name: (folder / name).read_bytes() for name in FILES}


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Writes any files into a ZIP."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["run", "run.zip"])
def test_what_is_written_is_read_again(run, tmp_path, name):
    loaded = runs.load(runs.save(run, tmp_path / name))
    assert replace(loaded, events=run.events) == run
    assert loaded.result.stats == run.result.stats
    assert loaded.candidates == run.candidates
    assert len(run.candidates) == len(run.result.stats) > 0
    for field in ("text", "speech_tokens", "timings", "warnings", "sample_rate_hz"):
        assert getattr(loaded.result, field) == getattr(run.result, field)
    np.testing.assert_allclose(loaded.result.audio, run.result.audio, atol=1e-4)
    for ours, theirs in zip(run.events, loaded.events, strict=True):
        assert type(ours) is type(theirs)
        assert ours.t_s == theirs.t_s
        if isinstance(ours, TextDelta | SpeechTokens):
            assert ours == theirs
        if isinstance(ours, AudioChunk):
            assert len(ours.samples) == len(theirs.samples)


def test_reading_and_writing_again_changes_no_byte(run, tmp_path):
    first = runs.save(run, tmp_path / "a.zip")
    second = runs.save(runs.load(first), tmp_path / "b.zip")
    assert first.read_bytes() == second.read_bytes()


def test_a_manifest_names_what_a_reader_looks_for(files):
    manifest = json.loads(files["run.json"])
    expected = {"model", "revision", "decoder", "tokens_per_step", "policy", "seed", "versions", "device", "timings"}
    assert expected <= set(manifest)
    assert (manifest["tokens_per_step"], manifest["policy"], manifest["seed"]) == (2, "fixed", 7)
    assert (manifest["voice"], manifest["sound"]["n_steps"]) == ("anna.wav", 4)
    assert manifest["timings"]["total"] > 0
    assert soundfile.info(io.BytesIO(files["audio.wav"])).subtype == "PCM_16"


def test_the_fingerprint_follows_the_weights_and_not_the_kernel(tiny_model):
    before = fingerprint(tiny_model)
    changed, last = copy.deepcopy(tiny_model), before
    for name, weight in changed.named_parameters():
        weight.data += 0.5
        assert fingerprint(changed) != last, name
        last = fingerprint(changed)
    rearranged = copy.deepcopy(tiny_model)
    rearranged.use_kernel("packed")
    assert fingerprint(rearranged) == before == fingerprint(tiny_model)
    in_parts = vocalnet.load("nano", kernel="plain")
    before = fingerprint(in_parts)
    use_kernel(in_parts.talker.decoder.layers[0].mlp.down_proj, "packed")  # nothing inside: it stays
    use_kernel(in_parts.talker.decoder.layers[0].mlp, "packed")
    in_parts.use_kernel("packed")
    assert fingerprint(in_parts) == before


def test_another_decoder_is_another_model():
    packed = vocalnet.load("nano")
    other = packed.with_decoder("ntp")
    assert fingerprint(other) != fingerprint(packed) == fingerprint(other.with_decoder(packed.decoders[0]))
    assert fingerprint(packed) == fingerprint(vocalnet.load("nano", kernel="plain"))


def test_a_run_needs_a_finished_spoken_answer(question):
    model = FakeModel()
    events = list(model.stream(audio=question, options=OPTIONS))
    with pytest.raises(ValueError, match="Let the stream end"):
        runs.record(model, events[:-1], OPTIONS)
    with pytest.raises(ValueError, match="text only"):
        runs.record(model, list(model.stream(audio=question, speech=False)), OPTIONS)


def test_a_run_of_an_earlier_program_is_read(run, files, tmp_path):
    manifest = json.loads(files["run.json"])
    del manifest["voice"], manifest["sound"]
    loaded = runs.load(write_zip(tmp_path / "old.zip", {**files, "run.json": json.dumps(manifest).encode()}))
    assert (loaded.voice, loaded.sound, loaded.options) == (None, None, run.options)


def test_a_replay_keeps_the_measured_pace(run):
    now_s, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now_s[0] += seconds

    replayed = runs.replay(run, clock=lambda: now_s[0], sleep=sleep)
    for event, expected in zip(replayed, run.events, strict=True):
        assert event is expected
        assert now_s[0] - 100 == pytest.approx(event.t_s)
    assert sum(slept) == pytest.approx(run.events[-1].t_s)
    assert isinstance(event, Finished)


def test_a_late_reader_does_not_wait_more(run):
    for _ in runs.replay(run, clock=iter(range(0, 10**6, 1000)).__next__, sleep=lambda _: pytest.fail("it is late")):
        pass


def test_nothing_half_written_stays_behind(run, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        runs.save(run, tmp_path / "taken")
    with pytest.raises(ValueError, match="Cannot write"):
        runs.save(run, tmp_path / "no" / "run")
    monkeypatch.setattr(runs, "to_line", lambda event: 1 / 0)
    for name in ("run", "run.zip"):
        with pytest.raises(ZeroDivisionError):
            runs.save(run, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def edited(files: dict[str, bytes], name: str, old: bytes, new: bytes) -> dict[str, bytes]:
    """The files with one place of one of them changed."""
    assert old in files[name]
    return {**files, name: files[name].replace(old, new, 1)}


def wav(rate_hz: int = 16_000, channels: int = 1, subtype: str = "PCM_16", n: int = 100) -> bytes:
    """A silent WAV."""
    data = io.BytesIO()
    soundfile.write(data, np.zeros((n, channels)), rate_hz, format="WAV", subtype=subtype)
    return data.getvalue()


DAMAGES = {
    "broken manifest": (lambda f: {**f, "run.json": f["run.json"][:-20]}, "run.json is not valid JSON"),
    "manifest is a list": (lambda f: {**f, "run.json": b"[]"}, "run.json must be a JSON object"),
    "deep nesting": (lambda f: {**f, "run.json": b"[" * 10**5}, "run.json is not valid JSON"),
    "not text": (lambda f: {**f, "run.json": b"\xff\xfe\xfa"}, "run.json is not valid JSON"),
    "later version": (lambda f: edited(f, "run.json", b'"version": 1', b'"version": 9'), "Update VocalNet"),
    "missing field": (lambda f: edited(f, "run.json", b'"decoder"', b'"dekoder"'), "no 'decoder'"),
    "wrong type": (lambda f: edited(f, "run.json", b'"tokens_per_step": 2', b'"tokens_per_step": "2"'), "type int"),
    "bad options": (lambda f: edited(f, "run.json", b'"tokens_per_step": 2', b'"tokens_per_step": 0'), "at least 1"),
    "odd option": (lambda f: edited(f, "run.json", b'"tau"', b'"tao"'), "lack tau"),
    "option of a wrong type": (lambda f: edited(f, "run.json", b'"tau": 0.5', b'"tau": "x"'), "cannot be used"),
    "broken event": (lambda f: edited(f, "events.jsonl", b"\n", b"}\n"), "events.jsonl, line 1 is not valid JSON"),
    "NaN": (lambda f: edited(f, "events.jsonl", b'"entropy": ', b'"entropy": NaN, "x": '), "not a usable number"),
    "infinity": (lambda f: edited(f, "events.jsonl", b'"entropy": ', b'"entropy": 1e999, "x": '), "not a usable"),
    "unknown event": (lambda f: edited(f, "events.jsonl", b"SpeechTokens", b"Tokens"), "no event 'Tokens'"),
    "time": (lambda f: edited(f, "events.jsonl", b'"t_s": ', b'"t_s": 9'), "time runs backwards"),
    "hours": (
        lambda f: edited(f, "events.jsonl", b'"type": "Finished", "t_s": ', b'"type": "Finished", "t_s": 9999'),
        "hour",
    ),
    "no total": (lambda f: edited(f, "run.json", b'"total"', b'"totally"'), "the timings lack total"),
    "no first text": (lambda f: edited(f, "run.json", b'"first_text"', b'"first"'), "the timings lack first_text"),
    "half a character": (lambda f: edited(f, "run.json", b"What is two", rb"What \ud800 two"), "surrogates"),
    "half a character, raw": (lambda f: edited(f, "run.json", b"What is two", b"What \xed\xa0\x80 two"), "utf-8"),
    "odd vocoder": (lambda f: edited(f, "run.json", b'"style": "exact"', b'"style": "odd"'), "cannot be used"),
    "many heads": (lambda f: edited(f, "events.jsonl", b'"head": 0', b'"head": 20000000'), "from 0 to 63"),
    "negative head": (lambda f: edited(f, "events.jsonl", b'"head": 0', b'"head": -1'), "from 0"),
    "candidates": (lambda f: edited(f, "events.jsonl", b'"likeliest": [[', b'"likeliest": [["x", '), "pairs"),
    "cut short": (lambda f: {**f, "events.jsonl": b""}, "does not end with Finished"),
    "no audio": (lambda f: {**f, "audio.wav": b"RIFF"}, "audio.wav cannot be read"),
    "stereo": (lambda f: {**f, "audio.wav": wav(channels=2)}, "mono 16-bit WAV"),
    "other rate": (lambda f: {**f, "audio.wav": wav(rate_hz=8000)}, "at 16000 Hz"),
    "other length": (lambda f: {**f, "audio.wav": wav()}, "holds 100"),
    "missing file": (lambda f: {k: v for k, v in f.items() if k != "audio.wav"}, "is not a run"),
    "a path that climbs": (lambda f: {**f, "../evil.txt": b"x"}, "nothing else"),
    "empty": (lambda f: {}, "holds nothing"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_zip_is_refused_in_a_sentence(files, tmp_path, damage, words):
    with pytest.raises(ValueError, match=words) as caught:
        runs.load(write_zip(tmp_path / "bad.zip", damage(files)))
    assert str(caught.value).endswith(".")
    assert str(tmp_path) not in str(caught.value)


def test_what_is_no_zip_is_refused(tmp_path, files):
    (tmp_path / "text.zip").write_text("not a ZIP")
    with pytest.raises(ValueError, match="not a readable ZIP"):
        runs.load(tmp_path / "text.zip")
    with pytest.raises(ValueError, match=r"no run file none\.zip"):
        runs.load(tmp_path / "none.zip")
    (tmp_path / "good" / "audio.wav").unlink()
    with pytest.raises(ValueError, match=r"it has no audio\.wav"):
        runs.load(tmp_path / "good")
    flipped = bytearray(write_zip(tmp_path / "flipped.zip", files).read_bytes())
    flipped[200:260] = bytes(60)
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(ValueError, match="not a readable ZIP"):
        runs.load(tmp_path / "flipped.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(files, tmp_path, method):
    path = write_zip(tmp_path / "odd.zip", files, method)
    with pytest.raises(ValueError, match=r"odd\.zip is packed in an unusual way"):
        runs.load(path)


def test_a_bomb_is_not_unpacked(files, tmp_path):
    bomb = write_zip(tmp_path / "bomb.zip", {**files, "audio.wav": bytes(3 * 2**20)})
    assert bomb.stat().st_size < 2**19
    with pytest.raises(ValueError, match=r"bomb.zip is too large: a run file holds at most 2 MB"):
        runs.load(bomb, max_bytes=2 * 2**20)
    with pytest.raises(ValueError, match="too large"):
        runs.load(tmp_path / "good", max_bytes=2**10)
