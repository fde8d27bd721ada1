"""One fine-tuning run: from settings to a merged checkpoint, on one device or many, resumed where it stopped.

OUTPUT/settings.json      what is trained
OUTPUT/metrics.jsonl      losses, entropy and accuracy per head, speed, memory
OUTPUT/checkpoint-STEP/   see checkpoints.py
OUTPUT/trained.safetensors, OUTPUT/merged/   the end: trained weights, and a checkpoint that `vocalnet.load` reads
"""

from __future__ import annotations

import json
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from vocalnet.data.lists import read_entries
from vocalnet.files import write_json
from vocalnet.training import checkpoints
from vocalnet.training.examples import Examples
from vocalnet.training.lisa import Lisa
from vocalnet.training.methods import Prepared, merge, prepare
from vocalnet.training.settings import Settings
from vocalnet.training.trainer import TRAINED, StageTrainer

MERGED = "merged"
FREE = {"batch_per_device", "workers", "log_every", "save_every", "keep", "report_to", "save_dtype", "dev", "output"}


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


def examples(prepared: Prepared, settings: Settings, path: str) -> Examples:
    """Returns the samples of a list for a stage."""
    root = Path(path).parent if settings.root is None else Path(settings.root)
    return Examples(read_entries(path), root, prepared.objective.model, settings)


def claim(settings: Settings, is_main: bool) -> None:
    """Writes the settings into the output folder, or checks that a run there is of the same ones.

    What only says how a run is carried out (FREE) may change. The main process writes.

    Raises:
        ValueError: they differ.
    """
    path = settings.folder / "settings.json"
    values = {key: value for key, value in settings.to_dict().items() if key not in FREE}
    if path.exists():
        old = json.loads(path.read_text())
        changed = sorted(key for key in values if old.get(key) != values[key])
        if changed:
            raise ValueError(f"{settings.folder} holds a run with another {', '.join(changed)}. Choose another output.")
    if is_main:
        settings.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings.to_dict())
