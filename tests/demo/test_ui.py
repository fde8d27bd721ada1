"""What a link may select, what the page knows of its model, and the shipped examples."""

from __future__ import annotations

import soundfile

from demo.examples import EXAMPLES, FOLDER
from demo.question import clip_problem
from demo.state import App
from demo.ui import TABS, link_choice
from fakes import FakeModel


def app():
    return App("fake", FakeModel(), load_decoder=lambda decoder: FakeModel(), load_s=0.1)


def test_a_valid_link_is_followed():
    query = {"tab": "s2t", "decoder": "ntp", "steps": "2", "other": "x"}
    assert link_choice(query, app()) == {"tab": "s2t", "decoder": "ntp", "steps": 2}


def test_an_invalid_link_changes_nothing():
    assert link_choice({"tab": "lab", "decoder": "<b>", "steps": "99"}, app()) == {}
    assert link_choice({"steps": "two"}, app()) == {}
    assert link_choice({}, app()) == {}
    assert len(TABS) == 3


def test_other_decoders_are_loaded_once():
    loaded = []
    shared = App("fake", FakeModel(), load_decoder=lambda name: loaded.append(name) or FakeModel(), load_s=0.1)
    assert shared.model_for("mtp_vocalnet") is shared.model
    assert shared.model_for("ntp") is shared.model_for("ntp")
    assert loaded == ["ntp"]


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
