"""Reads and writes a talker's folder: `config.json` and safetensors, in the published layout or ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vocalnet.adaptor import Adaptor
from vocalnet.config import AdaptorConfig, TalkerConfig, from_dict
from vocalnet.decoder.kernels import check_saveable
from vocalnet.decoder.keys import ADAPTOR_PREFIX, RELEASED_KEYS, TALKER_PREFIX, check_weights, our_key
from vocalnet.decoder.talker import Talker
from vocalnet.packing import unpack
from vocalnet.shards import present, tensors, weight_files

RELEASED_HEADS = {"ar_mtp": "mtp_vocalnet", "ar": "ntp"}  # speech_generator_type -> head


def load_talker(folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Talker:
    """Returns the talker of a checkpoint folder, in eval mode, with the adaptor if the folder carries it.

    Published folders (`model_type` omni_speech2s_*) may hold the whole model; only `speech_generator.*` and
    `model.speech_projector.*` are read.

    Raises:
        ValueError: a file is missing, the config has an unknown key or value, or keys are missing or unexpected.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; name the folder of a VocalNet checkpoint")
    values = json.loads((folder / "config.json").read_text())
    if values.get("model_type", "").startswith("omni_speech"):
        weights, table = _released_weights(folder), RELEASED_KEYS
        config, rate = released_config(values, weights), int(values.get("speech_encoder_ds_rate", 5))
    else:
        weights, table = _own_weights(folder), ()
        config = from_dict(TalkerConfig, values.get("talker") or {}, f"{folder / 'config.json'}: talker")
        rate = from_dict(AdaptorConfig, values.get("adaptor") or {}, f"{folder / 'config.json'}: adaptor").rate
    with torch.device("meta"):  # the file's tensors become the weights: nothing is drawn, nothing is held twice
        talker = Talker(config, _empty_adaptor(weights, rate))
    check_weights(talker.state_dict(), weights, str(folder), table)
    talker.load_state_dict(weights, assign=True)
    return talker.to(device=device, dtype=dtype).eval()


def save_talker(talker: Talker, folder: str | Path) -> None:
    """Writes a talker, with its adaptor if it has one, as a folder that `load_talker` reads.

    Raises:
        ValueError: its weights are in int8.
    """
    check_saveable(talker)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"model_type": "vocalnet", "talker": dataclasses.asdict(talker.config)}
    if talker.adaptor is not None:
        hidden_dim = talker.adaptor.linear1.out_features
        values["adaptor"] = dataclasses.asdict(AdaptorConfig(talker.adaptor.rate, hidden_dim))
    (folder / "config.json").write_text(json.dumps(values, indent=1))
    save_file({key: value.contiguous() for key, value in talker.state_dict().items()}, folder / "model.safetensors")


def released_config(values: dict[str, Any], weights: dict[str, Tensor]) -> TalkerConfig:
    """Returns the talker's config of a published checkpoint.

    Widths come from the weights' shapes, the rest from config.json or, where it is silent, the published defaults.

    Args:
        values: the published config.json.
        weights: the weights under our names; only their shapes are looked at.

    Raises:
        ValueError: the kind of speech generator is unknown, or the embedding is missing.
    """
    kind = values.get("speech_generator_type", "ar_mtp")
    if kind not in RELEASED_HEADS:
        raise ValueError(f"speech_generator_type {kind!r} is unknown; known: {', '.join(RELEASED_HEADS)}")
    if "embedding.weight" not in weights:
        raise ValueError(f"the checkpoint has no {TALKER_PREFIX}embedding.weight; a speech-to-text one has no talker")
    vocab_size, dim = weights["embedding.weight"].shape
    n_special = values.get("special_tokens", 4)
    n_units = values.get("unit_vocab_size", vocab_size - n_special)
    gate = weights.get("decoder.layers.0.mlp.gate_proj.weight")
    return TalkerConfig(
        llm_dim=dim,  # nothing stands between the LLM and the talker
        dim=dim,
        ffn_dim=values.get("decoder_ffn_dim", 4 * dim) if gate is None else gate.shape[0],
        n_heads=values.get("decoder_num_heads", 32),
        n_projector_layers=values.get("encoder_num_layers", 2),
        n_layers=values.get("decoder_num_layers", 4),
        head=RELEASED_HEADS[kind],
        mtp_num=values.get("mtp_num", sum(key.endswith(".out.proj.weight") for key in weights)),
        group_size=values.get("group_size", 3),
        n_units=n_units,
        bos_id=values.get("speech_bos_token_id", n_units),
        sos_id=values.get("speech_sos_token_id", n_units + 1),
        eos_id=values.get("speech_eos_token_id", n_units + 2),
        pad_id=values.get("speech_padding_token_id", n_units + 3),
        n_special=n_special,
        text_chunk=values.get("txt_token_num", 5),
        speech_chunk=values.get("speech_token_num", 15),
        max_positions=values.get("speech_max_position_embeddings", 2048),
        dropout=values.get("decoder_dropout", 0.1),
        mask_rule="released",
        behaviour="released",
    )


def _released_weights(folder: Path) -> dict[str, Tensor]:
    """Reads the talker's part of a published checkpoint under our names."""
    files = present(weight_files(folder), folder)
    parts = tensors(files, lambda key: key.startswith((TALKER_PREFIX, ADAPTOR_PREFIX)))
    named = {our_key(key): value for key, value in parts}
    return {key: value for key, value in named.items() if key is not None}


def _own_weights(folder: Path) -> dict[str, Tensor]:
    """Reads the talker of a checkpoint in our layout, or of a folder that holds nothing else."""
    component = folder / "talker.safetensors"
    files = [component] if component.is_file() else present(weight_files(folder), folder)
    return unpack(dict(tensors(files, lambda key: True)))


def _empty_adaptor(weights: dict[str, Tensor], rate: int) -> Adaptor | None:
    """Returns an adaptor of the weights' sizes, None if they hold none."""
    first, second = weights.get("adaptor.linear1.weight"), weights.get("adaptor.linear2.weight")
    if first is None or second is None:
        return None
    return Adaptor(first.shape[1] // rate, first.shape[0], second.shape[0], rate)
