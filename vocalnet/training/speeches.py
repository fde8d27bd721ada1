"""What talkers are trained on: LLM states of answers beside their speech tokens, kept on disk for several trainings.

Letters: L_t text positions, L_s speech tokens, D LLM width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vocalnet.files import atomic_path


@dataclass(frozen=True)
class Speeches:
    """Answers as the talker hears them and as it is to say them, in the same order."""

    hidden: list[Tensor]  # (L_t, D) each, in half precision
    units: list[Tensor]  # (L_s,) each


def cache_key(files: Iterable[Path], settings: dict[str, Any]) -> str:
    """Returns a hash of the contents of files and of settings: of all that speeches depend on.

    Raises:
        ValueError: a file is missing.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file} does not exist. Train its stage first: python -m train.run --only STAGE")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def cached_speeches(path: Path, key: str, gather: Callable[[], Speeches]) -> Speeches:
    """Returns what `gather` returns, from the file `path` if that was written under the same key, else written now."""
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if file.metadata() == {"key": key}:
                rows = {
                    name: file.get_tensor(name).split(file.get_tensor(f"n_{name}").tolist())
                    for name in ("hidden", "units")
                }
                return Speeches(list(rows["hidden"]), list(rows["units"]))
    speeches = gather()
    tensors: dict[str, Tensor] = {}
    for name, lines in (("hidden", speeches.hidden), ("units", speeches.units)):
        tensors |= {name: torch.cat(lines), f"n_{name}": torch.tensor([len(line) for line in lines])}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"key": key})
    return speeches
