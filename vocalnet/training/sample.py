"""A few pairs of nano's data, shipped with it as a sample of the format: pairs.json, questions/, answers/, units/."""

from __future__ import annotations

import shutil
from pathlib import Path

from vocalnet.data.lists import ANSWERS_FOLDER
from vocalnet.data.tokenize import jobs_of_list, tokenize
from vocalnet.files import atomic_path, write_json
from vocalnet.training.data import read_list

SAMPLE = "sample/pairs.json"  # inside a checkpoint folder


def write_sample(data: Path, folder: Path, n: int) -> Path:
    """Copies the first dev pair of each of `n` topics into a checkpoint folder, with units of its own tokenizer.

    Args:
        data: a corpus of the recipes.
        folder: the checkpoint; its sample is replaced.
        n: number of pairs, at most that of the topics.

    Returns:
        The sample's list.

    Raises:
        ValueError: there is no corpus, or the checkpoint has no speech tokenizer.
    """
    by_topic = {entry["topic"]: entry for entry in reversed(read_list(data, "dev"))}
    path = folder / SAMPLE
    shutil.rmtree(path.parent, ignore_errors=True)
    entries = []
    for topic in sorted(by_topic)[:n]:
        entry = {key: value for key, value in by_topic[topic].items() if key != "answer"}
        answer = f"{ANSWERS_FOLDER}/{Path(entry['units']).stem}.wav"
        for name in (entry["speech"], answer):
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path.parent / name) as temporary:
                shutil.copyfile(data / name, temporary)
        entries.append(entry)
    write_json(path, entries)
    tokenize(jobs_of_list(path), str(folder), n_workers=1)
    return path
