"""Recipe 0: speaks nano's questions in many voices and its answers in one, and writes the data lists."""

from __future__ import annotations

from train.common import Recipe
from vocalnet.training.corpus import build_corpus


def main(recipe: Recipe) -> None:
    """Writes `data/{train,dev}.json` (the released format), the question clips and the answer clips."""
    build_corpus(recipe.data, recipe.config["n_train"], recipe.config["n_dev"], recipe.seed, recipe.config["workers"])
