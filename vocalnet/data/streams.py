"""Training pairs that are read one after the other: packs of a JSONL and a tar file, or a dataset of the hub.

NAME-000000.jsonl   the entries of the published format, one a line; "speech" and "units" are members of the tar file
NAME-000000.tar     their files, in the order of the lines, so that a pack is read from front to end in one go

A pack can be listened to with any tar program, and read as webdataset does: members of one entry share their stem.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from torch.utils.data import IterableDataset, get_worker_info

from vocalnet.audio import load_audio
from vocalnet.data.lists import FILES, read_entries
from vocalnet.data.units import parse_units, read_units
from vocalnet.files import atomic_path

PACK_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Pair:
    """One entry with its sound: samples (n,) float32 at 16 kHz, units (L_s,) int64 or None for stage 1."""

    id: str
    samples: np.ndarray
    conversations: list[dict[str, str]]
    units: np.ndarray | None


def pack(path: Path, out: Path, root: Path | None = None, pack_bytes: int = PACK_BYTES) -> list[Path]:
    """Copies a list and its files into packs of about `pack_bytes`; returns their .jsonl files.

    A pack is there when its .jsonl file is: this is written last. Packs of a list of the same name that are in `out`
    already are replaced, all of them.

    Raises:
        ValueError: the list cannot be read, or a file of it is missing.
    """
    root = path.parent if root is None else root
    out.mkdir(parents=True, exist_ok=True)
    packs: list[Path] = []
    entries = iter(enumerate(read_entries(path)))
    held = next(entries, None)
    while held is not None:
        lines, n_bytes = [], 0
        name = out / f"{path.stem}-{len(packs):06d}"
        name.with_suffix(".jsonl").unlink(missing_ok=True)  # it tells of another .tar
        with atomic_path(name.with_suffix(".tar")) as temporary, tarfile.open(temporary, "w") as tar:
            while held is not None and n_bytes < pack_bytes:
                number, entry = held
                packed = dict(entry)
                for key in FILES:
                    if key in entry:
                        file = root / entry[key]
                        packed[key] = f"{number:09d}{file.suffix}"
                        n_bytes += _add(tar, file, packed[key], f"Entry {number} of {path}, id {entry['id']!r}")
                lines.append(json.dumps(packed, ensure_ascii=False))
                held = next(entries, None)
        with atomic_path(name.with_suffix(".jsonl")) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        packs.append(name.with_suffix(".jsonl"))
    for old in packs_of(out, path.stem):
        if old not in packs:
            old.unlink()
            old.with_suffix(".tar").unlink(missing_ok=True)
    return packs


def packs_of(folder: Path, name: str) -> list[Path]:
    """Returns the .jsonl files of the packs of a list called NAME.json or NAME.jsonl, in their order."""
    numbered = re.compile(rf"{re.escape(name)}-\d{{6,}}\.jsonl")
    return sorted(path for path in folder.glob("*.jsonl") if numbered.fullmatch(path.name))


def _add(tar: tarfile.TarFile, file: Path, name: str, whose: str) -> int:
    """Adds a file under another name, without owner and date, so that packing twice gives the same bytes."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{whose}, needs {file}: {error.strerror}.") from error
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    return len(data)


