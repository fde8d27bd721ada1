"""Checkpoint folders, and which of them `load` can read: ours, and the published ones (released.py).

Ours hold one safetensors file per component beside config.json and the tokenizer's files:

config.json                       VocalNetConfig
encoder, adaptor, llm, talker, flow, hift, speech_tokenizer .safetensors; their floats may be packed (packing.py)
experts.safetensors               of the LLM's speech positions (optional)
heads/NAME.safetensors            further decoders (optional): a whole talker each, for the same LLM and vocoder
heads/NAME.json                   what NAME changes in config.json's talker
tokenizer.json, ...               of the LLM
card.json                         name, licence and provenance (optional)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from vocalnet import released, shards
from vocalnet.config import TalkerConfig, VocalNetConfig, from_dict
from vocalnet.decoder.kernels import check_kernel, check_saveable
from vocalnet.decoder.keys import check_keys
from vocalnet.decoder.load import released_config
from vocalnet.decoder.talker import Talker
from vocalnet.experts import experts, without_experts
from vocalnet.files import atomic_path, write_json
from vocalnet.model import Shelf, VocalNet, Vocoder, check_decoder
from vocalnet.packing import pack, read_weights
from vocalnet.vocoder.hift import Hift
from vocalnet.vocoder.official import load_official
from vocalnet.vocoder.token2wav import Token2Wav, load_token2wav
from vocalnet.vocoder.weights import load_weights

NANO = Path(__file__).parent / "nano"
HEADS_FOLDER = "heads"
SOUND = ("flow", "hift", "speech_tokenizer")  # components whose half precision is audible in phases and cheap to avoid
HOW_TO_NAME = 'Name a checkpoint folder, a hub id such as "VocalNet/VocalNet-1B", or "nano".'
HOW_TO_GIVE_VOCODER = (
    "Give a folder with CosyVoice2-0.5B's flow.pt and hift.pt: load(..., vocoder=PATH), or --vocoder PATH."
)
VOCODER_FILES = ("config.json", "cosyvoice2.yaml", "flow.pt", "flow.safetensors", "hift.pt", "hift.safetensors")
VOCODER_BACKENDS = ("native", "official")


def components(model: VocalNet) -> Iterator[tuple[str, nn.Module]]:
    """Yields file stem and module of every component that the model has."""
    vocoder = model.vocoder if isinstance(model.vocoder, Token2Wav) else None
    named = {
        "encoder": model.encoder.whisper,
        "adaptor": model.adaptor,
        "llm": model.llm,
        "experts": experts(model.llm) or None,
        "talker": model.talker,
        "flow": None if vocoder is None else vocoder.flow_model,
        "hift": None if vocoder is None else vocoder.hift,
        "speech_tokenizer": model.speech_tokenizer,
    }
    return ((name, module) for name, module in named.items() if isinstance(module, nn.Module))


def save_component(
    folder: Path, name: str, module: nn.Module, dtype: torch.dtype = torch.float16, is_packed: bool = False
) -> None:
    """Writes one component's weights as `NAME.safetensors`; the file appears whole or not at all.

    Args:
        dtype: of floats on disk.
        is_packed: weights that were rounded to a grid take 8 bits each (packing.py).
    """
    weights: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, value in without_experts(module.state_dict()).items():  # experts are a component of their own
        if value.data_ptr() in seen:  # tied to an earlier key; `load_component` ties it again
            continue
        seen.add(value.data_ptr())
        stored = (value.to(dtype) if value.is_floating_point() else value).contiguous()
        weights |= pack(key, stored) if is_packed else {key: stored}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / f"{name}.safetensors") as temporary:
        save_file(weights, temporary)


def load_component(folder: Path, name: str, module: nn.Module) -> None:
    """Fills a component from `NAME.safetensors`, in the component's own precision.

    Raises:
        ValueError: the file is missing, or its keys do not fit; every missing and unexpected key is named.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} has no {path.name}. Download the checkpoint again, with all of its files.")
    weights = read_weights(path)
    if isinstance(module, Hift):  # saved as trained, or with its weight norm folded in for inference
        load_weights(module, weights, str(path))
        return
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    expected = without_experts(module.state_dict())
    check_keys([key for key in expected if key in weights or key not in tied], weights, str(path))
    module.load_state_dict(weights, strict=False)


def save_decoder(folder: Path, name: str, talker: Talker, default: TalkerConfig, dtype: torch.dtype) -> None:
    """Writes a further decoder of a checkpoint folder whose own talker has the config `default`."""
    save_component(folder / HEADS_FOLDER, name, talker, dtype)
    values, own = asdict(talker.config), asdict(default)
    write_json(
        folder / HEADS_FOLDER / f"{name}.json", {key: value for key, value in values.items() if value != own[key]}
    )


