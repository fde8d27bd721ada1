"""What a link may select, what the page knows of its model, and the shipped examples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from fakes import FakeModel

from demo.examples import EXAMPLES, FOLDER
from demo.page import alone
from demo.question import clip_problem
from demo.state import App
from demo.tabs import about, attention, latency, speech_to_speech, speech_to_text, speedup_lab, streaming, token_stats
from demo.ui import build, link_choice, tab_names

ROOT = Path(__file__).parents[2]


def app():
    return App("fake", FakeModel(), load_s=0.1)


def test_a_valid_link_is_followed():
    query = {"tab": "s2t", "decoder": "ntp", "steps": "2", "other": "x"}
    assert link_choice(query, app()) == {"tab": "s2t", "decoder": "ntp", "steps": [2], "step": 2}
    query = {"tab": "lab", "decoders": "ntp,<b>,mtp_vocalnet,ntp", "steps": "1,3,99", "policies": "greedy_verify"}
    assert link_choice(query, app()) == {
        "tab": "lab",
        "decoders": ["ntp", "mtp_vocalnet"],
        "policies": ["greedy_verify"],
        "steps": [1, 3],
    }


def test_an_invalid_link_changes_nothing():
    assert (
        link_choice({"tab": "nothing", "decoder": "<b>", "steps": "99", "decoders": ",", "policies": "x"}, app()) == {}
    )
    assert link_choice({"steps": "two"}, app()) == {}
    assert link_choice({}, app()) == {}


def test_a_model_that_only_writes_has_no_speech_tab():
    written = app()
    written.model.decoders = ()
    assert tab_names(app()) == ["s2s", "s2t", "stream", "lab", "stats", "latency", "attention", "about"]
    assert tab_names(written) == ["s2t", "about"]
    assert build(written).get_api_info()["named_endpoints"].keys() == {"/speech_to_text", "/health"}


TABS = [speech_to_speech, speech_to_text, streaming, speedup_lab, token_stats, latency, attention, about]


@pytest.mark.parametrize("tab", TABS)
def test_each_tab_is_a_page_of_its_own(tab):
    assert alone(tab.tab)(app()).get_api_info()["named_endpoints"]


def test_a_model_that_is_not_there_is_one_sentence():
    done = subprocess.run(
        [sys.executable, "app.py", "--model", "/no/such/folder"], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("app.py: error: There is no checkpoint folder /no/such/folder.")
    assert "Traceback" not in done.stderr


def test_another_decoder_is_of_the_same_model():
    shared = app()
    assert shared.model_for("mtp_vocalnet") is shared.model
    assert shared.model_for("ntp").decoders == ("ntp", "mtp_vocalnet", "mtp_deepseek")
    shared.model_for("ntp").respond(audio=str(EXAMPLES[0].path))
    assert len(shared.model.requests) == 1


def test_a_forgotten_visit_leaves_nothing():
    shared = app()
    build(shared)
    assert shared.stops
    for stops in shared.stops:
        stops["a"] += 1
        stops["b"] += 1
    shared.visits.of("a")
    shared.forget("a")
    assert len(shared.visits) == 0
    assert [set(stops) for stops in shared.stops] == [{"b"}] * len(shared.stops)


def test_examples_are_clean_clips():
    assert len(EXAMPLES) == 6
    assert {example.path for example in EXAMPLES} == set(FOLDER.glob("*.wav"))
    for example in EXAMPLES:
        info = soundfile.info(example.path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert clip_problem(str(example.path)) is None
        assert example.text[-1] in ".?"


def test_no_clip_is_a_problem():
    assert clip_problem(None) == "Record or upload a question first."
