"""The published checkpoints: their layout as our config, and their weights into our modules.

A folder holds the LLM, the downsample adaptor (`model.speech_projector`) and, if it speaks, the talker
(`speech_generator`); Whisper's encoder may be inside (`model.speech_encoder`). A LoRA folder holds the adaptor in
non_lora_trainables.bin and the LLM's changes as a peft adapter. The vocoder is always elsewhere. Key names: the tables.

The model is built empty, and each tensor read from its file becomes its parameter: no more memory than the weights
themselves, and one tensor. Letters as in config.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vocalnet.config import AdaptorConfig, EncoderConfig, VocalNetConfig
from vocalnet.decoder.keys import (
    ADAPTOR_PREFIX,
    RELEASED_KEYS,
    TALKER_PREFIX,
    Table,
    check_keys,
    check_weights,
    our_key,
)
from vocalnet.decoder.load import released_config
from vocalnet.encoder import CONV_STRIDE, MEL_RATE_HZ
from vocalnet.model import VocalNet
from vocalnet.shards import layout, local_folder, present, tensors, weight_files

HUB_ENCODER = "openai/whisper-large-v3"
ENCODER_FILES = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
LLM_FILES = ("*.json", "*.jinja", "model*.safetensors", "tokenizer.model")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
ADAPTER, ADAPTER_FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
WHISPER_HEAD_DIM = 64  # of every published Whisper; no weight's shape tells the number of heads
NEW_NAMES = {"rope_theta", "rope_scaling"}  # settings that transformers 5 reads, but keeps under another name
NOT_SETTINGS = {"model_type", "architectures", "transformers_version", "_name_or_path", "dtype"}

HOW_TO_GIVE_ENCODER = (
    f"Give the folder or the .pt file of the Whisper encoder that the checkpoint was trained with ({HUB_ENCODER}): "
    "load(..., encoder=PATH), or --encoder PATH."
)
HOW_TO_GIVE_LLM = "Give the folder of the LLM that the adapter was trained on: load(..., base_llm=PATH), or --base-llm."


@dataclass(frozen=True)
class Kind:
    """What a published `model_type` says."""

    llm: str  # model_type of the LLM in transformers
    family: str  # row of tokens.FAMILIES
    is_speaking: bool


KINDS = {
    "omni_speech2s_llama": Kind("llama", "llama3", True),
    "omni_speech2s_qwen2": Kind("qwen2", "qwen2", True),
    "omni_speech_llama": Kind("llama", "llama3", False),
    "omni_speech_qwen2": Kind("qwen2", "qwen2", False),
}


def _prefixed(prefixes: Iterable[str], rows: Table, ours: str = "") -> Table:
    """Returns a table's rows with each of the prefixes before the published name, and `ours` before ours."""
    return tuple((f"{p}{theirs}", None if to is None else f"{ours}{to}") for p in prefixes for theirs, to in rows)


