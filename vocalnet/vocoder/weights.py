"""Reading vocoder weights: CosyVoice 2's flow.pt and hift.pt, or safetensors with the same keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vocalnet.packing import read_weights

SUFFIXES = (".safetensors", ".pt")
NORMED = "parametrizations.weight.original"  # + "0": gain g, + "1": direction v, of w = g * v / |v|
SHOWN_KEYS = 5  # of a long list, in an error


def read_state(folder: Path, name: str) -> dict[str, Tensor]:
    """Returns the tensors of `name`.safetensors or `name`.pt in a folder.

    Raises:
        ValueError: neither file exists, or it holds something else.
    """
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            state: Any = read_weights(path) if suffix == ".safetensors" else _read_pt(path)
            # Files saved from adversarial training carry the name of the generator.
            return {key.replace("generator.", ""): tensor for key, tensor in state.items()}
    raise ValueError(
        f"{folder} has neither {name}.safetensors nor {name}.pt. Give the folder of a CosyVoice 2 vocoder."
    )


def load_weights(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Loads a state dict strictly; weight norm may be in the old (weight_g), the new or the fused style.

    Raises:
        ValueError: a key is missing, unexpected or of another shape; the message names them.
    """
    expected = module.state_dict()
    state = {_new_style(key): tensor for key, tensor in state.items()}
    for key in [key for key in expected if key.endswith(f"{NORMED}0") and key not in state]:
        fused = state.pop(key.replace(f"{NORMED}0", "weight"), None)
        if fused is not None:
            state[key] = torch.linalg.vector_norm(fused, dim=tuple(range(1, fused.ndim)), keepdim=True)
            state[key[:-1] + "1"] = fused
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key in expected if key in state and state[key].shape != expected[key].shape],
    }
    found = [f"{len(keys)} {kind}: {', '.join(keys[:SHOWN_KEYS])}" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"The {what} weights do not fit their config. Keys {'; '.join(found)}. Correct config.json.")
    module.load_state_dict(state)


def _read_pt(path: Path) -> dict[str, Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} is not a plain state dict. Export one with torch.save(model.state_dict(), path).")
    return state


def _new_style(key: str) -> str:
    """Renames the gain and direction of the old weight norm."""
    return re.sub(r"weight_([gv])$", lambda found: NORMED + {"g": "0", "v": "1"}[found[1]], key)
