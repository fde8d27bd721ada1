"""Makes nano: every stage in order, or one. A stage that is done is skipped, one that was killed is resumed.

python -m train.run --scale full            (make nano)
python -m train.run --scale smoke           (make nano SCALE=smoke): every stage for a few steps
python -m train.run --scale newcomer        the shipped nano and a small corpus, to train one more decoder on
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from train.common import load_recipes, run_once
from train.stages import STAGES


def run_stage(name: str, scale: str, work: Path) -> None:
    """Runs one stage unless its `done.json` exists."""
    recipes = load_recipes(scale, work)
    if name not in recipes:
        raise ValueError(f"The recipe {scale!r} has no stage {name!r}. It has: {', '.join(recipes)}")
    recipe = recipes[name]
    run_once(name, recipe.folder, recipe.seed, lambda: STAGES[name](recipe))


def main() -> int:
    """Parses arguments and runs the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="full", help="a yaml in train/configs")
    parser.add_argument("--only", nargs="*", choices=STAGES, help="these stages only")
    parser.add_argument("--work", type=Path, help="folder of corpus, runs and checkpoint (default: work/SCALE)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work or Path("work") / arguments.scale
    try:
        for name in arguments.only or load_recipes(arguments.scale, work):
            run_stage(name, arguments.scale, work)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
