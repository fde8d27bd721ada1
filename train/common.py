"""What every recipe shares: its yaml, its folders, its seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vocalnet.config import VocalNetConfig, from_dict

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Recipe:
    """One stage of one scale: `config` holds its rows of the yaml, `model` the whole model's sizes."""

    stage: str
    work: Path
    seed: int
    model: VocalNetConfig
    config: dict[str, Any]

    @property
    def data(self) -> Path:
        """The corpus."""
        return self.work / "data"

    @property
    def folder(self) -> Path:
        """Resume state and metrics of this stage."""
        return self.work / "runs" / self.stage

    @property
    def checkpoint(self) -> Path:
        """The growing checkpoint: one safetensors file per component."""
        return self.work / "checkpoint"


def load_recipes(scale: str, work: Path) -> dict[str, Recipe]:
    """Returns the stages of `configs/SCALE.yaml` by name, in the order of training.

    Raises:
        ValueError: there is no such scale, or the yaml has an unknown key.
    """
    path = CONFIGS / f"{scale}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise ValueError(f"There is no recipe {scale!r}. Available: {known}")
    content = yaml.safe_load(path.read_text())
    model = from_dict(VocalNetConfig, content["model"], f"{path.name}: model")
    return {stage: Recipe(stage, work, content["seed"], model, options) for stage, options in content["stages"].items()}
