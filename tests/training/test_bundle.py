"""Shipping a checkpoint: nothing is shipped half, and the card's numbers are those of the records."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vocalnet
from vocalnet.training.bundle import COMPONENTS, MAX_HEADS_MB, OTHER_FILES, bundle, model_card, training_seconds

NANO = Path(vocalnet.__file__).parent / "nano"
RESULTS = Path(__file__).parents[2] / "results" / "eval-nano.json"


def test_a_checkpoint_with_a_stage_missing_is_refused(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ValueError, match=r"encoder\.safetensors does not exist\. Train its stage first"):
        bundle(tmp_path / "checkpoint", tmp_path / "runs", tmp_path / "nano")
    assert not list((tmp_path / "nano").iterdir())


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of files that hold one number each, with two further decoders, and the records of its runs."""
    checkpoint, runs = tmp_path / "checkpoint", tmp_path / "runs"
    (checkpoint / "heads").mkdir(parents=True)
    for name in (*COMPONENTS, "heads/ntp", "heads/ntp_seed2"):
        save_file({"weight": torch.zeros(1)}, checkpoint / f"{name}.safetensors")
    for name in (*OTHER_FILES, "heads/ntp.json", "heads/ntp_seed2.json"):
        (checkpoint / name).write_text("{}")
    for stage, date in (("talker", "1"), ("heads/ntp", "2")):
        (runs / stage).mkdir(parents=True)
        (runs / stage / "done.json").write_text(json.dumps({"stage": stage, "seconds": 5.0, "date": date}))
        (runs / stage / "metrics.jsonl").write_text(json.dumps({"step": 9, "elapsed_s": 3.0, "total": 1.5}) + "\n")
    return tmp_path


def test_chosen_decoders_are_shipped_with_their_facts(trained):
    nano = trained / "nano"
    (nano / "heads").mkdir(parents=True)
    (nano / "heads" / "of_another_model.json").write_text("{}")
    bundle(trained / "checkpoint", trained / "runs", nano, decoders=["ntp"])
    assert sorted(path.name for path in (nano / "heads").iterdir()) == ["ntp.json", "ntp.safetensors"]
    card, facts = (json.loads((nano / name).read_text()) for name in ("card.json", "training.json"))
    assert card["decoders"] == ["ntp"]
    assert card["parameters"] == "0.0 M"  # of the default alone
    assert list(facts) == ["talker", "heads/ntp"]
    assert facts["heads/ntp"]["steps"] == 10
    text = model_card(nano, trained / "none.json", "No.")
    assert "heads/NAME are further decoders (ntp), 0.0 MB more" in text
    assert "| heads/ntp | 3 | total 1.5 |" in text
    bundle(trained / "checkpoint", trained / "runs", nano)
    assert len(list((nano / "heads").iterdir())) == 4


def test_what_goes_on_from_the_shipped_checkpoint_keeps_its_record(trained):
    names = ("talker", "talker3", "talker_of_another_name", "heads/ntp", "heads/of_another_model")
    earlier = {name: {"seconds": 7.0} for name in names}
    (trained / "checkpoint" / "training.json").write_text(json.dumps(earlier))
    (trained / "runs" / "nano").mkdir()
    copied = {"stage": "nano", "seconds": 0.1, "date": "0"}  # no training
    (trained / "runs" / "nano" / "done.json").write_text(json.dumps(copied))
    bundle(trained / "checkpoint", trained / "runs", trained / "nano")
    facts = json.loads((trained / "nano" / "training.json").read_text())
    assert list(facts) == ["talker", "talker3", "talker_of_another_name", "talker4", "heads/ntp"]
    assert facts["talker3"] == {"seconds": 7.0}
    assert facts["talker4"]["steps"] == facts["heads/ntp"]["steps"] == 10


def test_decoders_that_are_missing_or_too_large_change_nothing(trained, monkeypatch):
    nano = trained / "nano"
    with pytest.raises(ValueError, match=r"heads/ntpp\.safetensors does not exist"):
        bundle(trained / "checkpoint", trained / "runs", nano, decoders=["ntpp"])
    monkeypatch.setattr("vocalnet.training.bundle.MAX_HEADS_MB", 1e-4)
    with pytest.raises(ValueError, match=r"Choose some with --heads"):
        bundle(trained / "checkpoint", trained / "runs", nano)
    assert not list(nano.iterdir())


def test_seconds_of_a_resumed_run_add_up():
    rows = [{"elapsed_s": 1.0}, {"elapsed_s": 4.0}, {"elapsed_s": 2.0}, {"elapsed_s": 3.0}]
    assert training_seconds(rows) == 7.0


def test_the_shipped_card_is_made_of_the_shipped_records():
    from vocalnet.training.vocabulary import REFUSAL

    assert (NANO / "README.md").read_text() == model_card(NANO, RESULTS, REFUSAL)


def test_the_bundle_is_small():
    files = [path for path in NANO.rglob("*") if path.is_file()]
    heads = [path for path in files if path.parent.name == "heads"]
    assert sum(path.stat().st_size for path in set(files) - set(heads)) <= 40e6
    assert sum(path.stat().st_size for path in heads) <= MAX_HEADS_MB * 1e6


def test_the_shipped_results_say_where_they_come_from():
    report = json.loads(RESULTS.read_text())
    assert {"machine", "date", "seed", "commit", "n", "right"} <= set(report)
    assert report["n"] >= 300


def test_the_card_tells_shares_from_counts_and_carries_the_note(tmp_path):
    from vocalnet.training.vocabulary import REFUSAL

    for name in ("card.json", "training.json"):
        (tmp_path / name).write_text((NANO / name).read_text())
    card = json.loads((NANO / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**card, "note": "The flow was resumed."}))
    report = json.loads(RESULTS.read_text())
    results = tmp_path / "results.json"
    results.write_text(json.dumps({**report, "refused_in_domain": 33, "n": 330}))
    text = model_card(tmp_path, results, REFUSAL)
    assert "| refusals of questions inside it | 33 of 330 (10 %) |" in text
    assert "\nThe flow was resumed.\n" in text
