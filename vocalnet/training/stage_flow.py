"""The flow stage: speech tokens -> mel by conditional flow matching, with and without chunked attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vocalnet.training.answers import Answers
from vocalnet.training.data import pad, pick_entries, read_list
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.vocoder.flow import Flow, flow_matching_loss


def train_flow(flow: Flow, answers: Answers, data: Path, folder: Path, options: dict[str, Any], seed: int) -> None:
    """Trains a flow in place on the answers' tokens (`data/units`) and mels; half of the steps see chunks only.

    Args:
        options: "loop" (LoopConfig), "batch_size", "bf16", "prior" (weight, see `flow_matching_loss`), and optionally
            "per_topic" (see `pick_entries`; else every answer is said as often).
    """
    loop = LoopConfig(**options["loop"])
    units = [torch.from_numpy(np.load(data / "units" / f"{name}.npy")) for name in answers.names]
    place = {text: i for i, text in enumerate(answers.texts)}
    entries = pick_entries(read_list(data, "train"), 1, seed, options.get("per_topic", 0))
    said = np.array([place[entry["answer"]] for entry in entries])
    order = batch_order(len(said), options["batch_size"], seed, [len(units[i]) for i in said])
    config = flow.config
    ratio = config.token_mel_ratio

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = said[order(step)]
        tokens, lengths = pad([units[i] for i in index])
        mel, _ = pad([answers.mel[i][: ratio * len(units[i])] for i in index])
        chunk = config.chunk_size if torch.rand((), generator=generator) < 0.5 else None
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            loss = flow_matching_loss(
                flow, tokens, lengths, mel.transpose(1, 2), generator, chunk, prior=options["prior"]
            )
        return {"total": loss}

    train({"flow": flow}, losses, loop, folder, seed)
