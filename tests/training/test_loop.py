"""The training loop: it learns, and a killed run continues to the very same losses."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from vocalnet.training.loop import LoopConfig, batch_order, learning_rate, train

CONFIG = LoopConfig(steps=12, lr=0.05, warmup=2, log_every=1, average=0.9, save_every_s=0.0)


class Killed(Exception):
    """Stands for SIGKILL between two steps."""


def _run(folder, die_at=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    data = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    order = batch_order(32, 8, seed=1)

    def losses(step, generator):
        if step == die_at:
            raise Killed
        x = data[order(step)]
        noise = 0.1 * torch.randn(8, 1, generator=generator)
        return {"total": (model(x) - x.sum(1, keepdim=True) + noise).square().mean()}

    train({"model": model}, losses, CONFIG, folder, seed=3)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return model, [row["total"] for row in rows], [row["step"] for row in rows]


@pytest.mark.parametrize("die_at", [1, 5, 11])
def test_a_killed_run_continues_bit_for_bit(tmp_path, die_at):
    model, totals, _ = _run(tmp_path / "whole")
    with pytest.raises(Killed):
        _run(tmp_path / "killed", die_at)
    resumed, resumed_totals, steps = _run(tmp_path / "killed")
    assert resumed_totals == totals
    assert steps == list(range(12))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    assert totals[-1] < totals[0]


def test_an_interrupted_write_never_replaces_a_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        _run(tmp_path, die_at=5)

    def cut_short(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(ValueError, match="disk full"):
        _run(tmp_path)
    monkeypatch.undo()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 5


def test_a_line_of_the_log_that_was_cut_is_dropped(tmp_path):
    with pytest.raises(Killed):
        _run(tmp_path, die_at=5)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "tot')
    assert _run(tmp_path)[2] == list(range(12))


def test_an_epoch_sees_everything_once_and_lengths_are_bucketed():
    lengths = np.random.default_rng(0).integers(1, 100, 64)
    order = batch_order(64, 8, seed=0, lengths=lengths)
    epoch = [order(step) for step in range(8)]
    assert sorted(np.concatenate(epoch)) == list(range(64))
    spread = np.mean([np.ptp(lengths[row]) for row in epoch])
    assert spread < np.ptp(lengths) / 2
    assert not np.array_equal(order(0), order(8))


def test_the_learning_rate_warms_up_and_ends_at_its_share():
    rates = [learning_rate(CONFIG, step) for step in range(13)]
    assert rates[0] == pytest.approx(0.025)
    assert max(rates) == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.05 * CONFIG.final_lr)
