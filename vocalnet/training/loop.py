"""The training loop of nano's stages: seeded, logged, and resumable after SIGKILL to the same losses.

The batch of step k and all its random draws depend on (seed, k) alone, so a resumed run repeats an uninterrupted one
bit for bit on the CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vocalnet.files import atomic_path

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class LoopConfig:
    """Optimisation of one stage."""

    steps: int
    lr: float
    warmup: int = 100
    final_lr: float = 0.05  # share of lr at the end of the cosine
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    save_every_s: float = 120.0
    log_every: int = 20
    average: float = 0.0  # decay of the exponential moving average of the weights that is returned; 0: none


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_lr` of the peak."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def step_seed(seed: int, step: int) -> int:
    """A seed for everything random in one step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def batch_order(
    n: int, batch_size: int, seed: int, lengths: Iterable[int] | None = None
) -> Callable[[int], np.ndarray]:
    """Returns step -> item indices: epochs of shuffled batches; with `lengths`, of similar items each."""
    per_epoch = max(1, n // batch_size)
    sizes = None if lengths is None else np.asarray(list(lengths))

    def batches(epoch: int) -> np.ndarray:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(n)
        if sizes is not None:
            pool = batch_size * 50
            parts = np.split(order, range(pool, n, pool))
            order = np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in parts])
        rows = np.resize(order, (per_epoch, batch_size))
        return rows[rng.permutation(per_epoch)]

    cache: dict[int, np.ndarray] = {}

    def batch(step: int) -> np.ndarray:
        epoch = step // per_epoch
        if epoch not in cache:
            cache.clear()
            cache[epoch] = batches(epoch)
        return cache[epoch][step % per_epoch]

    return batch


def cut_log(path: Path, last_step: int) -> None:
    """Drops the lines of a log (JSON, each with its "step") that come after a step, and one that was cut by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().split("\n"):
        try:
            is_kept = json.loads(line)["step"] <= last_step
        except ValueError:  # empty, or cut
            is_kept = False
        kept += [f"{line}\n"] if is_kept else []
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept))


def train(
    modules: dict[str, nn.Module],
    losses: Callable[[int, torch.Generator], Losses],
    config: LoopConfig,
    folder: Path,
    seed: int,
    evaluate: Callable[[], dict[str, float]] | None = None,
    eval_every: int = 0,
) -> None:
    """Minimises `losses(step, generator)["total"]` over the trainable weights of `modules`, in place.

    Args:
        modules: what is trained and checkpointed, by name.
        losses: returns the losses of one step by name, scalars; "total" is minimised, all are logged. Its draws are to
            come from the generator.
        config: steps, learning rate and the like.
        folder: takes `state.pt` (resume) and `metrics.jsonl`; a finished stage is recognised there and not repeated.
        seed: of every step's draws, dropout included.
        evaluate: returns figures of a dev set, logged every `eval_every` steps and at the end.
        eval_every: 0: at the end alone, and there only with `evaluate` and a number above 0.

    Raises:
        ValueError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = nn.ModuleDict(modules)
    weights: list[Tensor] = [p for p in every.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    averaged = [w.detach().clone() for w in weights] if config.average else []
    start, state_path, log_path = 0, folder / "state.pt", folder / "metrics.jsonl"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        every.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        averaged, start = [value.detach() for value in state["averaged"]], state["step"]
    cut_log(log_path, start - 1)

    def save(step: int) -> None:
        state = {"modules": every.state_dict(), "optimizer": optimizer.state_dict(), "averaged": averaged, "step": step}
        with atomic_path(state_path) as temporary:
            torch.save(state, temporary)

    saved_at = began = time.monotonic()
    with log_path.open("a") as log, tqdm(initial=start, total=config.steps, desc=folder.name, mininterval=5) as bar:
        for step in range(start, config.steps):
            every.train()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            torch.manual_seed(step_seed(seed, step))  # dropout draws from the global generator
            values = losses(step, torch.Generator().manual_seed(step_seed(seed + 1, step)))
            optimizer.zero_grad(set_to_none=True)
            values["total"].backward()
            norm = nn.utils.clip_grad_norm_(weights, config.clip)
            if torch.isfinite(norm):
                optimizer.step()
            if config.average:
                decay = min(config.average, (1 + step) / (10 + step))
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, weights, 1 - decay)
            bar.update()
            last = step + 1 == config.steps
            if step % config.log_every == 0 or last:
                row: dict[str, float] = {"step": step, "lr": learning_rate(config, step), "grad_norm": norm.item()}
                row |= {name: value.item() for name, value in values.items()}
                row["elapsed_s"] = round(time.monotonic() - began, 1)
                if evaluate and eval_every and (step % eval_every == 0 or last):
                    every.eval()
                    with torch.no_grad():
                        row |= evaluate()
                log.write(json.dumps(row) + "\n")
                log.flush()
                bar.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k in ("total", "grad_norm")})
            if time.monotonic() - saved_at > config.save_every_s or last:
                save(step + 1)
                saved_at = time.monotonic()
    if averaged:
        with torch.no_grad():
            for weight, value in zip(weights, averaged, strict=True):
                weight.copy_(value)
    every.eval()
