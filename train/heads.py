"""Trains one further decoder of Table 3 or 4: python -m train.heads --head group_linear_3 [--seed 2].

All of them (python -m train.run --only heads) learn from the same frozen model's states on the same answers, which the
first training keeps on disk for the others, and with the same steps and batches: the budget that the scale's yaml names
under `heads`. Each starts from fresh weights, projector and decoder layers included, so that none inherits what another
decoder was trained for; unless the yaml says `start: talker`, for a quick first look. The seed is that of weights,
batches and dropout; the answers are the same under every seed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
import yaml

from train.common import CONFIGS, Recipe, assemble, load_recipes, run_once
from vocalnet.checkpoint import save_decoder
from vocalnet.config import TalkerConfig, from_dict
from vocalnet.decoder.talker import Talker
from vocalnet.packing import read_weights
from vocalnet.training.speeches import Speeches, cache_key, cached_speeches
from vocalnet.training.stage_talker import fit_talker, gather_speeches

FROZEN = ("encoder", "adaptor", "llm", "speech_tokenizer")  # components that the training data depend on


def head_config(recipe: Recipe, head: str) -> TalkerConfig:
    """Returns the scale's talker with what `configs/heads/HEAD.yaml` changes.

    Raises:
        ValueError: there is no such yaml, it has an unknown key, or the checkpoint's own talker has that name.
    """
    path = CONFIGS / "heads" / f"{head}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ValueError(f"There is no head {head!r}. Available: {known}")
    if head == recipe.model.decoder_name:
        raise ValueError(f"{head!r} is the name of the checkpoint's own talker. Give {path} another name.")
    assert recipe.model.talker is not None
    return from_dict(TalkerConfig, asdict(recipe.model.talker) | yaml.safe_load(path.read_text()), path.name)


def common_speeches(recipe: Recipe) -> list[Speeches]:
    """Returns the answers that every decoder learns from, and those of the dev split."""
    frozen = (*FROZEN, "experts") if recipe.model.experts else FROZEN
    files = [recipe.checkpoint / f"{name}.safetensors" for name in frozen]
    files += [recipe.data / "train.json", recipe.data / "dev.json"]
    settings = {name: recipe.config[name] for name in ("per_answer", "n_dev", "typed")} | {"seed": recipe.seed}
    key = cache_key(files, settings)
    model = cache(lambda: assemble(recipe, encoder="encoder", adaptor="adaptor", llm="llm"))

    def speeches(split: str) -> Speeches:
        return gather_speeches(model(), recipe.data, split, recipe.config, recipe.seed)

    return [
        cached_speeches(recipe.folder / f"{split}.safetensors", key, lambda split=split: speeches(split))
        for split in ("train", "dev")
    ]


def start_from(talker: Talker, path: Path) -> list[str]:
    """Takes over a trained talker's weights that this one has too, by name and shape; returns the others' names."""
    trained, own = read_weights(path), talker.state_dict()
    shared = {key: value for key, value in trained.items() if key in own and own[key].shape == value.shape}
    talker.load_state_dict(shared, strict=False)
    return sorted(own.keys() - shared.keys())


def train_head(recipe: Recipe, head: str, seed: int) -> None:
    """Trains a decoder into the checkpoint's heads/, as HEAD, or as HEAD_seedN under another seed than the scale's."""
    name = head if seed == recipe.seed else f"{head}_seed{seed}"
    config = head_config(recipe, head)
    folder = recipe.folder / name

    def work() -> None:
        answers, dev = common_speeches(recipe)
        torch.manual_seed(seed)
        talker = Talker(config)
        if recipe.config.get("start") == "talker":
            start_from(talker, recipe.checkpoint / "talker.safetensors")
        fit_talker(talker, answers, dev, folder, recipe.config, seed)
        assert recipe.model.talker is not None
        save_decoder(recipe.checkpoint, name, talker, recipe.model.talker, torch.float16)

    run_once(f"heads/{name}", folder, seed, work)


def main() -> int:
    """Parses arguments and trains one decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", required=True, help="a yaml in train/configs/heads")
    parser.add_argument("--seed", type=int, help="default: the scale's")
    parser.add_argument("--scale", default="full", help="a yaml in train/configs")
    parser.add_argument("--work", type=Path, help="folder of corpus, runs and checkpoint (default: work/SCALE)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        recipe = load_recipes(arguments.scale, arguments.work or Path("work") / arguments.scale)["heads"]
        train_head(recipe, arguments.head, recipe.seed if arguments.seed is None else arguments.seed)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