WHISPER_ROWS: Table = (  # transformers' names, then OpenAI's
    ("conv{i}.{rest}", "conv{i}.{rest}"),
    ("embed_positions.weight", "embed_positions.weight"),
    ("layers.{rest}", "layers.{rest}"),
    ("layer_norm.{rest}", "layer_norm.{rest}"),
    ("positional_embedding", "embed_positions.weight"),
    ("ln_post.{rest}", "layer_norm.{rest}"),
    ("blocks.{i}.attn.query.{rest}", "layers.{i}.self_attn.q_proj.{rest}"),
    ("blocks.{i}.attn.key.{rest}", "layers.{i}.self_attn.k_proj.{rest}"),
    ("blocks.{i}.attn.value.{rest}", "layers.{i}.self_attn.v_proj.{rest}"),
    ("blocks.{i}.attn.out.{rest}", "layers.{i}.self_attn.out_proj.{rest}"),
    ("blocks.{i}.attn_ln.{rest}", "layers.{i}.self_attn_layer_norm.{rest}"),
    ("blocks.{i}.mlp.0.{rest}", "layers.{i}.fc1.{rest}"),
    ("blocks.{i}.mlp.2.{rest}", "layers.{i}.fc2.{rest}"),
    ("blocks.{i}.mlp_ln.{rest}", "layers.{i}.final_layer_norm.{rest}"),
)
WHISPER_KEYS: Table = (  # of a whole Whisper or of its encoder alone
    *_prefixed(("model.encoder.", "encoder.", ""), WHISPER_ROWS, "encoder.whisper."),
    ("model.decoder.{rest}", None),
    ("decoder.{rest}", None),
    ("proj_out.weight", None),
)
LLM_KEYS: Table = (
    ("model.{any}rotary_emb.inv_freq", None),  # recomputed from the config
    ("model.embed_tokens.weight", "llm.model.embed_tokens.weight"),
    ("model.layers.{rest}", "llm.model.layers.{rest}"),
    ("model.norm.weight", "llm.model.norm.weight"),
    ("lm_head.weight", "llm.lm_head.weight"),
)
MODEL_KEYS: Table = (
    *_prefixed(("",), tuple(row for row in RELEASED_KEYS if row[0].startswith(TALKER_PREFIX)), "talker."),
    *(row for row in RELEASED_KEYS if row[0].startswith(ADAPTOR_PREFIX)),
    *_prefixed(("model.speech_encoder.", "model.speech_encoder.encoder."), WHISPER_ROWS, "encoder.whisper."),
    *LLM_KEYS,
)
LORA_KEYS: Table = _prefixed(("", "base_model.model.", "model."), MODEL_KEYS)  # of non_lora_trainables.bin


@dataclass(frozen=True)
class Source:
    """Files of weights, with the table that gives their keys our names.

    Attributes:
        left_out: names of ours that begin so are not taken from here.
    """

    files: Sequence[Path]
    table: Table
    left_out: tuple[str, ...] = ()

    def our_key(self, key: str) -> str | None:
        """Returns our name of a key, None for one that is dropped."""
        ours = our_key(key, self.table)
        return None if ours is None or ours.startswith(self.left_out) else ours

    def layout(self) -> dict[str, Tensor]:
        """Returns shapes and types under our names, as tensors on the meta device."""
        named = ((self.our_key(key), tensor) for key, tensor in layout(self.files).items())
        return {key: tensor for key, tensor in named if key is not None}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (our key, tensor) one by one."""
        for key, tensor in tensors(self.files, lambda key: self.our_key(key) is not None):
            ours = self.our_key(key)
            assert ours is not None
            yield ours, tensor


@dataclass(frozen=True)
class Plan:
    """All that is known of a published checkpoint before a weight is read."""

    folder: Path
    config: VocalNetConfig
    sources: tuple[Source, ...]
    layout: dict[str, Tensor]  # of all sources, under our names
    tokenizer: PreTrainedTokenizerBase


def plan(
    folder: Path, values: dict[str, Any], encoder: str | Path | None = None, base_llm: str | Path | None = None
) -> Plan:
    """Finds a published checkpoint's parts and its sizes.

    Args:
        values: its config.json.
        encoder: Whisper, as a folder, a .pt file or a hub id; None: the weights inside, else the hub's. The path in
            config.json is its authors' own and is never used.
        base_llm: of a LoRA folder, the LLM that was adapted; None: the one its adapter names.

    Raises:
        ValueError: files are missing, or a part cannot be found.
    """
    if base_llm is not None and not is_lora(folder):
        raise ValueError(f"{folder} is no LoRA folder: it holds its whole LLM. Leave base_llm (--base-llm) out.")
    own, base = own_source(folder, values), base_folder(folder, base_llm) if is_lora(folder) else None
    present(own.files, folder)
    sources, heads = [], None
    if base is not None:
        sources.append(Source(present(weight_files(base), base), LLM_KEYS, own.left_out))
    if encoder is not None or not any(key.startswith("encoder.") for key in own.layout()):
        own = replace(own, left_out=(*own.left_out, "encoder."))
        whisper, heads = whisper_source(encoder or HUB_ENCODER)
        sources.append(whisper)
    sources.append(own)
    found = {key: tensor for source in sources for key, tensor in source.layout().items()}
    config = model_config(values, found, heads)
    tokenizer = load_tokenizer([folder, *([] if base is None else [base])], config.llm["model_type"])
    return Plan(folder, config, tuple(sources), found, tokenizer)


def build(plan: Plan, device: torch.device, dtype: torch.dtype | None) -> VocalNet:
    """Returns the model with its weights, without a vocoder; dtype None: float32 on the CPU, else the checkpoint's.

    Raises:
        ValueError: keys are missing, unexpected or of another shape.
    """
    model = empty_model(plan.config, plan.layout, str(plan.folder), plan.tokenizer)
    if dtype is None:
        stored = plan.layout["llm.model.embed_tokens.weight"].dtype
        dtype = torch.float32 if device.type == "cpu" else stored
    for source in plan.sources:
        for key, tensor in source.tensors():
            owner, _, name = key.rpartition(".")
            weight = nn.Parameter(tensor.to(device=device, dtype=dtype), requires_grad=False)
            setattr(model.get_submodule(owner), name, weight)
    model.llm.tie_weights()
    _compute_buffers(model.llm, device)
    if is_lora(plan.folder):
        model.llm = merge_adapter(model.llm, plan.folder)
    assert not any(weight.is_meta for weight in model.state_dict().values())
    return model


def empty_model(
    config: VocalNetConfig,
    found: Mapping[str, Tensor],
    where: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    elsewhere: tuple[str, ...] = (),
) -> VocalNet:
    """Returns a model on the meta device, once the weights found (under our names) are known to fill it.

    Args:
        elsewhere: names of ours that begin so are not looked for.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; the message names every one of them.
    """
    with torch.device("meta"):
        model = VocalNet(config, tokenizer)
    check_fit(model, found, where, elsewhere)
    return model


def check_fit(model: VocalNet, found: Mapping[str, Tensor], where: str, elsewhere: tuple[str, ...] = ()) -> None:
    """Compares the weights found with a model's; arguments and errors as in `empty_model`."""
    tied = ("llm.lm_head.",) if model.llm.config.tie_word_embeddings else ()
    expected = {k: weight for k, weight in model.state_dict().items() if not k.startswith((*tied, *elsewhere))}
    check_weights(expected, found, where, MODEL_KEYS)


