"""What the tests of fine-tuning share: a tiny checkpoint, a tiny list in the released format, and processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.conftest import tiny_config
from vocalnet.audio import write_wav
from vocalnet.model import VocalNet
from vocalnet.training.settings import Settings
from vocalnet.training.stage_text import train_bpe

ANSWERS = ("It is four.", "It is two.", "What is it?", "Two plus two is four.")


def tiny_checkpoint(folder: Path, **talker: Any) -> Path:
    """Writes a random checkpoint whose LLM has three layers, in float32; returns its folder."""
    torch.manual_seed(0)
    parts = tiny_config()
    parts = dataclasses.replace(parts, llm={**parts.llm, "num_hidden_layers": 3})
    if talker:
        parts = dataclasses.replace(parts, talker=dataclasses.replace(parts.talker, **talker))
    model = VocalNet(parts, train_bpe(["What is two plus two?", "It is four."] * 3, 300))
    model.save_pretrained(str(folder), dtype=torch.float32)
    return folder


def tiny_list(folder: Path, n: int = 14) -> Path:
    """Writes clips of tones, each answered after its pitch, with speech tokens; returns the list.

    Of 14 clips an epoch has three steps of `tiny_settings`, so that saves every two fall into the middle of one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    entries = []
    for i in range(n):
        times_s = np.arange(6400 + 1600 * (i % 3)) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * 220 * (1 + i % 4) * times_s) + 0.01 * rng.standard_normal(len(times_s))
        write_wav(folder / f"{i}.wav", tone.astype(np.float32), 16_000)
        np.save(folder / f"{i}.npy", rng.integers(0, 27, 5 + 4 * (i % 4)))
        turns = [{"from": "human", "value": "<speech>"}, {"from": "gpt", "value": ANSWERS[i % 4]}]
        entries.append({"id": f"clip-{i}", "speech": f"{i}.wav", "units": f"{i}.npy", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(entries))
    return folder / "train.json"


def tiny_settings(output: Path, model: Path | str, data: Path, **changes: Any) -> Settings:
    """Returns settings of a run of a few steps that logs each of them."""
    values: dict[str, Any] = {
        "stage": 1,
        "method": "lora",
        "model": str(model),
        "data": str(data),
        "output": str(output),
        "steps": 6,
        "batch_size": 4,
        "batch_per_device": 4,
        "lr": 0.01,
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "lisa_layers": 1,
        "lisa_every": 2,
        "log_every": 1,
        "save_every": 2,
        "report_to": [],
    }
    return Settings(**(values | changes))


def losses(output: str | Path, name: str = "loss") -> list[float]:
    """Returns one column of a run's log, step by step."""
    rows = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if "loss" in row]


def run_ranks(n: int, work: Callable[[], None]) -> None:
    """Runs `work` in n processes of one gloo group; they are forked, so that nothing is imported again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        start(work, RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE=str(n), MASTER_PORT=str(port)) for i in range(n)
    ]
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * n


def start(work: Callable[[], None], **variables: str) -> Any:
    """Starts `work` in a forked process with environment variables of its own; returns the process."""

    def child() -> None:
        os.environ.update({"MASTER_ADDR": "127.0.0.1", **variables})
        torch.set_num_threads(1)
        for state in (PartialState, AcceleratorState, GradientState):
            state._reset_state()  # what this process may have set up in an earlier test
        work()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process
