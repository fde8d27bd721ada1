"""One fine-tuning run: from settings to a merged checkpoint, on one device or many, resumed where it stopped.

OUTPUT/settings.json      what is trained
OUTPUT/metrics.jsonl      losses, entropy and accuracy per head, speed, memory
OUTPUT/checkpoint-STEP/   see checkpoints.py
OUTPUT/trained.safetensors, OUTPUT/merged/   the end: trained weights, and a checkpoint that `vocalnet.load` reads
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from vocalnet.data.lists import FILES, read_entries
from vocalnet.data.streams import packed_entries
from vocalnet.files import write_json
from vocalnet.training import checkpoints
from vocalnet.training.examples import Examples
from vocalnet.training.lisa import Lisa
from vocalnet.training.methods import Prepared, merge, prepare
from vocalnet.training.settings import Settings
from vocalnet.training.trainer import TRAINED, StageTrainer

MERGED = "merged"
MAY_CHANGE = {
    "batch_per_device",
    "workers",
    "log_every",
    "save_every",
    "keep",
    "report_to",
    "save_dtype",
    "dev",
    "output",
}


def finetune(settings: Settings) -> Path:
    """Trains a stage and merges it; returns the folder of the merged checkpoint.

    Under `accelerate launch` every process calls it. A run whose output folder has a sound checkpoint goes on from it.

    Raises:
        ValueError: the settings or the data are wrong, or the folder is that of another run.
    """
    trainer = make_trainer(settings)
    state = PartialState()
    claim(settings, state.is_main_process)
    found = [str(checkpoints.newest(settings.folder) or "")] if state.is_main_process else [""]
    broadcast_object_list(found)
    trainer.train(resume_from_checkpoint=found[0] or None)
    weights = trainer.gathered()
    if state.is_main_process:
        trainer.save_trained(settings.folder / TRAINED, weights)
        merge(settings, settings.folder / TRAINED, settings.folder / MERGED)
    state.wait_for_everyone()
    return settings.folder / MERGED


def make_trainer(settings: Settings) -> StageTrainer:
    """Returns a trainer with model and data.

    Raises:
        ValueError: as for `finetune`.
    """
    prepared = prepare(settings)
    train = examples(prepared, settings, settings.data)
    dev = None if settings.dev is None else examples(prepared, settings, settings.dev)
    callbacks = [Lisa(prepared.objective, settings)] if settings.method == "lisa" else []
    trainer = StageTrainer(prepared, settings, train, dev, callbacks)
    if settings.method == "lisa" and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise ValueError("method=lisa runs on one device or with DDP: sharded optimizers cannot drop a layer's state.")
    return trainer


def examples(prepared: Prepared, settings: Settings, lists: str | Sequence[str]) -> Examples:
    """Returns the samples of one list or several for a stage."""
    names = [lists] if isinstance(lists, str) else lists
    entries = [entry for name in names for entry in _entries(Path(name), settings.root)]
    return Examples(entries, prepared.objective.model, settings)


def _entries(path: Path, root: str | None) -> list[dict[str, Any]]:
    """Returns the entries of a list or of a folder of packs, each file of them as a Path or a Member."""
    if path.is_dir():
        packs = sorted(pack for pack in path.glob("*.jsonl") if pack.with_suffix(".tar").is_file())
        if not packs:
            raise ValueError(f"{path} holds no packs (.jsonl with .tar). Name a list, or run: vocalnet data pack")
        return [entry for pack in packs for entry in packed_entries(pack)]
    folder = path.parent if root is None else Path(root)
    return [entry | {key: folder / entry[key] for key in FILES if key in entry} for entry in read_entries(path)]


def claim(settings: Settings, is_main: bool) -> None:
    """Writes the settings into the output folder, or checks that a run there is of the same ones.

    What only says how a run is carried out may change. The main process writes.

    Raises:
        ValueError: they differ.
    """
    path = settings.folder / "settings.json"
    written = json.loads(json.dumps(settings.to_dict()))  # as it comes back from a file
    values = {key: value for key, value in written.items() if key not in MAY_CHANGE}
    if path.exists():
        old = json.loads(path.read_text())
        changed = sorted(key for key in values if old.get(key) != values[key])
        if changed:
            raise ValueError(f"{settings.folder} holds a run with another {', '.join(changed)}. Choose another output.")
    if is_main:
        settings.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings.to_dict())
