"""`vocalnet plan --check`: small runs, their measured memory beside what the plan says.

On a CPU that is the growth of resident memory, on a GPU the peak of what torch allocates there. Each case runs in a
process of its own, whose memory was taken before the model was built and after a tiny run, so that libraries and their
buffers are in it. Samples are random numbers of the planned lengths.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vocalnet.checkpoint import named_dtype, usable_device
from vocalnet.config import AdaptorConfig, EncoderConfig, TalkerConfig, VocalNetConfig
from vocalnet.encoder import MEL_RATE_HZ
from vocalnet.model import VocalNet
from vocalnet.provenance import provenance
from vocalnet.training.lisa import Lisa
from vocalnet.training.methods import equip
from vocalnet.training.plan import Shape, plan
from vocalnet.training.settings import Settings
from vocalnet.training.stage_text import train_bpe

STEPS = 3
BOUNDS = {"cpu": 0.15, "cuda": 0.10}
CASES: dict[str, dict[str, Any]] = {
    "stage 1, lora": {"stage": 1, "method": "lora", "batch_per_device": 4},
    "stage 1, full": {"stage": 1, "method": "full", "batch_per_device": 2},
    "stage 1, lisa": {"stage": 1, "method": "lisa", "batch_per_device": 4},
    "stage 1, lora, checkpointing": {
        "stage": 1,
        "method": "lora",
        "batch_per_device": 8,
        "gradient_checkpointing": True,
    },
    "stage 2, full": {"stage": 2, "method": "full", "batch_per_device": 2},
    "stage 1, lora, bf16": {"stage": 1, "method": "lora", "batch_per_device": 4, "dtype": "bfloat16", "bf16": True},
}
SHAPE = Shape(audio_s=2.0, prompt=20, answer=160, speech=300)


def sizes(dim: int = 512, n_layers: int = 8) -> VocalNetConfig:
    """Returns a VocalNet without vocoder, small enough for any machine, large enough to be seen in its memory."""
    llm = {
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": 4 * dim,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 8192,
        "tie_word_embeddings": True,
    }
    talker = TalkerConfig(llm_dim=dim, dim=dim, ffn_dim=4 * dim, n_heads=8, n_projector_layers=2, n_layers=4, mtp_num=4)
    encoder = EncoderConfig(80, 128, 2, 4, 512, window_s=8.0, pad_to_window=False)
    return VocalNetConfig(encoder=encoder, adaptor=AdaptorConfig(5, 256), llm=llm, talker=talker, flow=None, hift=None)


def settings_of(case: dict[str, Any]) -> Settings:
    """Returns the settings of one of `CASES`."""
    batch = case["batch_per_device"]
    return Settings(model="random", data="random", output="none", batch_size=batch, lora_rank=32, **case)


def check(names: list[str] | None = None, device: str = "cpu") -> dict[str, Any]:
    """Returns planned and measured bytes of the cases, and their provenance.

    Raises:
        ValueError: there is no such device, or a run could not be measured.
    """
    kind = usable_device(device).type
    if kind not in BOUNDS:
        raise ValueError(f"plan --check measures on {' or '.join(BOUNDS)}, not on {kind}.")
    cells: list[dict[str, Any]] = []
    for name in names or [*CASES]:
        measured = _in_its_own_process(name, kind)
        planned = plan(sizes(), settings_of(CASES[name]), SHAPE).peak
        error = planned / measured - 1
        cells.append({"case": name, "planned": planned, "measured": measured, "error": round(error, 4)})
    worst = max(abs(cell["error"]) for cell in cells)
    return {"what": "plan", "device": kind, "cells": cells, "worst": worst, "bound": BOUNDS[kind], **provenance(0)}


def growth(name: str, device: str) -> int:
    """Returns by how many bytes the memory that this process holds grows, at most, in a case's run."""
    torch.manual_seed(0)
    tiny = {**CASES[name], "batch_per_device": 1}
    run(sizes(32, 2), settings_of(tiny), Shape(0.5, 4, 8, 20), device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(sizes(), settings_of(CASES[name]), SHAPE, device)
        return torch.cuda.max_memory_allocated() - before
    _reset_peak()
    before = _status("VmRSS")
    run(sizes(), settings_of(CASES[name]), SHAPE, device)
    return _status("VmHWM") - before


def run(config: VocalNetConfig, settings: Settings, shape: Shape, device: str) -> None:
    """Trains a random model for a few steps."""
    tokenizer = train_bpe(["What is two plus two?"], 300)
    with torch.device(device):
        model = nn.Module.to(VocalNet(config, tokenizer), dtype=named_dtype(settings.dtype))
    prepared = equip(model, settings)
    del model
    prepared.aside.clear()  # a device does not hold what the stage does without
    objective = prepared.objective.train()
    optimizer = torch.optim.AdamW(prepared.trained.values(), lr=1e-4)
    lisa = Lisa(objective, settings) if settings.method == "lisa" else None
    for step in range(STEPS):
        if lisa is not None:
            lisa.choose(step, optimizer)
        with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
            sums = objective(**_batch(config, settings, shape))
        (sums["loss"] / sums["n"] * sums["loss"].new_tensor(objective.heads())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def _batch(config: VocalNetConfig, settings: Settings, shape: Shape) -> dict[str, Any]:
    """Returns random samples."""
    B, half = settings.batch_per_device, shape.prompt // 2
    n_frames = int(shape.audio_s * MEL_RATE_HZ)
    return {
        "windows": [[(torch.randn(config.encoder.n_mels, n_frames), n_frames // 2)] for _ in range(B)],
        "prompt": [[torch.randint(4, 200, (half,)).tolist()] * 2 for _ in range(B)],
        # the last one is shorter, so that there is something to mask, as in real batches
        "answer": [torch.randint(4, 200, (shape.answer - (i == B - 1),)).tolist() for i in range(B)],
        "units": [torch.randint(6561, (shape.speech,)) for _ in range(B)],
        "inputs": [torch.randint(6561, (shape.speech,)) for _ in range(B)],
        "mask": ["streaming" if i % 2 else "full" for i in range(B)],
    }


def _in_its_own_process(name: str, device: str) -> int:
    """Returns `growth`, with an allocator that gives large pieces back at once."""
    code = f"from vocalnet.training.plan_check import growth; print(growth({name!r}, {device!r}))"
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    if done.returncode:
        raise ValueError(f"The run {name!r} could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout.splitlines()[-1])


def _status(key: str) -> int:
    """Returns a line of the process's status, in bytes.

    Raises:
        ValueError: this system does not tell.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise ValueError("plan --check needs /proc, as on Linux.") from error
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
