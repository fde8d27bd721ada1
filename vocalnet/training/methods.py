"""What a stage starts from and which weights a method trains; and the way back, from trained weights to a checkpoint.

The merge builds the start anew, puts the trained weights in and folds adapters into the LLM. So it needs one process
and the file of trained weights, however many devices wrote it.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from vocalnet import checkpoint, released
from vocalnet.adaptor import Adaptor
from vocalnet.checkpoint import named_dtype
from vocalnet.config import EncoderConfig, TalkerConfig, VocalNetConfig, from_dict
from vocalnet.decoder.keys import check_keys
from vocalnet.decoder.talker import Talker
from vocalnet.llm import embeddings
from vocalnet.model import Shelf, VocalNet
from vocalnet.shards import local_folder
from vocalnet.training.experts import prepare_experts
from vocalnet.training.objectives import OBJECTIVES, Objective
from vocalnet.training.settings import Settings

HOW_TO_NAME_LLM = "Name a folder or a hub id of a causal LM: llm=..."


@dataclass(frozen=True)
class Prepared:
    """A stage ready to train."""

    objective: Objective
    adapter: PeftModel | None  # around the LLM, where a method puts weights beside it
    aside: dict[str, nn.Module | None]  # parts of the model that the stage does without

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that a method trains, by name; LISA's, while none of its layers is frozen."""
        return {name: weight for name, weight in self.objective.named_parameters() if weight.requires_grad}


def prepare(settings: Settings, is_merge: bool = False) -> Prepared:
    """Builds the start of a run, on the CPU: all is frozen but what the method trains, which is in float32.

    Args:
        is_merge: the trained weights will be folded in; 4-bit layers are then plain ones of the same values.

    Raises:
        ValueError: a part is missing, or does not go with the stage or the method.
    """
    torch.manual_seed(settings.seed)
    return equip(_start(settings), settings, is_merge)


def equip(model: VocalNet, settings: Settings, is_merge: bool = False) -> Prepared:
    """Returns the stage around a model, in place; arguments and errors as for `prepare`."""
    unused = ("vocoder", "speech_tokenizer", *(["talker"] if settings.stage == 1 else []))
    aside = {name: getattr(model, name) for name in unused}
    for name in unused:
        setattr(model, name, None)
    model.requires_grad_(False)
    adapter = None
    if settings.stage == 1:
        model.shelf = Shelf()  # further decoders listen to the LLM as it was
        adapter = _prepare_llm(model, settings, is_merge)
    else:
        _prepare_talker(model, settings)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    _set_attention(model.llm, settings.attention)
    objective = OBJECTIVES[settings.stage](model)
    if settings.gradient_checkpointing and not is_merge:
        objective.checkpoint_activations()
    return Prepared(objective, adapter, aside)


def merge(settings: Settings, weights: Path, folder: Path) -> None:
    """Writes the whole checkpoint of a run from its trained weights (safetensors), adapters folded into the LLM.

    Raises:
        ValueError: the weights do not fit the settings.
    """
    prepared = prepare(settings, is_merge=True)
    fill(prepared.trained, load_file(weights), str(weights))
    if prepared.adapter is not None:
        prepared.adapter.merge_and_unload()  # in place: it wraps the LLM
    model = prepared.objective.model
    for name, part in prepared.aside.items():
        setattr(model, name, part)
    checkpoint.save(model, folder, named_dtype(settings.save_dtype or settings.dtype))
    for name in checkpoint.SOUND:
        if settings.model is not None and (folder / f"{name}.safetensors").exists():  # byte for byte as it came
            shutil.copyfile(checkpoint.resolve(settings.model) / f"{name}.safetensors", folder / f"{name}.safetensors")


@torch.no_grad()
def fill(weights: dict[str, nn.Parameter], values: dict[str, Tensor], where: str) -> None:
    """Copies values into weights of the same names.

    Raises:
        ValueError: names are missing or unexpected.
    """
    check_keys(weights, values, where)
    for name, weight in weights.items():
        weight.copy_(values[name])


