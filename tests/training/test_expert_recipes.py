"""Speech experts in the recipes: what stage 1 left is what stage 2 trains on."""

import copy
from dataclasses import replace

import pytest
import torch

from train.common import Recipe, assemble
from train.heads import common_speeches
from train.stages import align
from vocalnet.checkpoint import save_component
from vocalnet.experts import experts
from vocalnet.training.experts import prepare_experts


@pytest.fixture
def recipe(tiny_model, tmp_path):
    """A stage after the alignment of a tiny model whose experts are not its text weights."""
    model = copy.deepcopy(tiny_model)
    prepare_experts(model)
    with torch.no_grad():
        for weight in experts(model.llm).parameters():
            weight.fill_(0.5)
    model.save_pretrained(tmp_path / "checkpoint")
    return Recipe("talker", tmp_path, 1, model.parts, {"method": "lora", "per_answer": 1, "n_dev": 1, "typed": False})


def test_the_trained_llm_brings_its_experts_and_the_text_llm_does_not(recipe):
    assert all((weight == 0.5).all() for weight in experts(assemble(recipe, llm="llm").llm).parameters())
    save_component(recipe.checkpoint, "text_llm", assemble(recipe, llm="llm").llm)
    assert not all((weight == 0.5).all() for weight in experts(assemble(recipe, llm="text_llm").llm).parameters())


def test_further_decoders_depend_on_them(recipe):
    (recipe.checkpoint / "experts.safetensors").unlink()
    with pytest.raises(ValueError, match=r"experts\.safetensors does not exist"):
        common_speeches(recipe)


@pytest.mark.parametrize(("method", "has_experts"), [("lora", True), ("experts", False)])
def test_method_and_model_go_together(recipe, method, has_experts):
    for name, target in (("text_llm", "llm"), ("paced_adaptor", "adaptor")):
        (recipe.checkpoint / f"{name}.safetensors").symlink_to(recipe.checkpoint / f"{target}.safetensors")
    changed = replace(recipe, config={"method": method}, model=replace(recipe.model, experts=has_experts))
    with pytest.raises(ValueError, match="goes with `experts: true` of the model"):
        align(changed)
