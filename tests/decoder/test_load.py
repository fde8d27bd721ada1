"""Talker folders: both layouts, strict keys, the published 1B sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vocalnet.adaptor import Adaptor
from vocalnet.config import TalkerConfig
from vocalnet.decoder.keys import our_key
from vocalnet.decoder.load import load_talker, save_talker
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker

GOLDEN = Path(__file__).parents[1] / "golden" / "talker"


def released_folder(folder: Path, change: Callable[[dict[str, Tensor]], Any], **fields: Any) -> Path:
    """Writes the published layout with changed weights and config fields; None removes a field."""
    values = json.loads((GOLDEN / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    weights = load_file(GOLDEN / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


def test_published_sizes_and_keys(golden: Any) -> None:
    """The key table and the modules cover the published 1B layout exactly."""
    layout = json.loads((GOLDEN / "layout_1b.json").read_text())
    with torch.device("meta"):
        talker = Talker(TalkerConfig(), Adaptor(1280, 2048, 2048))
    expected = {our_key(key): shape for part in layout.values() for key, shape in part.items()}
    assert {key: list(value.shape) for key, value in talker.state_dict().items()} == expected


def test_released_folder_is_read_by_its_own_names(golden: Any) -> None:
    talker = golden.talker
    assert (talker.config.behaviour, talker.config.mask_rule, talker.config.head) == (
        "released",
        "released",
        "mtp_vocalnet",
    )
    assert not talker.training
    for key, value in load_file(GOLDEN / "model.safetensors").items():
        assert torch.equal(talker.parameter(key), value)
    with pytest.raises(ValueError, match="no weight"):
        talker.parameter("speech_generator.embeddings.weight")


def test_every_missing_and_unexpected_key_is_named(tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        del weights["speech_generator.norm.weight"]
        weights["speech_generator.mtp_layers.5.norm_final.weight"] = torch.ones(64)
        weights["speech_generator.extra.weight"] = torch.ones(1)

    with pytest.raises(ValueError, match="missing") as caught:
        load_talker(released_folder(tmp_path, change))
    for key in ("norm.weight", "mtp_layers.5.norm_final.weight", "extra.weight"):
        assert f"speech_generator.{key}" in str(caught.value)


def test_the_rest_of_a_whole_checkpoint_and_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["model.embed_tokens.weight"] = torch.ones(3, 64)
        weights["speech_generator.decode_layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    assert load_talker(released_folder(tmp_path, change)).adaptor is not None


def test_silent_configs_take_sizes_from_the_weights(tmp_path: Path) -> None:
    fields = ("unit_vocab_size", "speech_bos_token_id", "decoder_ffn_dim", "mtp_num", "decoder_hidden_size")
    talker = load_talker(released_folder(tmp_path, lambda weights: None, **dict.fromkeys(fields)))
    config = talker.config
    assert (config.n_units, config.bos_id, config.ffn_dim, config.mtp_num, config.dim) == (45, 45, 128, 5, 64)


def test_shards_are_joined(tmp_path: Path, golden: Any) -> None:
    weights = load_file(GOLDEN / "model.safetensors")
    shutil.copy(GOLDEN / "config.json", tmp_path)
    for n in range(2):
        part = dict(list(weights.items())[n::2])
        save_file(part, tmp_path / f"model-{n + 1:05}-of-00002.safetensors")
    assert torch.equal(load_talker(tmp_path).embedding.weight, golden.talker.embedding.weight)


@pytest.mark.parametrize("llm_dim", [24, 32])
def test_our_layout_round_trip(
    tmp_path: Path, make_talker: Callable[..., Talker], texts: list[Tensor], llm_dim: int
) -> None:
    talker = make_talker(llm_dim=llm_dim)
    talker.adaptor = Adaptor(6, 8, llm_dim, rate=4)
    save_talker(talker, tmp_path)
    again = load_talker(tmp_path)
    assert again.config == talker.config
    assert torch.equal(again.adapt(torch.ones(1, 9, 6)), talker.adapt(torch.ones(1, 9, 6)))
    assert (again.projector.inlet.state_dict() == {}) == (llm_dim == 32)
    text = torch.randn(1, 7, llm_dim)
    options = DecodeOptions(max_tokens=10)
    assert torch.equal(again.generate(text, options), talker.generate(text, options))


def test_a_talker_without_adaptor_says_so(make_talker: Callable[..., Talker]) -> None:
    with pytest.raises(ValueError, match="no adaptor"):
        make_talker().adapt(torch.ones(1, 5, 6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"speech_generator_type": "ctc"}, "ar_mtp"),
        ({"mtp_num": 6}, "mtp_layers.5.decoder_layer"),
        ({"special_tokens": 7}, r"speech_generator\.output_proj\.weight is .* instead of"),
        ({"decoder_num_heads": 5}, "5 attention heads"),
    ],
)
def test_released_configs_are_checked(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_talker(released_folder(tmp_path, lambda weights: None, **fields))


def test_missing_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_talker(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vocalnet"}')
    with pytest.raises(ValueError, match=r"no \.safetensors"):
        load_talker(tmp_path)
