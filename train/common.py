"""What every recipe shares: its yaml, its folders, its seed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoTokenizer

from vocalnet.checkpoint import NANO, load_component
from vocalnet.config import VocalNetConfig, from_dict
from vocalnet.experts import experts
from vocalnet.files import write_json
from vocalnet.model import VocalNet
from vocalnet.provenance import provenance

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
    if content["model"] == "nano":  # a recipe that goes on from the shipped checkpoint
        model = VocalNetConfig.from_file(NANO / "config.json")
    else:
        model = from_dict(VocalNetConfig, content["model"], f"{path.name}: model")
    return {stage: Recipe(stage, work, content["seed"], model, options) for stage, options in content["stages"].items()}


def assemble(recipe: Recipe, **files: str) -> VocalNet:
    """Returns the model with components loaded from the named files, the others fresh, from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    llm_config = AutoConfig.for_model(recipe.model.llm["model_type"])  # else the tokenizer would ask config.json for it
    model = VocalNet(recipe.model, AutoTokenizer.from_pretrained(recipe.checkpoint, config=llm_config))
    modules = {"encoder": model.encoder.whisper, "llm": model.llm, "adaptor": model.adaptor, "talker": model.talker}
    if recipe.model.experts and files.get("llm") == "llm":  # as stage 1 left it
        modules["experts"] = experts(model.llm)
        files["experts"] = "experts"
    for component, name in files.items():
        load_component(recipe.checkpoint, name, modules[component])
    return model


def run_once(name: str, folder: Path, seed: int, work: Callable[[], None]) -> None:
    """Runs `work` unless the `done.json` of its folder exists, and writes that afterwards."""
    done = folder / "done.json"
    if done.exists():
        print(f"{name}: done before", file=sys.stderr)
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    work()
    write_json(done, {"stage": name, "seconds": round(time.monotonic() - began, 1), **provenance(seed)})
