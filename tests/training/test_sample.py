"""The pairs that are shipped with nano: without a defect, and tokenised by nano's own tokenizer."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile

from vocalnet.checkpoint import NANO
from vocalnet.config import VocalNetConfig
from vocalnet.data.lists import answer_recording, read_entries
from vocalnet.data.tokenize import open_tokenizer
from vocalnet.data.units import read_units
from vocalnet.data.validate import Limits, validate
from vocalnet.training.data import read_list
from vocalnet.training.sample import SAMPLE, write_sample

PATH = NANO / SAMPLE


def test_the_sample_has_no_defect_and_every_length_is_compared():
    config = VocalNetConfig.from_file(NANO / "config.json")
    report = validate(PATH, limits=Limits(n_units=config.talker.n_units), n_workers=1)
    assert report["defects"] == []
    assert report["n_not_compared"] == 0
    assert report["n_entries"] >= 3


def test_its_units_are_those_of_nano():
    """After another tokenizer was shipped: python -m train.sample."""
    for entry in read_entries(PATH):
        samples, _ = soundfile.read(answer_recording(entry, PATH.parent), dtype="float32")
        expected = open_tokenizer("nano")(samples)
        assert np.array_equal(read_units(PATH.parent / entry["units"]), expected)


def test_it_is_small():
    assert sum(path.stat().st_size for path in PATH.parent.rglob("*") if path.is_file()) < 1e6


@pytest.fixture
def pairs_of_topics(tmp_path):
    """A corpus of four pairs, two of them of one topic; its clips are those of nano's sample."""
    first, *_ = read_entries(PATH)
    data = tmp_path / "data"
    shutil.copytree(PATH.parent, data)
    topics = ("calendar", "units", "arithmetic", "calendar")
    entries = [{**first, "id": f"dev-{i}", "topic": topic} for i, topic in enumerate(topics)]
    (data / "dev.json").write_text(json.dumps(entries))
    return data


def test_a_sample_is_one_pair_of_each_topic(pairs_of_topics, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "speech_tokenizer.safetensors"):
        (checkpoint / name).symlink_to(NANO / name)
    path = write_sample(pairs_of_topics, checkpoint, 2)
    entries = json.loads(path.read_text())
    assert [entry["id"] for entry in entries] == ["dev-2", "dev-0"]  # arithmetic, calendar
    assert all("answer" not in entry for entry in entries)
    assert all((path.parent / entry[key]).is_file() for entry in entries for key in ("speech", "units"))
    assert len(read_list(pairs_of_topics, "dev")) == 4
