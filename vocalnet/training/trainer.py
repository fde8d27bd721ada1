"""transformers' Trainer for both stages: what it lacks is here, all else (optimizers, schedules, DDP, FSDP, DeepSpeed,
trackers) is its own.

- Losses are weighted by target over the global batch, head by head: every head's mean is over all of its targets on all
  devices and in all accumulated batches.
- Every step draws from a seed of its own, and the order of the samples depends on the global batch alone, so a resumed
  run repeats an uninterrupted one, and one on another number of devices sees the same samples.
- Checkpoints hold the trained weights only (sharded runs: as the library shards them) and are sealed when whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vocalnet.files import atomic_path
from vocalnet.provenance import peak_memory_mb
from vocalnet.training import checkpoints
from vocalnet.training.draws import integer
from vocalnet.training.examples import Examples, Order, collate
from vocalnet.training.loop import cut_log
from vocalnet.training.methods import Prepared, fill
from vocalnet.training.objectives import Objective, Sums
from vocalnet.training.settings import Settings

TRAINED = "trained.safetensors"
METRICS = "metrics.jsonl"


class StageTrainer(Trainer):
    """Trains an `Objective`."""

    loss_is_scaled_for_ga = True  # by the targets of the whole accumulated batch

    def __init__(
        self,
        prepared: Prepared,
        settings: Settings,
        train: Examples,
        dev: Examples | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Takes a stage, its settings, and the samples to train and to measure on."""
        self.settings = settings
        self.objective: Objective = prepared.objective
        self.trained = prepared.trained  # all of them: LISA freezes most later
        self._window: list[Sums] = []  # sums of the steps since the last line of the log
        self._window_began = 0.0  # when its first step did, so that start-up, evaluation and saving are left out
        self._place = (-1, 0)  # step, and batch within it
        super().__init__(
            model=prepared.objective,
            args=training_arguments(settings, has_dev=dev is not None),
            data_collator=collate,
            train_dataset=train,
            eval_dataset=dev,
            callbacks=[EpochOfOrder(), OwnIntervals(), MetricsFile(settings.folder / METRICS), *callbacks],
        )
        self.head_weights = torch.tensor(self.objective.heads(), device=self.args.device)

    # --- losses ---

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Returns how many targets each head has in the global batch, (K,)."""
        counts = torch.stack([self.objective.n_targets(batch) for batch in batch_samples]).sum(0).to(device)  # (K,)
        return self.accelerator.reduce(counts, "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Returns this batch's share of the global batch's loss, times the number of devices, which is averaged out."""
        sums: Sums = model(**inputs)
        assert isinstance(num_items_in_batch, Tensor)
        self._window.append({name: value.detach() for name, value in sums.items()})
        shares = sums["loss"] / num_items_in_batch.clamp(min=1) * self.head_weights  # (K,)
        loss = shares.sum() * self.accelerator.num_processes
        return (loss, sums) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Seeds the draws of dropout with (seed, step, batch within it, rank), then goes on as usual."""
        step, batch = self.state.global_step, self._place[1] + 1
        self._place = (step, batch if step == self._place[0] else 0)
        if not self._window:
            self._window_began = time.monotonic()
        torch.manual_seed(integer(self.settings.seed, *self._place, self.args.process_index))
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Returns loss, entropy and accuracy of every head over the dev samples, each counted once on one device."""
        dev, n_ranks = self.eval_dataset, self.accelerator.num_processes
        assert isinstance(dev, Examples)
        size = self.args.per_device_eval_batch_size
        self.objective.eval()
        parts = []
        for start in range(0, len(dev), size * n_ranks):
            first = start + self.args.process_index * size
            index = range(first, min(first + size, len(dev)))
            with torch.no_grad():  # sharded models need every device in every pass: one without samples takes the first
                sums = self.model_wrapped(**collate([dev[0, i] for i in index or [0]]))
            parts.append({name: value if index else torch.zeros_like(value) for name, value in sums.items()})
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._means(parts).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # --- the order of samples ---

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        settings, examples = self.settings, self.train_dataset
        assert isinstance(examples, Examples)
        return Order(len(examples), settings.batch_size, settings.seed, examples.sizes())

    # --- checkpoints ---

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint, seals it, and only then removes older ones."""
        folder = self.settings.folder / f"{checkpoints.PREFIX}{self.state.global_step}"
        if self.is_world_process_zero() and folder.exists():
            checkpoints.remove(folder)  # what a killed run left half-written
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoints.seal(folder)
            checkpoints.prune(folder, self.settings.keep)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Writes the trained weights alone; `state_dict`: those of a sharded model, gathered."""
        if self.args.should_save:
            assert output_dir is not None
            self.save_trained(Path(output_dir) / TRAINED, state_dict)

    def save_trained(self, path: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes the trained weights as safetensors; the file appears whole or not at all."""
        source = state_dict or self.trained
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({name: source[name].detach().cpu().contiguous() for name in self.trained}, temporary)

    def gathered(self) -> dict[str, Tensor] | None:
        """Returns the weights of a sharded model, whole, on the first device; None where nothing is sharded."""
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return self.accelerator.get_state_dict(self.model_wrapped) if is_sharded else None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            path = Path(resume_from_checkpoint) / TRAINED
            fill(self.trained, load_file(path), str(path))

    def _save_rng_state(self, output_dir: str) -> None:
        """Has nothing to save: every step is seeded."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Has nothing to load."""

    # --- the log ---

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the steps since the last line have summed up, over all devices, to a line with a loss."""
        if "loss" in logs:
            elapsed_s = time.monotonic() - self._window_began
            n_tokens = sum(sums["n"][0] for sums in self._window)
            logs |= self._means(self._window)
            logs["tokens_per_s"] = float(self.accelerator.reduce(n_tokens, "sum")) / elapsed_s
            logs["memory_gb"] = _peak_memory_gb(self.args.device)
            self._window = []
        super().log(logs, start_time)

    def _means(self, parts: Sequence[Sums]) -> dict[str, float]:
        """Returns the total loss and every head's loss, entropy (nats) and accuracy per target, over all devices."""
        totals = {name: self.accelerator.reduce(sum(part[name] for part in parts), "sum") for name in parts[0]}
        means = {name: totals[name] / totals["n"].clamp(min=1) for name in ("loss", "entropy", "right")}  # (K,) each
        named = {"loss": "loss", "entropy": "entropy", "right": "accuracy"}
        values = {f"{named[name]}_head{k}": float(x) for name, row in means.items() for k, x in enumerate(row)}
        return values | {"total": float((means["loss"] * self.head_weights).sum())}


class EpochOfOrder(TrainerCallback):
    """Tells the order of samples which epoch it is, resumed ones included."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finds the order under what accelerate and the loader put around it."""
        loader: Any = kwargs["train_dataloader"]
        sampler = loader.batch_sampler
        while not isinstance(sampler, Order):
            sampler = getattr(sampler, "batch_sampler", None) or sampler.sampler
        sampler.set_epoch(int(state.epoch or 0))


class OwnIntervals(TrainerCallback):
    """Logs, measures and saves as often as the settings say: a resumed run would go on as its checkpoint says."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Puts the settings' intervals in place of those that came with the checkpoint."""
        state.compute_steps(args, state.max_steps)


class MetricsFile(TrainerCallback):
    """Writes every line of the log as JSON; a resumed run first drops the lines of steps that it will repeat."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Cuts the file back to the step that the run goes on from."""
        if state.is_world_process_zero:
            cut_log(self.path, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Appends a line."""
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def training_arguments(settings: Settings, has_dev: bool = False) -> TrainingArguments:
    """Returns the settings in the library's words; how many devices there are it knows from the launcher.

    Raises:
        ValueError: the batch cannot be dealt out, or the optimizer, schedule or a tracker is unknown or not installed.
    """
    try:
        arguments = TrainingArguments(
            output_dir=settings.output,
            use_cpu=not torch.cuda.is_available(),
            per_device_train_batch_size=settings.batch_per_device,
            per_device_eval_batch_size=settings.batch_per_device,
            num_train_epochs=settings.epochs,
            max_steps=settings.steps,
            learning_rate=settings.lr,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            optim=settings.optimizer,
            bf16=settings.bf16,
            logging_steps=settings.log_every,
            logging_nan_inf_filter=False,
            eval_strategy="steps" if has_dev else "no",
            eval_steps=settings.save_every,
            save_steps=settings.save_every,
            report_to=settings.reports,
            seed=settings.seed,
            dataloader_num_workers=settings.workers,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,  # batches are lists, of sizes of their own
            remove_unused_columns=False,
            label_names=[],
            ddp_find_unused_parameters=settings.method == "lisa",  # most of its layers are frozen at any time
        )
    except (ValueError, ImportError) as error:
        raise ValueError(f"These settings do not run here: {error}") from error
    arguments.gradient_accumulation_steps = settings.accumulation(arguments.world_size)
    return arguments


def _peak_memory_gb(device: torch.device) -> float:
    """Returns the most memory that this process has held so far, in GB: the device's, on a CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return (peak_memory_mb() or 0.0) / 1e3
