"""Shipping a checkpoint: nothing is shipped half, and the card's numbers are those of the records."""

import json
from pathlib import Path

import pytest

import vocalnet
from vocalnet.training.bundle import bundle, model_card, training_seconds

NANO = Path(vocalnet.__file__).parent / "nano"
RESULTS = Path(__file__).parents[2] / "results" / "eval-nano.json"


def test_a_checkpoint_with_a_stage_missing_is_refused(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ValueError, match=r"encoder\.safetensors does not exist\. Train its stage first"):
        bundle(tmp_path / "checkpoint", tmp_path / "runs", tmp_path / "nano")
    assert not list((tmp_path / "nano").iterdir())


def test_seconds_of_a_resumed_run_add_up():
    rows = [{"elapsed_s": 1.0}, {"elapsed_s": 4.0}, {"elapsed_s": 2.0}, {"elapsed_s": 3.0}]
    assert training_seconds(rows) == 7.0


def test_the_shipped_card_is_made_of_the_shipped_records():
    from vocalnet.training.vocabulary import REFUSAL

    assert (NANO / "README.md").read_text() == model_card(NANO, RESULTS, REFUSAL)


def test_the_bundle_is_small():
    assert sum(path.stat().st_size for path in NANO.rglob("*") if path.is_file()) <= 30e6


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
