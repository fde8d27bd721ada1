"""Configs: round trips, and unknown keys as errors."""

import pytest
import yaml

from tests.conftest import tiny_config
from train.common import CONFIGS, load_recipes
from vocalnet.config import HiftConfig, VocalNetConfig, from_dict


def test_round_trip(tmp_path):
    import json

    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config().to_dict()))
    assert VocalNetConfig.from_file(path) == tiny_config()


def test_unknown_keys_are_errors_that_name_the_nearest():
    with pytest.raises(ValueError, match=r"unknown key 'n_layer'; did you mean 'n_layers'"):
        from_dict(VocalNetConfig, {"encoder": {"n_layer": 3}})


def test_published_vocoder_has_480_samples_per_frame():
    assert HiftConfig().samples_per_frame == 480


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_yaml_loads(path, tmp_path):
    recipes = load_recipes(path.stem, tmp_path)
    model = next(iter(recipes.values())).model
    assert model.talker.llm_dim == model.llm["hidden_size"]
    assert model.talker.n_units == model.flow.vocab_size == model.speech_tokenizer.n_units
    assert list(recipes) == list(yaml.safe_load(path.read_text())["stages"])