def decoder_names(folder: Path, config: VocalNetConfig) -> list[str]:
    """Returns the decoders of a folder in our layout, its own first; none where it only writes.

    Raises:
        ValueError: a further decoder is called as the folder's own.
    """
    own = config.decoder_name
    further = sorted(path.stem for path in (folder / HEADS_FOLDER).glob("*.json"))
    if own in further:
        raise ValueError(f"{folder} has two decoders {own!r}. Rename {own}.json and {own}.safetensors in heads/.")
    return [] if own is None else [own, *further]


def talker_config(folder: Path, config: VocalNetConfig, name: str) -> TalkerConfig:
    """Returns the config of a decoder, one of `decoder_names`, of a folder in our layout."""
    assert config.talker is not None
    if name == config.decoder_name:
        return config.talker
    path = folder / HEADS_FOLDER / f"{name}.json"
    return from_dict(TalkerConfig, asdict(config.talker) | json.loads(path.read_text()), str(path))


def load_decoder(folder: Path, config: VocalNetConfig, name: str, talker: Talker) -> None:
    """Fills a talker of `talker_config` from its file.

    Raises:
        ValueError: the file is missing, or its keys do not fit.
    """
    is_own = name == config.decoder_name
    load_component(*((folder, "talker") if is_own else (folder / HEADS_FOLDER, name)), talker)


def read_talker(folder: Path, config: VocalNetConfig, name: str) -> Talker:
    """Returns a decoder of a folder in our layout, on the CPU in float32, ready to speak; arguments as above."""
    talker = Talker(talker_config(folder, config, name))
    load_decoder(folder, config, name, talker)
    return talker.eval().requires_grad_(False)


def save(model: VocalNet, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes a whole checkpoint folder; the loaded decoder becomes its own, the others its further ones.

    Args:
        dtype: of the weights on disk; those of vocoder and speech tokenizer (SOUND) are written in float32.

    Raises:
        ValueError: it was loaded with kernel="int8".
    """
    check_saveable(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in components(model):
        save_component(folder, name, module, torch.float32 if name in SOUND else dtype)
    for name in model.decoders[1:]:
        assert model.talker is not None
        save_decoder(folder, name, model.shelf.take(name), model.talker.config, dtype)
    write_json(folder / "config.json", model.parts.to_dict())
    model.tokenizer.save_pretrained(folder)
    if model.card:
        write_json(folder / "card.json", model.card)


def resolve(path: str | Path) -> Path:
    """Returns the local folder of "nano", a folder, or a hub id (downloaded).

    Raises:
        ValueError: there is no such folder, and the hub does not give it.
    """
    if str(path) == "nano":
        return NANO
    return shards.local_folder(path, HOW_TO_NAME)


def read_values(folder: Path) -> dict[str, Any]:
    """Returns the config.json of a checkpoint folder, in our layout or a published one.

    Raises:
        ValueError: it is missing, or of another kind of model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, so it is not a checkpoint folder. {HOW_TO_NAME}")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error.msg}, line {error.lineno}). Download it again.") from error
    kind = values.get("model_type")
    if kind != VocalNetConfig.model_type and kind not in released.KINDS:
        raise ValueError(f"{folder} holds a {kind!r} model, not a VocalNet. {HOW_TO_NAME}")
    return values


