"""Speech tokens on disk: .npy files with one integer array (n,), 25 tokens a second; never unpickled by a loader.

The published lists also come with pickled dicts, {"speech_token", "speech_token_len"}. A pickle is a program, so these
are turned into plain arrays once, by `read_published`, whose unpickler knows the handful of names that arrays, tensors
and plain containers need, and refuses every other.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vocalnet.files import atomic_path

MAGIC = b"\x93NUMPY"
MAX_BYTES = 64 * 2**20  # of a file of one answer's tokens; an hour of speech has 0.7 MB
# what pickled arrays, scalars, tensors and containers are made of, by module and name
ARRAY_NAMES = frozenset(
    {("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict")}
    | {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
    | {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
)
TENSOR_NAMES = frozenset({("torch._utils", "_rebuild_tensor_v2"), ("torch.storage", "_load_from_bytes")})
HOW_TO_CONVERT = "Run: vocalnet data convert"


class UnitsError(ValueError):
    """A file of speech tokens that cannot be used; the message says why."""


def read_units(path: Path) -> np.ndarray:
    """Returns the speech tokens of a file, int64 (n,).

    Raises:
        UnitsError: no .npy file, pickled, not integers, or not of shape (n,) with n > 0.
    """
    with _open(path) as file:
        return _read(file, path)


def count_units(path: Path) -> int:
    """Returns how many speech tokens a file holds, from its header alone; errors as `read_units`."""
    with _open(path) as file:
        shape, dtype = _header(file, path)
    _check(shape, dtype, path)
    return shape[0]


def parse_units(data: bytes, name: str) -> np.ndarray:
    """Returns the speech tokens of a .npy file's content; errors as `read_units`."""
    return _read(io.BytesIO(data), Path(name))


def check_range(units: np.ndarray, n_units: int, file: object) -> None:
    """Raises UnitsError if a speech token of a file is none of 0 to n_units - 1."""
    if units.min() < 0 or units.max() >= n_units:
        raise UnitsError(
            f"{file} holds speech tokens from {units.min()} to {units.max()}; this talker knows 0 to {n_units - 1}. "
            "Tokenise the answers with its own tokenizer: vocalnet data tokenize"
        )


def save_units(path: Path, units: np.ndarray) -> None:
    """Writes speech tokens (n,) as int32; the file appears whole or not at all."""
    assert units.ndim == 1
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, units.astype(np.int32), allow_pickle=False)


def read_published(path: Path) -> np.ndarray:
    """Returns the speech tokens of a published file, pickled or not, int64 (n,): padding and a batch of 1 removed.

    Raises:
        UnitsError: its pickle asks for anything but arrays, tensors and plain containers, or holds no tokens.
    """
    with _open(path) as file:
        shape, dtype = _header(file, path)
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnitsError(f"{path} has more than {MAX_BYTES // 2**20} MiB, which no answer's tokens have")
    try:
        value = _ArrayUnpickler(io.BytesIO(content)).load() if dtype.hasobject else _array(content, shape, dtype)
    except UnitsError as error:
        raise UnitsError(f"{path} is not converted: {error}") from error
    except Exception as error:  # a broken pickle raises whatever its broken opcodes stumble over
        raise UnitsError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return _tokens(value, path)


def _array(content: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(content, dtype, count=math.prod(shape)).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays, tensors and plain containers; looks no other name up, so nothing else can be called."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the known names; tensors' storages are read with `weights_only`."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _latin1
        if (module, name) in TENSOR_NAMES:
            return _load_storage if name == "_load_from_bytes" else super().find_class(module, name)
        if (module, name) in ARRAY_NAMES:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise UnitsError(f"its pickle asks for {module}.{name}, which no array needs")


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin-1")


def _load_storage(data: bytes) -> Any:
    """What torch.storage._load_from_bytes does, without its leave to run code."""
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)


def _tokens(value: Any, path: Path) -> np.ndarray:
    """Returns the tokens of an unpickled value: a dict as published, or the array itself."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject and value.ndim == 0:
        value = value.item()
    length = None
    if isinstance(value, dict):
        if "speech_token" not in value:
            raise UnitsError(f"{path} holds a dict without speech_token; its keys are {', '.join(map(str, value))}")
        length, value = value.get("speech_token_len"), value["speech_token"]
    try:
        units = np.asarray(value.tolist() if isinstance(value, np.ndarray) and value.dtype.hasobject else value)
    except ValueError as error:
        raise UnitsError(f"{path} holds rows of different lengths, not (n,)") from error
    units = units.reshape(-1) if units.ndim and units.size == units.shape[-1] else units  # (1, n) -> (n,)
    n = units.size if length is None else int(np.asarray(length).reshape(-1)[0])
    _check(units.shape, units.dtype, path)
    if not 0 < n <= len(units):
        raise UnitsError(f"{path} holds {len(units)} tokens, but its speech_token_len is {n}")
    return units[:n].astype(np.int64)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UnitsError(f"{path} cannot be read: {error.strerror}") from error


def _read(file: BinaryIO, path: Path) -> np.ndarray:
    shape, dtype = _header(file, path)
    _check(shape, dtype, path)
    values = np.frombuffer(file.read(shape[0] * dtype.itemsize), dtype.str)
    if len(values) < shape[0]:
        raise UnitsError(f"{path} is cut: {len(values)} of {shape[0]} tokens are there")
    return values.astype(np.int64)


def _header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and dtype of a .npy file, and leaves the file where its values begin."""
    if file.read(len(MAGIC)) != MAGIC:
        raise UnitsError(f"{path} is not a .npy file")
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
    except (ValueError, KeyError) as error:
        raise UnitsError(f"{path} has a broken .npy header") from error
    return shape, dtype


def _check(shape: tuple[int, ...], dtype: np.dtype, path: Path) -> None:
    if dtype.hasobject:
        raise UnitsError(f"{path} is pickled, and is not unpickled here. {HOW_TO_CONVERT}")
    if not np.issubdtype(dtype, np.integer):
        raise UnitsError(f"{path} holds {dtype}, not integers")
    if len(shape) != 1 or shape[0] == 0:
        raise UnitsError(f"{path} has the shape {shape}, not (n,) with n > 0")
