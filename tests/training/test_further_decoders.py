"""Further decoders: each from fresh weights on the same answers, which are heard once and kept on disk."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from readme import adding_a_head

import train.heads
from train.common import CONFIGS, Recipe, load_recipes
from train.heads import common_speeches, head_config, start_from, train_head
from vocalnet.audio import write_wav
from vocalnet.checkpoint import load, save_component
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.talker import Talker
from vocalnet.files import write_json
from vocalnet.training.stage_talker import gather_speeches

OPTIONS = {
    "batch_size": 2,
    "per_answer": 2,
    "typed": False,
    "corrupt": 0.1,
    "bf16": True,
    "n_dev": 2,
    "eval_every": 2,
    "loop": {"steps": 3, "lr": 0.01, "warmup": 1, "log_every": 1, "average": 0.9},
}


@pytest.fixture
def recipe(tiny_model, tmp_path, question):
    """A tiny trained model with a corpus of eight clips."""
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    for split, n in (("train", 6), ("dev", 2)):
        entries = []
        for i in range(n):
            name = f"{split}-{i}"
            (tmp_path / "data").mkdir(exist_ok=True)
            write_wav(tmp_path / "data" / f"{name}.wav", question[0][: 8000 + 500 * i], 16000)
            np.save(tmp_path / "data" / f"{name}.npy", np.arange(7 + i))
            answer = [{"from": "human", "value": "<speech>"}, {"from": "gpt", "value": f"It is {i // 3}."}]
            entries.append({"speech": f"{name}.wav", "units": f"{name}.npy", "conversations": answer, "question": "?"})
        write_json(tmp_path / "data" / f"{split}.json", entries)
    return Recipe("heads", tmp_path, 1, tiny_model.parts, OPTIONS)


@pytest.fixture
def gathered(monkeypatch):
    """The splits whose answers were heard, in order."""
    splits = []

    def gather(model, data, split, options, seed):
        splits.append(split)
        return gather_speeches(model, data, split, options, seed)

    monkeypatch.setattr(train.heads, "gather_speeches", gather)
    return splits


def test_every_decoder_learns_from_the_same_answers_heard_once(recipe, gathered, question):
    for head, seed in (("ntp", 1), ("ntp", 2), ("group_linear_3", 1)):
        train_head(recipe, head, seed)
    assert gathered == ["train", "dev"]
    model = load(recipe.checkpoint)
    assert model.decoders == ["mtp_vocalnet", "group_linear_3", "ntp", "ntp_seed2"]
    assert model.with_decoder("group_linear_3").respond(audio=question).speech_tokens
    first, second = (model.with_decoder(name).talker.embedding.weight for name in ("ntp", "ntp_seed2"))
    assert not torch.allclose(first, second)
    for name, n_heads in (("ntp", 1), ("ntp_seed2", 1), ("group_linear_3", 3)):
        rows = [json.loads(line) for line in (recipe.folder / name / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [0, 1, 2]
        assert f"dev_accuracy{n_heads - 1}" in rows[-1]
        done = json.loads((recipe.folder / name / "done.json").read_text())
        assert (done["stage"], done["seed"]) == (f"heads/{name}", 2 if "seed2" in name else 1)


def test_a_training_is_the_same_twice_and_done_once(recipe, capsys):
    train_head(recipe, "ntp", 1)
    path = recipe.checkpoint / "heads" / "ntp.safetensors"
    first = path.read_bytes()
    path.unlink()
    train_head(recipe, "ntp", 1)
    assert "heads/ntp: done before" in capsys.readouterr().err
    assert not path.exists()
    shutil.rmtree(recipe.folder / "ntp")
    train_head(recipe, "ntp", 1)
    assert path.read_bytes() == first


def test_answers_are_heard_again_when_the_model_has_changed(recipe, gathered, tiny_model):
    answers, _ = common_speeches(recipe)
    assert len(answers.units) == 4  # two questions for each distinct answer
    assert all(len(hidden) > 1 for hidden in answers.hidden)
    common_speeches(replace(recipe, config=OPTIONS | {"batch_size": 1}))
    assert len(gathered) == 2
    common_speeches(replace(recipe, config=OPTIONS | {"per_answer": 1}))
    assert len(gathered) == 4
    save_component(recipe.checkpoint, "adaptor", tiny_model.adaptor, torch.float32)
    common_speeches(replace(recipe, config=OPTIONS | {"per_answer": 1}))
    assert len(gathered) == 6


def test_a_head_may_start_from_the_trained_talker(recipe, tiny_model):
    own = tiny_model.talker.half().float()
    talker = Talker(replace(own.config, head="group_linear", group_size=3))
    fresh = start_from(talker, recipe.checkpoint / "talker.safetensors")
    assert torch.equal(talker.decoder.layers[0].mlp.gate_proj.weight, own.decoder.layers[0].mlp.gate_proj.weight)
    assert torch.equal(talker.embedding.weight, own.embedding.weight)
    assert fresh
    assert all(key.startswith("head.") for key in fresh)
    started = replace(recipe, config=OPTIONS | {"start": "talker", "loop": {**OPTIONS["loop"], "lr": 0.0}})
    train_head(started, "ntp", 1)
    trained = load(recipe.checkpoint, decoder="ntp", kernel="plain").talker
    assert torch.equal(trained.embedding.weight, own.embedding.weight)


def test_names_are_checked_first(recipe, gathered):
    with pytest.raises(ValueError, match=r"no head 'ntpp'\. Available: group_linear_3, .*, ntp"):
        train_head(recipe, "ntpp", 1)
    taken = replace(recipe, model=replace(recipe.model, decoder="ntp"))
    with pytest.raises(ValueError, match="'ntp' is the name of the checkpoint's own talker"):
        train_head(taken, "ntp", 1)
    (recipe.checkpoint / "llm.safetensors").unlink()
    with pytest.raises(ValueError, match=r"llm\.safetensors does not exist\. Train its stage first"):
        train_head(recipe, "ntp", 1)
    assert not gathered


def test_a_new_head_is_trained_as_the_readme_says(recipe, tmp_path, monkeypatch, question):
    page = adding_a_head()
    (tmp_path / "configs" / "heads").mkdir(parents=True)
    (tmp_path / "configs" / "heads" / f"{page.name}.yaml").write_text(page.config)
    program, *arguments = page.command.removeprefix("python -m ").split()
    assert program == "train.heads"
    monkeypatch.setitem(HEADS, page.name, page.head)
    monkeypatch.setattr(train.heads, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(train.heads, "load_recipes", lambda scale, work: {"heads": recipe})
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    assert train.heads.main() == 0
    assert load(recipe.checkpoint, decoder=page.name).respond(audio=question).speech_tokens


@pytest.mark.parametrize("scale", ["full", "onward", "smoke"])
def test_the_recipes_name_heads_that_there_are(scale, tmp_path):
    recipe = load_recipes(scale, tmp_path)["heads"]
    names = set(recipe.config["runs"])
    assert all(head_config(recipe, name) for name in names)
    assert scale == "smoke" or names <= {path.stem for path in (CONFIGS / "heads").glob("*.yaml")}
    assert scale == "smoke" or {name for name, seeds in recipe.config["runs"].items() if seeds == [1, 2]} == {
        "ntp",
        "mtp_vocalnet_4",
    }