def load(
    path: str | Path = "nano",
    encoder: str | Path | None = None,
    vocoder: str | Path | None = None,
    vocoder_backend: str = "native",
    decoder: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    base_llm: str | Path | None = None,
    kernel: str | None = None,
) -> VocalNet:
    """Loads a model ready to answer.

    Args:
        path: "nano", a checkpoint folder, ours or published, or a hub id.
        encoder: Whisper of a published checkpoint: a folder, OpenAI's .pt file or a hub id; None: the weights inside
            the checkpoint, else openai/whisper-large-v3 of the hub.
        vocoder: folder or hub id of a CosyVoice 2 vocoder; None: the checkpoint's own. Published ones have none, and
            write only, without it.
        vocoder_backend: "native", or "official" for a CosyVoice checkout on the Python path.
        decoder: name of one of the checkpoint's decoders; None: its own. `with_decoder` gives the others.
        device: None: a GPU if there is one, else the CPU.
        dtype: None: float32 on the CPU; on a GPU the published checkpoint's own, bfloat16 for ours. Vocoder and speech
            tokenizer stay in float32.
        base_llm: LLM of a published LoRA folder, a folder or a hub id; None: the one that its adapter names.
        kernel: how talker, LLM and vocoder read their weights on a CPU: "plain", "packed" (the same numbers, faster)
            or "int8" (a talker of 8 bits, approximate; the rest is packed). On a GPU, "graphed" records talker and
            flow as CUDA graphs; never run yet. Only a plain model can be moved, cast or trained. None: packed on a
            CPU, plain on a GPU.

    Raises:
        ValueError: no such checkpoint, files or keys missing, an argument that the checkpoint has no use for, or a
            decoder that it does not have.
    """
    began = time.perf_counter()
    folder = resolve(path)
    values = read_values(folder)
    device = usable_device(device)
    if isinstance(dtype, str):
        dtype = named_dtype(dtype)
    kernel = kernel or ("packed" if device.type == "cpu" else "plain")
    check_kernel(kernel, device, dtype)
    # the vocoder first: reading it takes twice its size for a moment, which is little before the rest is there
    given = None if vocoder is None else _open_vocoder(vocoder, vocoder_backend, device)
    if vocoder is None and vocoder_backend != "native":
        raise ValueError(f"vocoder_backend={vocoder_backend!r} needs a vocoder. {HOW_TO_GIVE_VOCODER}")
    if values["model_type"] in released.KINDS:
        plan = released.plan(folder, values, encoder, base_llm)
        if decoder is not None:
            own = plan.config.decoder_name
            check_decoder(str(path), [own] if own else [], decoder)
        model = released.build(plan, device, dtype)
    else:
        if encoder is not None or base_llm is not None:
            raise ValueError(f"{path} holds its own encoder and LLM. Leave encoder and base_llm out.")
        config = from_dict(VocalNetConfig, values, str(folder / "config.json"))
        model = _load_own(folder, config if given is None else replace(config, flow=None, hift=None), decoder)
        _place(model, device, dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16))
    if given is not None:
        _attach(model, given)
    card = folder / "card.json"
    model.card = json.loads(card.read_text()) if card.is_file() else {"name": str(path)}
    model.eval().requires_grad_(False)
    model.use_kernel(kernel)
    model.load_s = time.perf_counter() - began
    return model


def _load_own(folder: Path, config: VocalNetConfig, decoder: str | None) -> VocalNet:
    """Loads a folder in our layout with one of its decoders, on the CPU in float32."""
    names = decoder_names(folder, config)
    name = decoder or config.decoder_name
    if name is not None:
        check_decoder(str(folder), names, name)
    chosen = replace(config, talker=talker_config(folder, config, name), decoder=name) if name else config
    llm_config = AutoConfig.for_model(config.llm["model_type"])  # else the tokenizer would ask config.json for it
    model = VocalNet(chosen, AutoTokenizer.from_pretrained(folder, config=llm_config))
    for component, module in components(model):
        if name is not None and isinstance(module, Talker):
            load_decoder(folder, config, name, module)
        else:
            load_component(folder, component, module)
    if isinstance(model.vocoder, Token2Wav):
        model.vocoder.hift.fuse_weight_norm()
    model.shelf = Shelf(names, partial(read_talker, folder, config))
    return model


