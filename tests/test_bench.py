"""Benches: cells take turns after a warm-up, and every kind of bench ends in a report of medians."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import tiny_config
from vocalnet.__main__ import app
from vocalnet.bench import PRESETS, WHAT, BenchOptions, bench, take_turns
from vocalnet.model import VocalNet

OPTIONS = BenchOptions(tokens_per_step=(1, 3), n_tokens=12, repeats=2, kernel="plain")


def test_cells_take_turns_after_one_warm_up_each():
    calls: list[str] = []
    times = iter(range(100))
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, lambda: next(times))
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert seconds == {"a": [1, 1], "b": [1, 1]}


@pytest.mark.parametrize("what", WHAT)
def test_a_bench_reports_cells_with_provenance(what, tiny_model):
    report = bench(tiny_config(), what, OPTIONS, tiny_model.tokenizer)
    assert {"machine", "date", "commit", "threads", "dtype", "peak_memory_mb"} <= set(report)
    assert len(report["cells"]) == 2
    json.dumps(report)
    if what == "talker":
        assert report["cells"][0]["speedup_over_best_1x"] == 1
        assert all(len(cell["seconds"]) == 2 for cell in report["cells"])
    if what == "token2wav":
        assert all(cell["mel_difference"] < 2e-4 for cell in report["cells"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_published_shapes(preset):
    with torch.device("meta"):
        model = VocalNet(PRESETS[preset])
    parameters = sum(p.numel() for p in model.talker.parameters())
    published = {"vocalnet-1b": 832_410_078, "vocalnet-8b": None, "vocalnet-qwen25-7b": 2_425_572_318}[preset]
    assert published is None or parameters == published


def test_a_wrong_name_is_explained(tmp_path):
    out = tmp_path / "bench.json"
    done = CliRunner().invoke(app, ["bench", "--preset", "vocalnet-2b", "--what", "talker", "--out", str(out)])
    assert done.exit_code == 2
    assert "vocalnet-1b" in done.stderr
    with pytest.raises(ValueError, match="first-audio"):
        bench(tiny_config(), "vocoder", OPTIONS)
