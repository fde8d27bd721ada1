"""What fine-tuning reads: several lists, and folders of packs."""

from __future__ import annotations

import pytest
import torch

from tests.training.finetuning import losses, tiny_list, tiny_settings
from vocalnet.data.streams import pack
from vocalnet.training import checkpoints
from vocalnet.training.finetune import examples, finetune
from vocalnet.training.methods import prepare
from vocalnet.training.settings import read_settings


def test_several_lists_are_one_each_with_its_own_folder(model, data, tmp_path):
    second = tiny_list(tmp_path / "second", n=5)
    pairs = [f"data=[{data}, {second}]", "stage=1", "method=lora", f"model={model}", f"output={tmp_path / 'run'}"]
    pairs += ["steps=2", "batch_size=4", "batch_per_device=4", "log_every=1", "save_every=1", "report_to=[]"]
    settings = read_settings(None, {}, pairs)
    prepared = prepare(settings)
    items = examples(prepared, settings, settings.data)
    assert len(items) == 14 + 5
    own = examples(prepared, settings, str(second))
    assert torch.equal(items[0, 14 + 4]["windows"][0][0], own[0, 4]["windows"][0][0])
    finetune(settings)
    checkpoints.remove(tmp_path / "run" / "checkpoint-2")
    finetune(settings)  # goes on: the same lists
    assert len(losses(tmp_path / "run")) == 2


def test_packs_train_as_the_list_that_they_were_made_of(model, data, tmp_path):
    packs = pack(data, tmp_path / "packs", pack_bytes=80_000)
    assert len(packs) > 1
    for name, source in (("list", data), ("moved", tmp_path / "packs")):
        finetune(tiny_settings(tmp_path / name, model, source, stage=2, method="full", steps=4))
    checkpoints.remove(tmp_path / "moved" / "checkpoint-4")
    finetune(tiny_settings(tmp_path / "moved", model, tmp_path / "packs", stage=2, method="full", steps=4))
    assert losses(tmp_path / "moved") == losses(tmp_path / "list")
    packs[0].with_suffix(".tar").write_bytes(b"cut")
    with pytest.raises(ValueError, match="Cannot read the pack"):
        finetune(tiny_settings(tmp_path / "cut", model, tmp_path / "packs", steps=4))
