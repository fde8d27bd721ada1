"""Negative log likelihood of known answers, in nats per token: of their text, and of their speech under every head.

Source: LMFlow's benchmark, which ranks LLMs by the likelihood of reference answers; carried to speech. It needs no
judge, and compares checkpoints on the same data and tokenizer only. Teacher forced, one sample at a time, so that no
number depends on a batch.

Letters: M MTP modules; group heads have G places where MTP heads have 1 + M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vocalnet import files
from vocalnet.audio import load_audio
from vocalnet.benchmarks.journal import Journal, digest
from vocalnet.data.lists import read_entries
from vocalnet.data.units import check_range, read_units
from vocalnet.decoder.heads.contract import IGNORE
from vocalnet.decoder.talker import Talker
from vocalnet.llm import Message, prompt_pieces, user_content
from vocalnet.metrics import bootstrap
from vocalnet.model import VocalNet
from vocalnet.provenance import provenance


def benchmark(
    model: VocalNet,
    path: str | Path,
    out: Path,
    *,
    mask: str = "full",
    n: int | None = None,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures a list in the published format and writes the results; an interrupted run goes on where it stopped.

    Args:
        model: with or without a talker.
        path: the list; its files' paths are relative to its folder.
        out: the results file.
        mask: "full" or "streaming", of the talker.
        n: the first so many samples; None: all.
        seed: of the intervals.
        settings: what else a resumed run must share, such as the model's path.

    Raises:
        ValueError: the list or one of its files cannot be used, or an earlier run had other settings.
    """
    files.check_writable(out)
    entries, root = read_entries(path)[:n], Path(path).parent
    if not entries:
        raise ValueError(f"{path} holds no samples: there is nothing to measure.")
    what = {**(settings or {}), "mask": mask, "decoder": model.parts.decoder_name, "n": len(entries)}
    journal = Journal(out, {**what, "items": digest(entries)})
    for entry in tqdm(entries[len(journal.rows) :], "samples", disable=None):
        journal.add(sample(model, entry, root, mask))
    report = {
        "set": "nll",
        **what,
        **summary(journal.rows, seed),
        "n_resumed": journal.n_taken_over,
        "cells": journal.rows,
        **provenance(seed),
    }
    files.write_json(out, report)
    journal.close()
    return report


@torch.inference_mode()
def sample(model: VocalNet, entry: dict[str, Any], root: Path, mask: str) -> dict[str, Any]:
    """Returns {"id", "text": [nats, tokens], "heads": [[nats, tokens], ...]} of one question and its answer.

    Raises:
        ValueError: it is no question with an answer, or a file cannot be used.
    """
    turns = entry["conversations"]
    if [turn["from"] for turn in turns] != ["human", "gpt"]:
        raise ValueError(f"Item {entry['id']}: the benchmark takes one human turn and one gpt turn.")
    try:
        features = model.features(load_audio(root / entry["speech"], model.parts.max_audio_s))
        units = _units(root / entry["units"], model.talker) if "units" in entry and model.talker else None
    except ValueError as error:
        raise ValueError(f"Item {entry['id']}: {error}") from error
    pieces = prompt_pieces(model.tokenizer, model.family, [Message("user", user_content())])
    answer = model.tokenizer.encode(turns[1]["value"], add_special_tokens=False)
    produced, text = model.answer_states([features], [pieces], [answer])
    row = {"id": entry["id"], "text": [float(text) * (len(answer) + 1), len(answer) + 1], "heads": []}
    if units is not None:
        assert model.talker is not None
        loss = model.talker.loss(model.talker_inputs(produced), [units.to(model.device)], mask)
        counts = (loss.labels != IGNORE).sum((1, 2)).tolist()
        row["heads"] = [[float(mean) * count, count] for mean, count in zip(loss.heads, counts, strict=True)]
    return row


def _units(path: Path, talker: Talker) -> torch.Tensor:
    """Returns the speech tokens (L_s,) of a file, all of them in the talker's vocabulary."""
    units = read_units(path)
    check_range(units, talker.config.n_units, path)
    return torch.from_numpy(units)


def summary(rows: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Returns {"text", "heads"}: nats per token with its interval over samples, perplexity, and nats per sample."""
    spoken = [row["heads"] for row in rows if row["heads"]]
    heads = [_measured([row[k] for row in spoken], seed) for k in range(len(spoken[0]))] if spoken else []
    return {"text": _measured([row["text"] for row in rows], seed), "heads": heads, "n_spoken": len(spoken)}


def _measured(pairs: Sequence[Sequence[float]], seed: int) -> dict[str, Any]:
    totals, counts = [pair[0] for pair in pairs], [int(pair[1]) for pair in pairs]
    found = bootstrap.ratio(totals, counts, seed)
    nll = found.pop("mean")
    return {
        "nll": nll,
        "ci95": found["ci95"],
        "n_tokens": found["n"],
        "perplexity": None if nll is None else math.exp(min(nll, 700.0)),  # beyond it exceeds a float
        "nll_per_sample": sum(totals) / len(totals),
    }