def _place(model: VocalNet, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a model, in place; vocoder and speech tokenizer stay in float32."""
    nn.Module.to(model, device=device)
    for name, part in model.named_children():
        if name not in ("vocoder", "speech_tokenizer"):
            part.to(dtype=dtype)


def _open_vocoder(vocoder: str | Path, backend: str, device: torch.device) -> Vocoder:
    """Loads a vocoder from elsewhere; arguments as in `load`."""
    if backend not in VOCODER_BACKENDS:
        raise ValueError(f"Unknown vocoder_backend {backend!r}. Choose one of: {', '.join(VOCODER_BACKENDS)}.")
    folder = shards.local_folder(vocoder, HOW_TO_GIVE_VOCODER, VOCODER_FILES)
    return load_official(folder) if backend == "official" else load_token2wav(folder, device)


def _attach(model: VocalNet, vocoder: Vocoder) -> None:
    """Gives a model a vocoder from elsewhere; a native one is saved with the model."""
    model.vocoder = vocoder
    if isinstance(vocoder, Token2Wav):
        model.parts = replace(model.parts, flow=vocoder.flow_config, hift=vocoder.hift_config)


def usable_device(device: str | torch.device | None) -> torch.device:
    """Returns a device that is here; None: a GPU if there is one, else the CPU.

    Raises:
        ValueError: there is none of that name.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # an unknown name; no driver, or a torch without it
        raise ValueError(
            f"There is no device {str(device)!r} here. Use cpu, or leave the device out for the best one."
        ) from error


def named_dtype(name: str) -> torch.dtype:
    """Returns a torch dtype by name.

    Raises:
        ValueError: unknown, or not a floating type.
    """
    value = getattr(torch, name, None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(f"Unknown dtype {name!r}. Use float32, bfloat16 or float16.")
    return value


def describe(path: str | Path) -> dict[str, Any]:
    """Returns what a checkpoint folder is: layout, sizes by component, and what is missing with how to get it."""
    folder = resolve(path)
    values = read_values(folder)
    is_ours = values["model_type"] == VocalNetConfig.model_type
    described = _describe_own(folder, values) if is_ours else _describe_released(folder, values)
    missing = described.pop("missing")
    n_bytes = sum(part["megabytes"] for part in described["components"].values())
    return {"path": str(folder), **described, "megabytes": round(n_bytes, 2), "missing": missing}


def _describe_own(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    config = from_dict(VocalNetConfig, values, str(folder / "config.json"))
    names = decoder_names(folder, config)
    with torch.device("meta"):
        model = VocalNet(config)
        further = {f"{HEADS_FOLDER}/{name}": Talker(talker_config(folder, config, name)) for name in names[1:]}
    found: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    for name, module in (*components(model), *further.items()):
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            missing.append(f"{name}.safetensors: download the checkpoint again, or train it (make nano)")
            continue
        with safe_open(file, framework="pt") as handle:
            dtypes = sorted({str(handle.get_slice(key).get_dtype()) for key in handle.keys()})  # noqa: SIM118
        n = sum(p.numel() for p in module.parameters())
        found[name] = {"parameters": n, "megabytes": round(file.stat().st_size / 1e6, 2), "dtypes": dtypes}
    return {
        "layout": "vocalnet (one safetensors file per component)",
        "family": config.family,
        "decoder": config.decoder_name,
        "decoders": names,
        "max_tokens_per_step": model.max_tokens_per_step,
        "sample_rate_hz": model.sample_rate_hz,
        "components": found,
        "missing": missing,
    }


def _describe_released(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    kind, own = released.KINDS[values["model_type"]], released.own_source(folder, values)
    here = [path for path in own.files if path.is_file()]
    weights = replace(own, files=here).layout()
    by_component: dict[str, list[torch.Tensor]] = {}
    for key, tensor in weights.items():
        by_component.setdefault(key.split(".")[0], []).append(tensor)
    talker = None
    if "talker.embedding.weight" in weights:
        named = {key.removeprefix("talker."): tensor for key, tensor in weights.items()}
        with torch.device("meta"):
            talker = Talker(released_config(values, named))
    what = "LoRA folder" if released.is_lora(folder) else f"{len(own.files)} file(s) of weights"
    return {
        "layout": f"published ({values['model_type']}, {what})",
        "family": kind.family,
        "decoder": talker.config.head if talker else None,
        "decoders": [talker.config.head] if talker else [],
        "max_tokens_per_step": talker.head.n_heads if talker else 0,
        "sample_rate_hz": 0,
        "components": {name: _summary(tensors) for name, tensors in by_component.items()},
        "missing": _missing_of_released(folder, values, own, weights),
    }


def _summary(tensors: list[torch.Tensor]) -> dict[str, Any]:
    """Returns the size of a component from its tensors' shapes and types."""
    return {
        "parameters": sum(tensor.numel() for tensor in tensors),
        "megabytes": round(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6, 2),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}),
    }


def _missing_of_released(
    folder: Path, values: dict[str, Any], own: released.Source, weights: dict[str, torch.Tensor]
) -> list[str]:
    """Returns what a published folder still needs, each with how to get it."""
    is_lora, has_encoder = released.is_lora(folder), any(key.startswith("encoder.") for key in weights)
    missing: list[str] = []
    try:
        shards.present(own.files, folder)
        elsewhere = (() if has_encoder else ("encoder.",)) + (("llm.",) if is_lora else ())
        config = released.model_config(values, weights, None)
        released.empty_model(config, weights, str(folder), elsewhere=elsewhere)
    except ValueError as error:
        missing.append(f"weights: {error}")
    if is_lora and not Path(released.base_name(folder)).is_dir():
        missing.append(f"LLM: {released.base_name(folder)} is downloaded from the hub. {released.HOW_TO_GIVE_LLM}")
    if not has_encoder:
        missing.append(f"encoder: {released.HUB_ENCODER} is downloaded from the hub. {released.HOW_TO_GIVE_ENCODER}")
    if released.KINDS[values["model_type"]].is_speaking:
        missing.append(f"vocoder: without one the model only writes. {HOW_TO_GIVE_VOCODER}")
    if not released.has_tokenizer(folder) and not is_lora:
        missing.append(
            "tokenizer: copy tokenizer.json and tokenizer_config.json of the checkpoint's LLM into the folder"
        )
    return missing