def _start(settings: Settings) -> VocalNet:
    """Returns the model that a run starts from, as it was before the run."""
    if settings.model is not None:
        return checkpoint.load(settings.model, device="cpu", dtype=settings.dtype, kernel="plain")
    assert settings.llm is not None
    assert settings.encoder is not None
    folder, dtype = local_folder(settings.llm, HOW_TO_NAME_LLM), named_dtype(settings.dtype)
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    source, n_heads = released.whisper_source(settings.encoder)
    config = VocalNetConfig(
        family=settings.family,
        encoder=released.encoder_config(source.layout(), n_heads, EncoderConfig.dim),
        llm=released.llm_config(llm.config.to_dict(), llm.config.model_type),
        talker=None,
        flow=None,
        hift=None,
    )
    with torch.device("meta"):
        model = VocalNet(config, AutoTokenizer.from_pretrained(folder))
    model.llm = llm
    encoder = {key: value.to(dtype) for key, value in source.tensors()}
    check_keys([key for key in model.state_dict() if key.startswith("encoder.")], encoder, settings.encoder)
    model.load_state_dict(encoder, strict=False, assign=True)
    torch.manual_seed(settings.seed)
    model.adaptor = Adaptor(
        config.encoder.dim, config.adaptor.hidden_dim, embeddings(llm).shape[1], config.adaptor.rate
    )
    model.adaptor.to(dtype)
    return model.eval()


def _prepare_llm(model: VocalNet, settings: Settings, is_merge: bool) -> PeftModel | None:
    """Unfreezes the adaptor and what the method trains of the LLM; returns the wrapper that merges, if there is one."""
    model.adaptor.requires_grad_(True)
    if settings.method in ("full", "lisa"):
        model.llm.requires_grad_(True)
        return None
    if settings.method == "experts":
        prepare_experts(model)
        return None
    if settings.method == "qlora":
        quantise(model.llm)
        if is_merge:
            dequantise(model.llm)
    rank, alpha, dropout = settings.lora_rank, settings.lora_alpha, settings.lora_dropout
    return add_lora(model.llm, rank, alpha, dropout, use_dora=settings.method == "dora")


def add_lora(llm: PreTrainedModel, rank: int, alpha: int, dropout: float, use_dora: bool = False) -> PeftModel:
    """Puts trainable low-rank weights beside every linear layer of `llm`, in place; returns the wrapper that merges."""
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", use_dora=use_dora)
    return get_peft_model(llm, config)


def _prepare_talker(model: VocalNet, settings: Settings) -> None:
    """Unfreezes the talker; a fresh one if the settings describe it."""
    if settings.talker:
        values = {"llm_dim": embeddings(model.llm).shape[1], **settings.talker}
        config = from_dict(TalkerConfig, values, "talker")
        torch.manual_seed(settings.seed)
        model.talker = Talker(config)
        model.parts = replace(model.parts, talker=config, decoder=None)
    if model.talker is None:
        raise ValueError("This checkpoint has no talker. Describe a fresh one: talker: {head: mtp_vocalnet, ...}")
    model.talker.requires_grad_(True)


def _set_attention(llm: PreTrainedModel, name: str) -> None:
    if name == llm.config._attn_implementation:
        return
    try:
        llm.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"attention={name} does not run here ({error}). Use attention=sdpa.") from error


def quantise(llm: PreTrainedModel) -> None:
    """Puts the LLM's linear layers into 4 bits (NF4, double quantisation), in place; its head stays as it is.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("method=qlora needs bitsandbytes. Install it (pip install bitsandbytes), or use method=lora.")
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = llm.get_output_embeddings()
    for name, layer in [*llm.named_modules()]:
        if type(layer) is not nn.Linear or layer is head:
            continue
        sizes = layer.in_features, layer.out_features, layer.bias is not None
        packed = Linear4bit(*sizes, compute_dtype=layer.weight.dtype, quant_type="nf4")
        packed.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        packed.bias = layer.bias
        llm.set_submodule(name, packed.to(layer.weight.device))
    marked: Any = llm
    marked.is_loaded_in_4bit = True  # peft asks for it


def dequantise(llm: PreTrainedModel) -> None:
    """Turns 4-bit layers into plain ones of the very values that they compute with, in place.

    An adapter is folded into these: into 4 bits again, as peft does it, it would change what the model says.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, layer in [*llm.named_modules()]:
        if isinstance(layer, Linear4bit):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            plain.weight = nn.Parameter(
                dequantize_4bit(layer.weight.data, layer.weight.quant_state), requires_grad=False
            )
            plain.bias = layer.bias
            llm.set_submodule(name, plain)
    marked: Any = llm
    marked.is_loaded_in_4bit = False
