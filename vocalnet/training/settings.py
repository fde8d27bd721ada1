"""Settings of a fine-tuning run: one flat yaml, whose unknown keys are errors. Defaults are the paper's values.

The batch size is that of the whole world: how many samples one optimiser step sees on all devices together. What each
device takes at once follows from the number of devices, so a run may go on elsewhere with the same steps.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vocalnet.config import from_dict

METHODS = {1: ("lora", "dora", "qlora", "full", "lisa", "experts"), 2: ("full",)}
ATTENTION = ("sdpa", "flash_attention_2", "eager")


@dataclass(frozen=True)
class Settings:
    """What is trained, on what, and how."""

    stage: int
    method: str
    data: str | Sequence[str]  # a list in the released format, or a folder of packs of it; or several
    output: str  # checkpoints, log and the merged model
    model: str | None = None  # a checkpoint that is trained on: "nano", a folder or a hub id
    llm: str | None = None  # instead: a base LLM, folder or hub id, ...
    encoder: str | None = None  # ... with a Whisper
    family: str = "generic"  # ... prompted as this row of tokens.FAMILIES
    root: str | None = None  # folder that the paths in lists start from; None: each list's own
    dev: str | Sequence[str] | None = None  # a list to measure on, or several
    seed: int = 1
    # stage 1
    lora_rank: int = 64
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lisa_layers: int = 2  # decoder layers that train at a time
    lisa_every: int = 20  # steps until others are drawn
    # stage 2
    talker: dict[str, Any] = field(
        default_factory=dict
    )  # a fresh talker: keys of TalkerConfig; {}: the checkpoint's own
    streaming_share: float = 0.5  # of the samples get the mask of Eq. 3, the others that of Eq. 2
    dedup: bool = False  # speech tokens that repeat the one before are left out, as published
    corrupt: float = 0.0  # share of the speech tokens that enter as random ones
    # optimisation
    epochs: float = 1.0
    steps: int = -1  # instead of epochs
    batch_size: int = 32  # samples per optimiser step, all devices together
    batch_per_device: int = 8  # of them at once on one device; the rest is accumulated
    lr: float = 2e-4
    scheduler: str = "cosine"
    warmup: float = 0.03  # share of all steps
    weight_decay: float = 0.0
    clip: float = 1.0
    optimizer: str = "adamw_torch"  # any `optim` of transformers' TrainingArguments
    # means
    dtype: str = "float32"  # of the weights as loaded; trained ones stay float32
    bf16: bool = False  # autocast
    attention: str = "sdpa"  # of the LLM
    gradient_checkpointing: bool = False
    workers: int = 0  # processes that read data, per device
    log_every: int = 10
    save_every: int = 500
    keep: int = 2  # checkpoints
    report_to: list[str] | None = None  # tensorboard, trackio, wandb, ...; None: TensorBoard where it is installed
    save_dtype: str | None = None  # of the merged model; None: dtype. Vocoder and speech tokenizer stay as they are

    def __post_init__(self) -> None:
        if self.stage not in METHODS:
            raise ValueError(f"There is no stage {self.stage!r}. Choose 1 (alignment) or 2 (speech).")
        if self.method not in METHODS[self.stage]:
            known = ", ".join(METHODS[self.stage])
            raise ValueError(f"Stage {self.stage} has no method {self.method!r}. Available: {known}.")
        if (self.model is None) == (self.llm is None) or (self.llm is None) != (self.encoder is None):
            raise ValueError(
                "Give either a checkpoint (model=...) or a base LLM with its Whisper (llm=... encoder=...)."
            )
        if self.attention not in ATTENTION:
            raise ValueError(f"Unknown attention {self.attention!r}. Available: {', '.join(ATTENTION)}.")
        if self.method == "experts" and self.dtype != "float32" and not self.bf16:
            raise ValueError(f"method=experts with dtype={self.dtype} needs bf16=true: the experts train in float32.")
        if self.save_every % self.log_every:
            raise ValueError(
                f"save_every={self.save_every} must be a multiple of log_every={self.log_every}, so that a resumed run "
                "logs the same losses."
            )

    def accumulation(self, n_devices: int) -> int:
        """Returns how many batches a device accumulates per step.

        Raises:
            ValueError: the batch cannot be dealt out evenly.
        """
        at_once = self.batch_per_device * n_devices
        if self.batch_size % at_once:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be dealt out to {n_devices} device(s) of {self.batch_per_device} "
                f"samples at once. Choose a multiple of {at_once}, or another batch_per_device."
            )
        return self.batch_size // at_once

    @property
    def reports(self) -> list[str]:
        """Trackers of the log beside metrics.jsonl."""
        if self.report_to is not None:
            return list(self.report_to)
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return dataclasses.asdict(self)


def read_settings(path: str | Path | None, overrides: dict[str, Any], pairs: Iterable[str] = ()) -> Settings:
    """Returns settings from a yaml file, then `overrides` (None: not given), then "key=value" pairs.

    Raises:
        ValueError: a file, key or value is wrong, or one that is needed is missing.
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"There is no settings file {path}.")
        values = yaml.safe_load(Path(path).read_text()) or {}
    values |= {key: value for key, value in overrides.items() if value is not None}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"{pair!r} is not of the form key=value.")
        values[key] = _typed(key, value)
    missing = [name for name in ("stage", "method", "data", "output") if name not in values]
    if missing:
        raise ValueError(f"Settings without {', '.join(missing)}. Give them in the yaml or as key=value.")
    return from_dict(Settings, values, str(path or "settings"))


def _typed(key: str, value: str) -> Any:
    """Returns a value of the command line in its field's type; yaml reads 2e-4 as a text, for one."""
    kinds = {f.name: str(f.type) for f in dataclasses.fields(Settings)}
    if kinds.get(key) == "float":
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{key}={value} is not a number.") from None
    is_text = kinds.get(key, "").startswith("str") and not (key in ("data", "dev") and value.startswith("["))
    return value if is_text else yaml.safe_load(value)
