"""The grid: the same speech as a session's, every cell on the same answers, comparisons recounted by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from grid_reports import N_ANSWERS, grid_report

from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker
from vocalnet.evaluation import Item, Judges
from vocalnet.grid import GridOptions, Outside, hear, judgements_in, offered_cells, run_grid, speak, speak_all
from vocalnet.grids import GRIDS, Cell, find_grid
from vocalnet.metrics.mos import Mos
from vocalnet.model import Shelf

OPTIONS = GridOptions(n_answers=2, n_timed=1, repeats=1)
N_TOKENS = 9  # of a segment at most


@pytest.fixture(scope="module")
def model(tiny_model):
    """The tiny model with two further decoders."""
    torch.manual_seed(5)
    own = tiny_model.parts.talker
    changes = {"ntp": {"head": "ntp"}, "group_linear_3": {"head": "group_linear", "group_size": 3}}
    talkers = {name: Talker(replace(own, **change)).eval().requires_grad_(False) for name, change in changes.items()}
    model = copy.copy(tiny_model)
    model._modules = {**tiny_model._modules, "talker": copy.deepcopy(tiny_model.talker)}
    model.shelf = Shelf(list(talkers), talkers.__getitem__)
    for part in [part for talker in (model.talker, *talkers.values()) for part in talker.modules()]:
        if isinstance(part, torch.nn.Linear) and part.out_features == own.vocab_size:
            part.bias[own.n_units :] = -1e3  # no special tokens: every answer is as long as it may be
    return model


@pytest.fixture(autouse=True)
def _short_speech(monkeypatch):
    """Random weights do not end by themselves."""
    monkeypatch.setattr("vocalnet.session.TOKENS_PER_TEXT", 0)
    monkeypatch.setattr("vocalnet.session.SPARE_TOKENS", N_TOKENS)


@pytest.fixture
def items(tmp_path):
    import soundfile

    rng = np.random.default_rng(1)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    return [{"id": name, "audio": str(tmp_path / f"{name}.wav"), "key": "four"} for name in "ab"]


@pytest.fixture
def _worded(monkeypatch):
    """Random weights write no words."""

    def worded(model, item):
        return replace(hear(model, item), text=f"It is {item.id}.")

    monkeypatch.setattr("vocalnet.grid.hear", worded)


def cell(decoder, K, **options):
    return Cell(decoder, DecodeOptions(tokens_per_step=K, **options))


CELLS = [
    cell("ntp", 1),
    cell("mtp_vocalnet", 1),
    cell("mtp_vocalnet", 3),
    cell("mtp_vocalnet", 3, policy="greedy_verify"),
    cell("group_linear_3", 3),
    cell("group_linear_3", 2),
    cell("mtp_deepseek", 3),
]
OUTSIDE = Outside(
    source_voice=lambda text: (np.ones(1600, np.float32), 16_000),
    judges=Judges(lambda clips: ["word"] * len(clips), lambda: lambda samples, rate_hz: Mos(len(samples) / 1000)),
)


@pytest.mark.parametrize("K", [1, 3])
def test_a_cell_says_what_a_session_says(model, items, K):
    options = DecodeOptions(tokens_per_step=K)
    answer = hear(model, Item(**items[0]))
    result = model.respond(audio=items[0]["audio"], options=options)
    assert answer.text == result.text
    speech = speak(model.talker, answer, options)
    assert speech.tokens == result.speech_tokens
    assert len(speech.tokens) == N_TOKENS
    assert speech.stats == result.stats


def test_cells_that_cannot_run_are_skipped_with_the_reason(model):
    offered, skipped = offered_cells(model, CELLS)
    assert [one.label for one in offered] == [one.label for one in CELLS[:5]]
    reasons = {row["cell"]: row["reason"] for row in skipped}
    assert "takes 3" in reasons["group_linear_3 2"]
    assert "no decoder 'mtp_deepseek'" in reasons["mtp_deepseek 3"]


def test_cells_take_turns_answer_by_answer(model, items, monkeypatch):
    """What each answer took in the same turn is added up."""
    asked = iter([1.0, 20.0])

    def take_turns(runs, repeats):
        whole = next(asked)
        return {name: [whole * (1 + turn) + place for turn in range(repeats)] for place, name in enumerate(runs)}

    monkeypatch.setattr("vocalnet.grid.take_turns", take_turns)
    answers = [hear(model, Item(**item)) for item in items]
    first, second = speak_all(model, CELLS[:2], answers, GridOptions(n_timed=2, repeats=3))
    assert (first.seconds, second.seconds) == ([21.0, 42.0, 63.0], [23.0, 44.0, 65.0])


@pytest.mark.usefixtures("_worded")
def test_a_grid_is_saved_after_every_rendering_and_resumed(model, items):
    saved = []
    report = run_grid(model, items, CELLS, OPTIONS, OUTSIDE, save=lambda part: saved.append(json.dumps(part)))
    parts = [json.loads(part) for part in saved]
    assert [len(part["cells"]) for part in parts] == [0, 1, 2, 3, 4, 5]  # the source voice first
    assert [part["is_complete"] for part in parts] == [False] * 5 + [True]
    assert parts[-1] == json.loads(json.dumps(report))
    assert (report["baseline"], len(report["texts"]), report["seed"]) == ("ntp 1", 2, 0)

    rows = {row["cell"]: row for row in report["cells"]}
    single, verified = rows["mtp_vocalnet 1"], rows["mtp_vocalnet 3 greedy_verify"]
    assert verified["agreement"] == {"tokens": 1.0, "answers": 1.0}
    assert verified["said"] == single["said"] != rows["ntp 1"]["said"]
    assert verified["speedup"]["nominal"] >= single["speedup"]["nominal"] == 1
    assert rows["mtp_vocalnet 3"]["speedup"]["nominal"] == 3
    assert rows["group_linear_3 3"]["agreement"] is None
    assert rows["ntp 1"]["minus_baseline"] is None
    assert rows["mtp_vocalnet 3"]["minus_fixed_3"] is None
    assert rows["mtp_vocalnet 3"]["speedup"]["bound_layers"] == pytest.approx(1, abs=0.01)  # 1 layer, 2 modules
    for row in report["cells"]:
        assert row["n_tokens"] == 2 * N_TOKENS
        assert len(row["seconds"]) == OPTIONS.repeats

    def unheard(clips):
        raise AssertionError("what has been judged is judged again")

    again = replace(OUTSIDE, judges=replace(OUTSIDE.judges, transcribe=unheard))
    resumed = run_grid(model, items, CELLS, OPTIONS, again, judgements_in(report))
    assert [row["wer"] for row in resumed["cells"]] == [row["wer"] for row in report["cells"]]
    assert resumed["ceilings"] == report["ceilings"]
    with pytest.raises(AssertionError, match="judged again"):
        run_grid(model, items[:1], CELLS, OPTIONS, again, judgements_in(report))


def test_what_cannot_be_measured_is_one_sentence(model, items):
    with pytest.raises(ValueError, match="No question of the set was answered in words"):
        run_grid(model, items, CELLS, OPTIONS, OUTSIDE)
    with pytest.raises(ValueError, match="cannot run any cell of the grid: This checkpoint has no decoder"):
        run_grid(model, items, CELLS[-1:], OPTIONS, OUTSIDE)
    with pytest.raises(ValueError, match="Item a: There is no file"):
        run_grid(model, [{**items[0], "audio": "no.wav"}], CELLS, OPTIONS, OUTSIDE)


def test_comparisons():
    rows = {row["cell"]: row for row in grid_report()["cells"]}
    top_n = rows["mtp_vocalnet 5 top_n=2"]
    assert top_n["wer"]["wer"] == pytest.approx(0.1)  # 2 errors in every second answer of 10 words
    assert top_n["minus_baseline"]["wer"] == pytest.approx(0.05)
    assert top_n["minus_fixed_3"] == {"wer": 0, "ci95": (0, 0)}
    assert top_n["speedup"]["measured"] == pytest.approx(2)  # over ntp, the faster of the two
    assert top_n["agreement"] == {"tokens": pytest.approx(1 / 10), "answers": 0}
    assert rows["ntp 1"]["agreement"]["answers"] == 1
    assert rows["ntp 1"]["dnsmos_p808"] == pytest.approx(3.1)
    assert rows["mtp_vocalnet 5"]["speedup"]["bound_layers"] == pytest.approx(2.5)
    assert len(rows["mtp_vocalnet 5"]["token_stats"]["heads"]) == 5


def test_only_a_report_of_a_grid_is_resumed():
    assert len(judgements_in(grid_report())["s"]) == N_ANSWERS
    for other in ({}, [], {"cells": []}, {"ceilings": None}):
        assert judgements_in(other) == {}


def test_named_grids():
    decoders = ["mtp_vocalnet", "mtp_vocalnet_4"]
    for name in GRIDS:
        labels = [one.label for one in find_grid(name, decoders)]
        assert len(set(labels)) == len(labels)
        assert labels[0] == "ntp 1"
    table3 = find_grid("table3", decoders)
    assert len(table3) == 14
    assert table3[-1].label == "mtp_vocalnet_4 5"  # the one of the common budget
    assert find_grid("table3", ["mtp_vocalnet"])[-1].label == "mtp_vocalnet 5"
    assert [one.label for one in table3[1:5]] == [
        f"group_{kind}_{G} {G}" for kind in ("linear", "trans") for G in (3, 5)
    ]
    points = [one for one in find_grid("policies", decoders) if one.decoder == "mtp_vocalnet"]
    assert len(points) >= 8
    assert {one.options.policy for one in points} == {
        "fixed",
        "greedy_verify",
        "top_n",
        "typical",
        "confidence",
        "rejection",
    }
    with pytest.raises(ValueError, match="no grid 'table9'"):
        find_grid("table9", decoders)
