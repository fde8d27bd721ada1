"""Folders of weights: finding one, which of its files hold weights, and reading them a tensor at a time.

A checkpoint may be one safetensors file, several with an index, or the same as .bin, which is read with `weights_only`.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FORMATS = (("model", ".safetensors"), ("pytorch_model", ".bin"))  # in the order of preference
LET_GO_BYTES = 256 * 2**20  # of a mapped .bin file, read before it is mapped anew
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def local_folder(path: str | Path, how_to_name: str, patterns: Sequence[str] | None = None) -> Path:
    """Returns a folder that is here, or that of a hub id, downloaded.

    Args:
        how_to_name: a sentence for errors, what to name instead.
        patterns: files of a hub id to download; None: all.

    Raises:
        ValueError: there is no such folder, and the hub does not give it.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(path).count("/") != 1 or str(path).startswith("."):
        raise ValueError(f"There is no checkpoint folder {path}. {how_to_name}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(path), allow_patterns=None if patterns is None else list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise ValueError(f"Cannot get {path} from the hub ({type(error).__name__}). {how_to_name}") from error


def weight_files(folder: Path) -> list[Path]:
    """Returns the files that hold a folder's weights, [] if it has none; an index may name files that are not there."""
    for stem, suffix in FORMATS:
        whole, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        shards = sorted(folder.glob(f"{stem}-*-of-*{suffix}"))
        if shards:
            return shards
    return []


def present(files: Sequence[Path], where: str | Path) -> Sequence[Path]:
    """Returns the files.

    Raises:
        ValueError: there are none, or some are absent; the message names every one of these.
    """
    if not files:
        raise ValueError(f"{where} has no .safetensors or .bin file; download the checkpoint's weights too")
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise ValueError(f"{where} lacks {', '.join(absent)}. Download all of the checkpoint's files.")
    return files


def layout(files: Sequence[Path]) -> dict[str, Tensor]:
    """Returns every key of the files with a tensor of its shape and type on the meta device; no weight is read."""
    found: dict[str, Tensor] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as handle:
                for key in handle.keys():  # noqa: SIM118
                    piece = handle.get_slice(key)
                    dtype = FLOATS.get(piece.get_dtype(), torch.uint8)  # only floats are ever loaded
                    found[key] = torch.empty(piece.get_shape(), dtype=dtype, device="meta")
        else:
            found |= {key: tensor.to("meta") for key, tensor in _mapped(path).items()}
    return found


def tensors(files: Sequence[Path], is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """Yields the wanted (key, tensor) one by one.

    Files are mapped, and mapped anew on the way, which lets go of the pages already read: nothing is held for long but
    what the caller keeps.
    """
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as handle:
                keys = [key for key in handle.keys() if is_wanted(key)]  # noqa: SIM118
            for key in keys:
                with safe_open(path, framework="pt") as handle:
                    yield key, handle.get_tensor(key)
        else:
            state, n_read = _mapped(path), 0
            for key in [key for key in state if is_wanted(key)]:
                if n_read > LET_GO_BYTES:
                    state, n_read = _mapped(path), 0
                n_read += state[key].nbytes
                yield key, state.pop(key)


def _mapped(path: Path) -> dict[str, Tensor]:
    """Returns the state dict of a .bin or .pt file, mapped where its format allows.

    Raises:
        ValueError: it holds more than tensors.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, so it is not read. Convert it to safetensors.") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no state dict. Save one with torch.save(model.state_dict(), path).")
    state = state.get("model_state_dict", state)  # OpenAI's Whisper files
    return {key: tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}