def model_config(values: dict[str, Any], found: Mapping[str, Tensor], n_encoder_heads: int | None) -> VocalNetConfig:
    """Returns the config of a published checkpoint: sizes from the weights (under our names) where they tell them."""
    kind = KINDS[values["model_type"]]
    rate = int(values.get("speech_encoder_ds_rate", AdaptorConfig.rate))
    talker = {key.removeprefix("talker."): tensor for key, tensor in found.items() if key.startswith("talker.")}
    return VocalNetConfig(
        family=kind.family,
        encoder=encoder_config(
            found, n_encoder_heads, int(values.get("speech_encoder_hidden_size", EncoderConfig.dim))
        ),
        adaptor=AdaptorConfig(rate, _size(found, "adaptor.linear1.weight", 0, AdaptorConfig.hidden_dim)),
        llm=llm_config(values, kind.llm),
        talker=released_config(values, talker) if kind.is_speaking else None,
        flow=None,
        hift=None,
    )


def llm_config(values: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Returns the LLM's part of a published config.json; what speech adds to it is left out."""
    known = (set(AutoConfig.for_model(model_type).to_dict()) | NEW_NAMES) - NOT_SETTINGS
    return {"model_type": model_type} | {key: value for key, value in values.items() if key in known}


def encoder_config(found: Mapping[str, Tensor], n_heads: int | None, dim: int) -> EncoderConfig:
    """Returns a Whisper encoder's sizes from its weights' shapes; without any, `dim` and whisper-large-v3's others."""
    prefix, published = "encoder.whisper.", EncoderConfig()
    dim = _size(found, f"{prefix}layer_norm.weight", 0, dim)
    layers = [int(key.split(".")[3]) for key in found if key.startswith(f"{prefix}layers.")]
    n_positions = _size(found, f"{prefix}embed_positions.weight", 0, 0)
    return EncoderConfig(
        n_mels=_size(found, f"{prefix}conv1.weight", 1, published.n_mels),
        dim=dim,
        n_layers=max(layers, default=published.n_layers - 1) + 1,
        n_heads=n_heads or max(1, dim // WHISPER_HEAD_DIM),
        ffn_dim=_size(found, f"{prefix}layers.0.fc1.weight", 0, published.ffn_dim),
        window_s=n_positions * CONV_STRIDE / MEL_RATE_HZ or published.window_s,
    )


def own_source(folder: Path, values: dict[str, Any]) -> Source:
    """Returns the folder's own weights, files of the index that are absent included."""
    tied = ("llm.lm_head.",) if values.get("tie_word_embeddings") else ()
    if is_lora(folder):
        return Source([folder / "non_lora_trainables.bin"], LORA_KEYS, tied)
    return Source(weight_files(folder), MODEL_KEYS, tied)


def whisper_source(encoder: str | Path) -> tuple[Source, int | None]:
    """Returns a Whisper's weights and, where its config.json tells, its number of attention heads.

    Raises:
        ValueError: it is neither here nor on the hub.
    """
    if Path(encoder).is_file():
        return Source([Path(encoder)], WHISPER_KEYS), None
    folder = local_folder(encoder, HOW_TO_GIVE_ENCODER, ENCODER_FILES)
    config = folder / "config.json"
    heads = json.loads(config.read_text()).get("encoder_attention_heads") if config.is_file() else None
    return Source(present(weight_files(folder), folder), WHISPER_KEYS), heads


def is_lora(folder: Path) -> bool:
    """Says whether a folder holds an adapter of an LLM, not the LLM itself."""
    return (folder / ADAPTER).is_file()


def base_name(folder: Path) -> str:
    """Returns the LLM that a LoRA folder's adapter names: a path or a hub id."""
    return str(json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path"))


def base_folder(folder: Path, base_llm: str | Path | None) -> Path:
    """Returns the folder of a LoRA folder's LLM; arguments as in `plan`.

    Raises:
        ValueError: it is neither here nor on the hub.
    """
    return local_folder(base_llm or base_name(folder), HOW_TO_GIVE_LLM, LLM_FILES)


def load_tokenizer(folders: Sequence[Path], llm: str) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of the first folder that has one.

    Raises:
        ValueError: none has.
    """
    for folder in folders:
        if has_tokenizer(folder):
            return AutoTokenizer.from_pretrained(folder, config=AutoConfig.for_model(llm))
    raise ValueError(f"{folders[0]} has no tokenizer. Copy tokenizer.json and tokenizer_config.json of its LLM there.")


def has_tokenizer(folder: Path) -> bool:
    """Says whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def merge_adapter(llm: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Returns the LLM with a LoRA folder's changes in its weights.

    Raises:
        ValueError: the adapter's file is missing, or its keys do not fit.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    files = [folder / name for name in ADAPTER_FILES if (folder / name).is_file()][:1]
    if not files:
        raise ValueError(f"{folder} has none of {', '.join(ADAPTER_FILES)}. Download the checkpoint again.")
    state = dict(tensors(files, lambda key: True))
    config = PeftConfig.from_pretrained(str(folder))
    config.base_model_name_or_path = None  # it is here, whatever the adapter calls it
    wrapped = get_peft_model(llm, config)
    check_keys(get_peft_model_state_dict(wrapped, save_embedding_layers=False), state, str(files[0]))
    set_peft_model_state_dict(wrapped, state)
    return wrapped.merge_and_unload()


def _compute_buffers(llm: PreTrainedModel, device: torch.device) -> None:
    """Builds the modules without weights anew (rotary embeddings): no file holds their buffers."""
    for name, module in list(llm.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            module_class: Any = type(module)
            llm.set_submodule(name, module_class(llm.config).to(device))


def _size(found: Mapping[str, Tensor], key: str, axis: int, default: int) -> int:
    return found[key].shape[axis] if key in found else default
