"""Negative log likelihood: recounted from logits, under every kind of head, interrupted and resumed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import vocalnet
from vocalnet.__main__ import app
from vocalnet.audio import load_audio, write_wav
from vocalnet.benchmarks import nll
from vocalnet.benchmarks.nll import benchmark, summary
from vocalnet.decoder.talker import Talker
from vocalnet.llm import Message, prompt_pieces, user_content
from vocalnet.metrics import bootstrap


@pytest.fixture
def pairs(tmp_path):
    """Three questions with answers; the last has no speech tokens."""
    rng = np.random.default_rng(0)
    entries = []
    for i, answer in enumerate(("It is four.", "Four.", "It is two plus two.")):
        write_wav(tmp_path / f"{i}.wav", (0.1 * rng.standard_normal(12_000 + 500 * i)).astype(np.float32), 16_000)
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 27, 9 + i))
        turns = [{"from": "human", "value": "<speech>"}, {"from": "gpt", "value": answer}]
        entries.append({"id": str(i), "speech": f"{i}.wav", "units": f"{i}.npy", "conversations": turns})
    del entries[-1]["units"]
    (tmp_path / "pairs.json").write_text(json.dumps(entries))
    return tmp_path / "pairs.json"


def with_head(model, **changes):
    """The model with a fresh talker of another head."""
    import copy

    torch.manual_seed(0)
    talker = Talker(replace(model.parts.talker, **changes)).eval().requires_grad_(False)
    other = copy.copy(model)
    other._modules = {**model._modules, "talker": talker}
    other.parts = replace(model.parts, talker=talker.config)
    return other


@torch.inference_mode()
def by_hand(model, path, number):
    """Sums of -log p over the text, and over each head's targets, from the logits."""
    entry = json.loads(path.read_text())[number]
    pieces = prompt_pieces(model.tokenizer, model.family, [Message("user", user_content())])
    answer = model.tokenizer.encode(entry["conversations"][1]["value"], add_special_tokens=False)
    features = model.features(load_audio(path.parent / entry["speech"]))
    produced, _ = model.answer_states([features], [pieces], [answer])
    logs = model.llm.get_output_embeddings()(produced[0]).log_softmax(-1)
    text = -sum(logs[i, token] for i, token in enumerate((*answer, model.tokenizer.eos_token_id)))
    units = np.load(path.parent / entry["units"]).tolist()
    hidden = model.talker_inputs(produced)
    logits = model.talker.logits(hidden, [torch.tensor(units)], "full").log_softmax(-1)[:, 0]  # (K, L_s, V_s)
    targets = [*units, model.talker.config.eos_id]
    heads = []
    for k, rows in enumerate(logits):
        own = [(i, targets[i + k]) for i in range(len(rows)) if i + k < len(targets)]
        heads.append((-sum(rows[i, token] for i, token in own), len(own)))
    return text, len(answer) + 1, heads


def test_it_is_the_sum_over_the_targets_of_text_and_of_every_head(tiny_model, pairs, tmp_path):
    report = benchmark(tiny_model, pairs, tmp_path / "r.json")
    assert report["n_spoken"] == 2
    assert len(report["heads"]) == tiny_model.max_tokens_per_step == 3
    want = [by_hand(tiny_model, pairs, number) for number in range(2)]
    for cell, (text, n, heads) in zip(report["cells"], want, strict=False):
        assert cell["text"] == pytest.approx([float(text), n], rel=1e-4)
        assert np.allclose(cell["heads"], [(float(total), count) for total, count in heads], rtol=1e-4)
    totals = [sum(float(heads[k][0]) for _, _, heads in want) for k in range(3)]
    counts = [sum(heads[k][1] for _, _, heads in want) for k in range(3)]
    for head, total, count in zip(report["heads"], totals, counts, strict=True):
        assert head["nll"] == pytest.approx(total / count, rel=1e-4)
        assert head["n_tokens"] == count
        assert head["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-3)
        assert head["nll_per_sample"] == pytest.approx(total / 2, rel=1e-4)
        low, high = head["ci95"]
        assert low <= head["nll"] <= high
    assert {"machine", "date", "seed", "commit"} <= set(report)


@pytest.mark.parametrize("changes", [{"head": "ntp"}, {"head": "group_linear", "group_size": 2}])
def test_every_head_is_measured(tiny_model, pairs, tmp_path, changes):
    model = with_head(tiny_model, **changes)
    report = benchmark(model, pairs, tmp_path / "r.json", mask="streaming")
    assert len(report["heads"]) == model.talker.head.n_heads
    assert report["decoder"] == changes["head"]
    assert all(0 < head["nll"] < 20 for head in report["heads"])


def test_a_better_model_has_less(tiny_model, pairs, tmp_path):
    talker = with_head(tiny_model, head="ntp")
    before = benchmark(talker, pairs, tmp_path / "a.json")["heads"][0]["nll"]
    talker.talker.requires_grad_(True)
    entry = json.loads(pairs.read_text())[0]
    units = torch.from_numpy(np.load(pairs.parent / entry["units"]))
    optimizer = torch.optim.Adam(talker.talker.parameters(), lr=0.01)
    for _ in range(20):
        loss = talker.talker.loss([torch.zeros(3, 32)], [units]).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert benchmark(talker, pairs, tmp_path / "b.json", n=1)["heads"][0]["nll"] < before


def test_an_interrupted_run_goes_on(tiny_model, pairs, tmp_path, monkeypatch):
    whole = benchmark(tiny_model, pairs, tmp_path / "whole.json")
    real, left = nll.sample, [1]

    def breaks(*arguments):
        if not left.pop() if left else True:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(nll, "sample", breaks)
    with pytest.raises(KeyboardInterrupt):
        benchmark(tiny_model, pairs, tmp_path / "r.json")
    monkeypatch.setattr(nll, "sample", real)
    parts = benchmark(tiny_model, pairs, tmp_path / "r.json")
    assert parts["n_resumed"] == 1
    assert {key: parts[key] for key in ("text", "heads", "cells")} == {
        key: whole[key] for key in ("text", "heads", "cells")
    }


def test_bad_lists_are_sentences(tiny_model, pairs, tmp_path):
    entries = json.loads(pairs.read_text())
    entries[1]["conversations"].append({"from": "human", "value": "And?"})
    pairs.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="Item 1: the benchmark takes one human turn and one gpt turn"):
        benchmark(tiny_model, pairs, tmp_path / "r.json")
    np.save(tmp_path / "0.npy", np.array([3, 27]))
    with pytest.raises(ValueError, match=r"Item 0: .*0\.npy holds speech tokens from 3 to 27; .* knows 0 to 26"):
        benchmark(tiny_model, pairs, tmp_path / "t.json")
    (tmp_path / "0.wav").unlink()
    with pytest.raises(ValueError, match="Item 0: "):
        benchmark(tiny_model, pairs, tmp_path / "s.json")


def test_the_command(tiny_model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(vocalnet, "load", lambda name, **arguments: tiny_model, raising=False)
    words = ["eval", "--set", "nll", "--data", pairs, "--out", tmp_path / "r.json", "--n", "2", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["n"] == 2
    assert len(printed["heads"]) == 3


def test_means_of_nothing_are_none():
    assert bootstrap.mean([]) == bootstrap.ratio([], []) == {"mean": None, "ci95": None, "n": 0}
    assert bootstrap.ratio([6.0, 0.0], [1, 3])["mean"] == 1.5
    assert summary([{"text": [2.0, 4], "heads": []}])["heads"] == []
