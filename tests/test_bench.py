"""Benches: cells take turns after a warm-up, and every kind of bench ends in a report of medians."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import tiny_config
from vocalnet.__main__ import app
from vocalnet.bench import PRESETS, WHAT, BenchOptions, _talkers, bench, bench_talker, take_turns
from vocalnet.checkpoint import NANO
from vocalnet.config import VocalNetConfig
from vocalnet.model import VocalNet
from vocalnet.provenance import fingerprint

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
    json.dumps(report)
    if what == "talker":
        cells = {(cell["head"], cell["tokens_per_step"]): cell for cell in report["cells"]}
        assert list(cells) == [("ntp", 1), ("mtp_vocalnet", 1), ("mtp_vocalnet", 3)]
        assert min(cells["ntp", 1]["speedup_over_best_1x"], cells["mtp_vocalnet", 1]["speedup_over_best_1x"]) <= 1
        assert max(cells["ntp", 1]["speedup_over_best_1x"], cells["mtp_vocalnet", 1]["speedup_over_best_1x"]) == 1
        assert cells["mtp_vocalnet", 3]["bound_by_layers"] == 1.0  # one decoder layer: three tokens, three layers
        assert all(len(cell["seconds"]) == 2 for cell in report["cells"])
    elif what == "waterfall":
        how = [(cell["style"], cell["prompt_tokens"]) for cell in report["cells"]]
        assert how == [("exact", 0), ("vocalnet", 0), ("exact", 115), ("vocalnet", 115)]
        assert report["published_ms"][0]["Sum"] == 319.73
        for cell in report["cells"]:
            parts = sum(cell[f"{name}_s"] for name in ("encoder", "llm", "talker", "vocoder"))
            assert (cell["text_tokens"], cell["speech_tokens"]) == (2, 15)
            assert 0 < parts <= 1.5 * cell["median_s"]  # medians of parts, median of sums
    else:
        assert len(report["cells"]) == 2
    if what == "first-audio":
        assert all(0 < cell["llm_s"] < cell["median_s"] for cell in report["cells"])
        assert all(cell["n_tokens"] > 0 < cell["tokens_per_s"] for cell in report["cells"])
    if what == "token2wav":
        assert all(cell["mel_difference"] < 2e-4 for cell in report["cells"])


def test_heads_share_one_packed_backbone():
    config = VocalNetConfig.from_file(NANO / "config.json").talker  # tiny ones have nothing to pack
    talkers = _talkers(config, replace(OPTIONS, heads=("ntp", "mtp_vocalnet"), kernel="packed"))
    assert talkers["ntp"].decoder is talkers["mtp_vocalnet"].decoder
    assert fingerprint(talkers["ntp"]) != fingerprint(talkers["mtp_vocalnet"])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_published_shapes(preset):
    with torch.device("meta"):
        model = VocalNet(PRESETS[preset])
    parameters = sum(p.numel() for p in model.talker.parameters())
    published = {"vocalnet-1b": 832_410_078, "vocalnet-8b": None, "vocalnet-qwen25-7b": 2_425_572_318}[preset]
    assert published is None or parameters == published


def test_the_ends_of_a_long_answer_are_compared(monkeypatch):
    monkeypatch.setattr("vocalnet.bench.LONG_TOKENS", 30)
    monkeypatch.setattr("vocalnet.bench.END_TOKENS", 6)
    monkeypatch.setattr("vocalnet.bench.time.perf_counter", iter(n * n for n in range(99)).__next__)
    (cell,) = bench_talker(
        tiny_config().talker, replace(OPTIONS, heads=("mtp_vocalnet",), tokens_per_step=(3,), is_long=True)
    )
    firsts, lasts = (2**2 - 0, 13**2 - 11**2), (10**2 - 8**2, 21**2 - 19**2)  # of two runs, of ten steps each
    assert (cell["first_6_s"], cell["last_6_s"]) == (sum(firsts) / 2, sum(lasts) / 2)


def test_heads_share_one_backbone():
    talkers = _talkers(tiny_config().talker, replace(OPTIONS, heads=("mtp_vocalnet", "group_trans")))
    first, second = talkers.values()
    assert first.decoder is second.decoder
    assert not any(weight.is_meta or weight.isnan().any() for weight in second.parameters())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "vocalnet-2b"], "Unknown preset 'vocalnet-2b'. Available: nano, vocalnet-1b"),
        (["--what", "vocoder"], "available: talker, token2wav, first-audio"),
        (["--tokens-per-step", "1,x"], "give whole numbers from 1 by commas"),
        (["--tokens-per-step", "1,,3"], "give whole numbers from 1 by commas"),
        (["--tokens-per-step", "0"], "give whole numbers from 1 by commas"),
        (["--tokens-per-step", "9"], "takes (9,) tokens per step"),
        (["--dtype", "int7"], "Unknown dtype 'int7'"),
        (["--dtype", "bfloat16", "--kernel", "int8"], "starts from float32"),
        (["--what", "token2wav", "--dtype", "int8"], "computes in float32"),
        (["--kernel", "fast"], "available: plain, packed, int8"),
        (["--kernel", "graphed"], "records CUDA graphs"),
        (["--heads", "mtp"], "unknown head 'mtp'"),
        (["--device", "abacus"], "There is no device 'abacus' here"),
        (["--device", "cuda:9"], "There is no device 'cuda:9' here"),
    ],
)
def test_bad_options_are_one_sentence(arguments, sentence, tmp_path):
    out = tmp_path / "bench.json"
    options = {"--preset": "nano", "--what": "talker", "--out": str(out)} | dict(
        zip(*[iter(arguments)] * 2, strict=True)
    )
    done = CliRunner().invoke(app, ["bench", *(word for pair in options.items() for word in pair)])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_int8_is_a_dtype_of_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr("vocalnet.config.VocalNetConfig.from_file", lambda path: tiny_config())
    out = tmp_path / "bench.json"
    how = ["--preset", "nano", "--what", "talker", "--dtype", "int8", "--tokens-per-step", "3", "--n-tokens", "6"]
    done = CliRunner().invoke(app, ["bench", *how, "--repeats", "1", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.stderr
    report = json.loads(out.read_text())
    assert (report["dtype"], report["kernel"], len(report["cells"])) == ("int8", "int8", 1)
    assert json.loads(done.stdout.splitlines()[-1]) == report
