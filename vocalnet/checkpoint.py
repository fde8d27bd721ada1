"""Checkpoint folders: one safetensors file per component beside config.json and the tokenizer's files.

config.json                       VocalNetConfig
encoder, adaptor, llm, talker, flow, hift, speech_tokenizer .safetensors
tokenizer.json, ...               of the LLM
card.json                         name, licence and provenance (optional)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from vocalnet.config import VocalNetConfig
from vocalnet.decoder.keys import check_keys
from vocalnet.files import atomic_path, write_json
from vocalnet.model import VocalNet

NANO = Path(__file__).parent / "nano"
HOW_TO_NAME = 'Name a checkpoint folder, a hub id such as "VocalNet/VocalNet-1B", or "nano".'


def components(model: VocalNet) -> Iterator[tuple[str, nn.Module]]:
    """Yields file stem and module of every component that the model has."""
    vocoder = model.vocoder
    named = {
        "encoder": model.encoder.whisper,
        "adaptor": model.adaptor,
        "llm": model.llm,
        "talker": model.talker,
        "flow": None if vocoder is None else vocoder.flow_model,
        "hift": None if vocoder is None else vocoder.hift,
        "speech_tokenizer": model.speech_tokenizer,
    }
    return ((name, module) for name, module in named.items() if isinstance(module, nn.Module))


def save_component(folder: Path, name: str, module: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Writes one component's weights as `NAME.safetensors`, floats in `dtype`; the file appears whole or not at all."""
    weights: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, value in module.state_dict().items():
        if value.data_ptr() in seen:  # tied to an earlier key; `load_component` ties it again
            continue
        seen.add(value.data_ptr())
        weights[key] = (value.to(dtype) if value.is_floating_point() else value).contiguous()
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
    weights = load_file(path)
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    check_keys([key for key in module.state_dict() if key in weights or key not in tied], weights, str(path))
    module.load_state_dict(weights, strict=False)


def save(model: VocalNet, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes a whole checkpoint folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in components(model):
        save_component(folder, name, module, dtype)
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
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(path).count("/") != 1 or str(path).startswith("."):
        raise ValueError(f"There is no checkpoint folder {path}. {HOW_TO_NAME}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(path)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise ValueError(f"Cannot get {path} from the hub ({type(error).__name__}). {HOW_TO_NAME}") from error


def read_config(folder: Path) -> VocalNetConfig:
    """Returns the config of a checkpoint folder in our layout.

    Raises:
        ValueError: it is missing, or of another layout.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, so it is not a checkpoint folder. {HOW_TO_NAME}")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error.msg}, line {error.lineno}). Download it again.") from error
    if values.get("model_type") != "vocalnet":
        raise ValueError(f"{folder} holds a {values.get('model_type')!r} model, not a VocalNet. {HOW_TO_NAME}")
    return VocalNetConfig.from_file(path)


def load(
    path: str | Path = "nano",
    decoder: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> VocalNet:
    """Loads a model ready to answer.

    Args:
        path: "nano", a checkpoint folder, or a hub id.
        decoder: head to use; None: the checkpoint's own.
        device: None: a GPU if there is one, else the CPU.
        dtype: None: float32 on the CPU, bfloat16 on a GPU.

    Raises:
        ValueError: no such checkpoint, files or keys missing, or a decoder that it does not have.
    """
    began = time.perf_counter()
    folder = resolve(path)
    config = read_config(folder)
    own = config.talker.head if config.talker else None
    if decoder is not None and decoder != own:
        raise ValueError(f"{path} has no decoder {decoder!r}. Available: {own or 'none (it only writes text)'}.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(dtype, str):
        dtype = named_dtype(dtype)
    llm_config = AutoConfig.for_model(config.llm["model_type"])  # else the tokenizer would ask config.json for it
    model = VocalNet(config, AutoTokenizer.from_pretrained(folder, config=llm_config))
    for name, module in components(model):
        load_component(folder, name, module)
    if model.vocoder is not None:
        model.vocoder.hift.fuse_weight_norm()
    card = folder / "card.json"
    model.card = json.loads(card.read_text()) if card.is_file() else {"name": str(path)}
    nn.Module.to(model, device=device, dtype=dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16))
    if model.vocoder is not None:
        model.vocoder.float()  # half precision is audible in phases and cheap to avoid
    model.eval().requires_grad_(False)
    model.load_s = time.perf_counter() - began
    return model


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
    config = read_config(folder)
    with torch.device("meta"):
        model = VocalNet(config)
    found: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    for name, module in components(model):
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            missing.append(f"{file.name}: download the checkpoint again, or train it (make nano)")
            continue
        with safe_open(file, framework="pt") as handle:
            dtypes = sorted({str(handle.get_slice(key).get_dtype()) for key in handle.keys()})  # noqa: SIM118
        n = sum(p.numel() for p in module.parameters())
        found[name] = {"parameters": n, "megabytes": round(file.stat().st_size / 1e6, 2), "dtypes": dtypes}
    return {
        "path": str(folder),
        "layout": "vocalnet (one safetensors file per component)",
        "family": config.family,
        "decoder": config.talker.head if config.talker else None,
        "max_tokens_per_step": model.max_tokens_per_step,
        "sample_rate_hz": model.sample_rate_hz,
        "components": found,
        "megabytes": round(sum(part["megabytes"] for part in found.values()), 2),
        "missing": missing,
    }
