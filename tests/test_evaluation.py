"""The evaluation protocol on a fake model and fake judges, recounted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from vocalnet.evaluation import Judges, evaluate, is_right, load_items
from vocalnet.metrics.mos import Mos
from vocalnet.provenance import code_version, cpu_model, provenance
from vocalnet.training import domain

NUMBERS = ["four", "five", "twenty", "twenty five", "minus five"]
PLACES = ["guinea", "guinea bissau", "paris"]


@pytest.mark.parametrize(
    ("answer", "key", "candidates", "expected"),
    [
        ("The answer is five.", "five", NUMBERS, True),
        ("The answer is 5.", "five", NUMBERS, True),
        ("The answer is twenty-five.", "twenty five", NUMBERS, True),
        ("The answer is twenty-five.", "five", NUMBERS, False),
        ("The answer is twenty-five.", "five", [], False),
        ("The answer is minus five.", "five", NUMBERS, False),
        ("The answer is five. Or four.", "five", NUMBERS, False),
        ("It is Guinea-Bissau.", "guinea bissau", PLACES, True),
        ("It is Guinea-Bissau.", "guinea", PLACES, False),
        ("It is Guinea-Bissau, not Guinea.", "guinea bissau", PLACES, False),
        ("PARIS!", "paris", PLACES, True),
        ("Parisian", "paris", PLACES, False),
        ("", "paris", PLACES, False),
        ("anything", "", [], False),
        ("Zero, one, two, three.", "zero one two three", [], True),
        ("I'm sorry, I only know simple things.", "i only know", [], True),
    ],
)
def test_is_right(answer, key, candidates, expected):
    assert is_right(answer, key, candidates) is expected


@pytest.mark.parametrize("scope", sorted(domain.SHARES))
def test_every_reference_answer_of_the_domain_is_right(scope):
    for question in domain.draw("heldout", 300, seed=0, domain=scope):
        assert is_right(question.answer, question.key, domain.candidates(question.candidates)), question


def fake_transcribe(clips):
    """Hears the model without fault; the other voices, marked by their length, lose the last word."""
    return ["two plus two is" if len(samples) < 5000 else "two plus two is four" for samples, _ in clips]


def fake_mos():
    return lambda samples, sample_rate_hz: Mos(float(len(samples) / 1000), 2.0, 3.0, 4.0)


JUDGES = Judges(fake_transcribe, fake_mos)


@pytest.fixture
def items(tmp_path):
    soundfile.write(tmp_path / "q.wav", 0.3 * np.sin(np.arange(8000) / 10), 16000)
    shared = {"audio": str(tmp_path / "q.wav"), "candidates": NUMBERS}
    return [
        {**shared, "id": "a", "key": "four", "topic": "sums", "voice": "slt", "voice_split": "train"},
        {**shared, "id": "b", "key": "four", "topic": "sums", "voice": "rms", "voice_split": "heldout"},
        {**shared, "id": "c", "key": "five", "topic": "clock", "voice": "rms", "voice_split": "heldout"},
        {**shared, "id": "d", "key": "i only know", "topic": "noise", "voice": "none", "kind": "out_of_domain"},
    ]


def test_evaluate_counts_and_rates(fake_model, items):
    report = evaluate(
        fake_model,
        items,
        seed=7,
        source_voice=lambda text: (np.ones(4000, np.float32), 16000),
        resynthesise=lambda samples, rate_hz: (samples[:2000], rate_hz),
        judges=JUDGES,
    )
    assert (report["n"], report["right"], report["refused_in_domain"]) == (3, 2, 0)
    assert report["right_by_topic"] == {"clock": {"n": 1, "right": 0}, "sums": {"n": 2, "right": 2}}
    assert report["right_by_voice"] == {"rms": {"n": 2, "right": 1}, "slt": {"n": 1, "right": 1}}
    assert report["right_by_voice_split"] == {"heldout": {"n": 2, "right": 1}, "train": {"n": 1, "right": 1}}
    assert report["out_of_domain"] == {"n": 1, "right": 0, "right_by_topic": {"noise": {"n": 1, "right": 0}}}
    assert report["n_speech"] == 3
    assert report["wer"] == 0
    # the normaliser writes "2 +2 is 4": one of four words is lost
    assert report["wer_source"] == report["wer_resynthesis"] == pytest.approx(1 / 4)
    assert report["word_errors"]["wer_source"] == {"substitutions": 0, "deletions": 3, "insertions": 0, "n_words": 12}
    assert report["ci95"]["wer_minus_source"] == pytest.approx((-0.25, -0.25))
    assert (report["dnsmos_p808"], report["dnsmos_source"], report["dnsmos_resynthesis"]) == pytest.approx(
        (25.6, 4.0, 2.0)
    )
    assert report["real_time_factor"] == pytest.approx(report["timings"]["total"]["p50"] / 1.6, rel=0.2)
    assert report["seed"] == 7
    assert {"machine", "date", "commit"} <= set(report)
    cells = {cell["id"]: cell for cell in report["cells"]}
    assert cells["a"]["speech"]["heard"] == "two plus two is four"
    assert cells["a"]["source"]["deletions"] == 1
    assert "speech" not in cells["d"]
    json.dumps(report)


def test_only_the_subset_speaks(fake_model, items):
    report = evaluate(fake_model, items, n_speech=1, judges=JUDGES)
    assert [request["speech"] for request in fake_model.requests].count(True) == 1
    assert report["n_speech"] == 1
    assert report["wer_source"] is None
    again = evaluate(fake_model, items, n_speech=1, judges=JUDGES)
    assert [c["id"] for c in again["cells"] if "speech" in c] == [c["id"] for c in report["cells"] if "speech" in c]


def test_text_only_and_silent_answers(fake_model, items):
    report = evaluate(fake_model, items, n_speech=0, judges=JUDGES)
    assert (report["n_speech"], report["wer"], report["real_time_factor"]) == (0, None, None)
    fake_model.answer = ""
    assert evaluate(fake_model, items, judges=JUDGES)["n_speech"] == 0


def test_refusals(fake_model, items):
    fake_model.answer = "I only know simple things."
    report = evaluate(fake_model, items, n_speech=0)
    assert (report["right"], report["refused_in_domain"], report["out_of_domain"]["right"]) == (0, 3, 1)


def test_bad_items_are_one_sentence(fake_model, items, tmp_path):
    with pytest.raises(ValueError, match="set is empty"):
        evaluate(fake_model, [])
    with pytest.raises(ValueError, match="Item 0 of the set lacks audio, key"):
        evaluate(fake_model, [{"id": "a"}])
    with pytest.raises(ValueError, match="did you mean 'topic'"):
        evaluate(fake_model, [{**items[0], "topics": "x"}])
    with pytest.raises(ValueError, match="kind is 'x'"):
        evaluate(fake_model, [{**items[0], "kind": "x"}])
    with pytest.raises(ValueError, match="Item a: There is no file"):
        evaluate(fake_model, [{**items[0], "audio": str(tmp_path / "no.wav")}])


def test_load_items_resolves_paths_and_names_faults(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(json.dumps([{"id": "a", "audio": "clips/a.wav", "key": "x"}, {"id": "b", "audio": "/b.wav"}]))
    assert [item["audio"] for item in load_items(path)] == [str(tmp_path / "clips/a.wav"), "/b.wav"]
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_items(path)
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="list of objects"):
        load_items(path)
    for audio in ("null", "3"):
        path.write_text(f'[{{"id": "a", "key": "x", "audio": {audio}}}]')
        with pytest.raises(ValueError, match=r"Item 0 of the set .* names no audio"):
            load_items(path)
    with pytest.raises(ValueError, match="Cannot read the set"):
        load_items(tmp_path / "missing.json")


def test_provenance(monkeypatch, tmp_path):
    found = provenance(3)
    assert found["seed"] == 3
    assert found["date"].endswith("+00:00")
    assert found["machine"]["cpu"] == cpu_model() != ""
    monkeypatch.setattr("vocalnet.provenance.ROOT", tmp_path)
    assert code_version() == "unknown" or code_version().startswith("vocalnet ")
