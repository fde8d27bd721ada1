"""Recordings of answers -> speech tokens, in many processes; stopped at any time, it goes on where it was.

The tokenizer is CosyVoice 2's speech_tokenizer_v2.onnx, or that of a checkpoint in our layout (nano's). Beside the
tokens stands which one wrote them, so that those of two are never mixed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vocalnet.audio import SAMPLE_RATE_HZ, AudioError, load_audio
from vocalnet.checkpoint import load_component, read_values, resolve
from vocalnet.config import VocalNetConfig, from_dict
from vocalnet.data.lists import RECORDINGS, answer_recording, read_entries
from vocalnet.data.units import save_units
from vocalnet.data.workers import each
from vocalnet.files import write_json
from vocalnet.tokens import TOKEN_RATE_HZ
from vocalnet.vocoder.frontend import whisper_mel
from vocalnet.vocoder.prompt import open_session, speech_tokens
from vocalnet.vocoder.speech_tokenizer import SpeechTokenizer

SAMPLES_PER_TOKEN = SAMPLE_RATE_HZ // TOKEN_RATE_HZ  # 16000 / 25 = 640
RECORD = "tokenizer.json"
Tokenizer = Callable[[np.ndarray], np.ndarray]
Job = tuple[Path, Path]


def jobs_of_list(path: Path, root: Path | None = None, answers: Path | None = None) -> list[Job]:
    """Returns the recording of every answer of a list and where its units belong; equal answers share one job.

    Raises:
        ValueError: the list cannot be read, or an entry's recording is nowhere.
    """
    root = path.parent if root is None else root
    jobs: dict[Path, Path] = {}
    for number, entry in enumerate(read_entries(path)):
        recording = answer_recording(entry, root, answers)
        if recording is None or "units" not in entry:
            raise ValueError(
                f"Entry {number} of {path}, id {entry['id']!r}, has no recording of its answer. Name it in the entry "
                'as "answer_speech", or give the folder of recordings that are called as the units: --answers FOLDER.'
            )
        jobs[root / entry["units"]] = recording
    return [(recording, units) for units, recording in jobs.items()]


def jobs_of_folder(folder: Path, out: Path) -> list[Job]:
    """Returns every recording under a folder and where its units belong, under the same name.

    Raises:
        ValueError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in RECORDINGS)
    if not found:
        raise ValueError(f"{folder} has no recordings ({', '.join(RECORDINGS)}).")
    return [(path, out / path.relative_to(folder).with_suffix(".npy")) for path in found]


def tokenize(
    jobs: Sequence[Job], tokenizer: str, n_workers: int | None = None, is_anew: bool = False
) -> dict[str, Any]:
    """Writes the units of every recording that has none yet; each file appears whole or not at all.

    Args:
        jobs: recordings and their files of units.
        tokenizer: an .onnx file, "nano", or a checkpoint folder or hub id in our layout.
        n_workers: processes of one thread each; None: one a core.
        is_anew: remove the units of these recordings that exist first.

    Returns:
        {"n_written", "n_kept", "n_tokens" written, "failed": [{"file", "problem"}]}.

    Raises:
        ValueError: there is no such tokenizer, a recording is missing, or units would stay that another one wrote. All
            of this is checked before anything is removed or written.
    """
    file = tokenizer_file(tokenizer)
    record = {"tokenizer": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    missing = [recording for recording, _ in jobs if not recording.is_file()]
    if missing:
        raise ValueError(f"There is no recording {missing[0]} ({len(missing)} missing in all). Nothing was written.")
    folders = {units.parent for _, units in jobs}
    replaced = {units for _, units in jobs} if is_anew else set()
    for folder in folders:
        _check_folder(folder, record, replaced)
    for units in replaced:
        units.unlink(missing_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)
    todo = [job for job in jobs if not job[1].exists()]
    outcomes = list(each(functools.partial(_tokenize, tokenizer=tokenizer), todo, n_workers, "tokenising"))
    counts = [outcome for outcome in outcomes if isinstance(outcome, int)]
    failed = [(path, outcome) for (path, _), outcome in zip(todo, outcomes, strict=True) if isinstance(outcome, str)]
    return {
        "n_written": len(counts),
        "n_kept": len(jobs) - len(todo),
        "n_tokens": sum(counts),
        "failed": [{"file": str(path), "problem": problem} for path, problem in failed],
    }


def tokenizer_file(tokenizer: str) -> Path:
    """Returns the weights of a tokenizer.

    Raises:
        ValueError: there are none.
    """
    if tokenizer.endswith(".onnx"):
        file, how = Path(tokenizer), "It is part of CosyVoice2-0.5B, as speech_tokenizer_v2.onnx."
    else:
        file, how = resolve(tokenizer) / "speech_tokenizer.safetensors", "Name an .onnx file or nano."
    if not file.is_file():
        raise ValueError(f"There is no speech tokenizer {file}. {how}")
    return file


@functools.lru_cache(maxsize=1)  # once a process, whatever the number of its jobs
def open_tokenizer(tokenizer: str) -> Tokenizer:
    """Returns 16 kHz samples (n,) -> speech tokens (n // 640,), of CosyVoice 2 as many as its network gives."""
    if tokenizer.endswith(".onnx"):
        session = open_session(tokenizer_file(tokenizer))
        return lambda samples: speech_tokens(session, torch.from_numpy(samples)[None])[0].numpy()
    folder = resolve(tokenizer)
    config = from_dict(VocalNetConfig, read_values(folder), str(folder / "config.json")).speech_tokenizer
    assert config is not None  # its weights are there
    network = SpeechTokenizer(config)
    load_component(folder, "speech_tokenizer", network)
    network.eval()

    def run(samples: np.ndarray) -> np.ndarray:
        whole = samples[: len(samples) // SAMPLES_PER_TOKEN * SAMPLES_PER_TOKEN]
        return network.tokenize(whisper_mel(whole, config.n_mels))[0].numpy()

    return run


def _check_folder(folder: Path, record: dict[str, str], replaced: set[Path]) -> None:
    """Raises ValueError if a folder has units, of any list, that stay and are not known to be of the tokenizer."""
    path = folder / RECORD
    try:
        is_own = json.loads(path.read_text()) == record
    except (OSError, ValueError):  # nothing is known of them
        is_own = False
    if not is_own and any(units not in replaced for units in folder.glob("*.npy")):
        raise ValueError(
            f"{folder} has units that {record['tokenizer']} is not known to have written. "
            "Choose another folder, or write all of them --anew."
        )


def _tokenize(job: Job, tokenizer: str) -> int | str:
    """Returns how many tokens a recording has, or why it has none."""
    path, units = job
    try:
        samples = load_audio(path)
    except AudioError as error:
        return str(error)
    tokens = open_tokenizer(tokenizer)(samples)
    units.parent.mkdir(parents=True, exist_ok=True)
    save_units(units, tokens)
    return len(tokens)