def read_pack(jsonl: Path) -> Iterator[Pair]:
    """Yields the pairs of a pack in their order; of files that come early, the content is held until it is needed.

    Raises:
        ValueError: its tar file is missing or cut, or lacks a file of an entry.
    """
    path = jsonl.with_suffix(".tar")
    try:
        with tarfile.open(path, "r|") as tar:
            members = ((member.name, _content(tar, member)) for member in tar if member.isfile())
            held: dict[str, bytes] = {}
            for entry in read_entries(jsonl):
                wanted = [entry[key] for key in FILES if key in entry]
                while not all(name in held for name in wanted):
                    name, data = next(members, (None, b""))
                    if name is None:
                        raise ValueError(f"{path} lacks a file of {entry['id']!r}: {', '.join(wanted)}. Pack it again.")
                    held[name] = data
                files = [held.pop(name) for name in wanted]
                units = parse_units(files[1], entry["units"]) if len(files) > 1 else None
                yield Pair(str(entry["id"]), _samples(files[0]), entry["conversations"], units)
    except (tarfile.ReadError, OSError) as error:
        raise ValueError(f"Cannot read the pack {path} ({error}). Pack or download it again.") from error


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a pack, read by its place, so that pairs can be asked for in any order."""

    tar: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.tar}"

    def read(self) -> bytes:
        """Returns its content."""
        with self.tar.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


def packed_entries(jsonl: Path) -> list[dict[str, Any]]:
    """Returns the entries of a pack, whose "speech" and "units" are members of its tar file.

    Raises:
        ValueError: its tar file is missing or cut, or lacks a file of an entry.
    """
    path = jsonl.with_suffix(".tar")
    try:
        with tarfile.open(path, "r:") as tar:
            members = {member.name: Member(path, member.name, member.offset_data, member.size) for member in tar}
    except (tarfile.ReadError, OSError) as error:
        raise ValueError(f"Cannot read the pack {path} ({error}). Pack or download it again.") from error
    entries = read_entries(jsonl)
    for entry in entries:
        missing = [entry[key] for key in FILES if key in entry and entry[key] not in members]
        if missing:
            raise ValueError(f"{path} lacks a file of {entry['id']!r}: {', '.join(missing)}. Pack it again.")
        entry |= {key: members[entry[key]] for key in FILES if key in entry}
    return entries


def file_samples(file: Path | Member) -> np.ndarray:
    """Returns the samples (n,) float32 at 16 kHz of a recording; errors as `load_audio`."""
    return _samples(file.read()) if isinstance(file, Member) else load_audio(file)


def file_units(file: Path | Member) -> np.ndarray:
    """Returns the speech tokens of a file, int64 (n,); errors as `read_units`."""
    return parse_units(file.read(), file.name) if isinstance(file, Member) else read_units(file)


def file_size(file: Path | Member) -> int:
    """Returns the size of a file in bytes."""
    return file.size if isinstance(file, Member) else file.stat().st_size


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _samples(data: bytes) -> np.ndarray:
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"A recording of {len(data)} bytes is no wav, flac, mp3 or ogg.") from error
    return load_audio((samples, rate_hz))


class PackStream(IterableDataset[Pair]):
    """The pairs of many packs for torch's DataLoader; packs are dealt out to ranks and to the loader's workers.

    The order of the packs is drawn anew in every epoch; within a pack, pairs leave a buffer of `n_shuffled` at random.
    """

    def __init__(
        self, packs: Sequence[Path], n_shuffled: int = 1000, seed: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> None:
        """Takes the .jsonl files of the packs.

        Raises:
            ValueError: there are fewer packs than ranks.
        """
        if len(packs) < n_ranks:
            raise ValueError(f"{len(packs)} packs are too few for {n_ranks} ranks. Pack with a smaller --pack-mb.")
        self.packs, self.n_shuffled, self.seed = sorted(packs), n_shuffled, seed
        self.rank, self.n_ranks, self.epoch = rank, n_ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; call it before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Pair]:
        worker = get_worker_info()
        place, n_places = (0, 1) if worker is None else (worker.id, worker.num_workers)
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.packs))
        own = order[self.rank :: self.n_ranks][place::n_places]
        rng = np.random.default_rng([self.seed, self.epoch, self.rank, place])
        return shuffled((pair for number in own for pair in read_pack(self.packs[number])), self.n_shuffled, rng)


def shuffled(pairs: Iterable[Pair], n: int, rng: np.random.Generator) -> Iterator[Pair]:
    """Yields pairs in a random order that a buffer of `n` allows; 0 or 1 keeps the order."""
    buffer: list[Pair] = []
    for pair in pairs:
        buffer.append(pair)
        if len(buffer) >= max(n, 1):
            place = int(rng.integers(len(buffer)))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()
    for place in rng.permutation(len(buffer)):
        yield buffer[place]


def hub_pairs(name: str, split: str = "train", streaming: bool = True, **more: Any) -> Iterator[Pair]:
    """Yields the pairs of a dataset of the hub, or of a local one, by the library `datasets`.

    Its columns are those of the published format: id, speech (an Audio column), conversations, and units (a list of
    integers) where it has any.

    Args:
        name: what `datasets.load_dataset` takes; `more` too.
        split: part of the dataset.
        streaming: read while it is downloaded.

    Raises:
        ValueError: the library is not installed, or a column is missing.
    """
    try:
        from datasets import Audio, load_dataset
    except ModuleNotFoundError as error:
        raise ValueError('Datasets of the hub need the package datasets: pip install "vocalnet[data]"') from error
    dataset = load_dataset(name, split=split, streaming=streaming, **more)
    for row in dataset.cast_column("speech", Audio(decode=False)):  # decoded here: its decoder is one more package
        yield pair_of_row(row)


def pair_of_row(row: Mapping[str, Any]) -> Pair:
    """Returns a row of a dataset, its recording given as {"bytes", "path"}, as a pair.

    Raises:
        ValueError: a column is missing, or the recording cannot be read.
    """
    missing = {"id", "speech", "conversations"} - set(row)
    if missing:
        raise ValueError(f"The dataset has no column {', '.join(sorted(missing))}; it has {', '.join(row)}.")
    recording = row["speech"]
    samples = _samples(recording["bytes"]) if recording["bytes"] else load_audio(recording["path"])
    units = row.get("units")
    return Pair(str(row["id"]), samples, row["conversations"], None if units is None else np.asarray(units, np.int64))
