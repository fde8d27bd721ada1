"""Stage 2 (generative supervised fine-tuning): all is frozen but the talker, which learns to speak the answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from vocalnet.decoder.talker import Talker
from vocalnet.llm import Message, prompt_pieces, user_content
from vocalnet.model import VocalNet
from vocalnet.training.data import pick_entries, read_clip, read_list
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.speeches import Speeches
from vocalnet.training.stage_pace import encode_clips
from vocalnet.training.stage_text import at_spoken_pace, pause_id

CACHE_BATCH = 32


def corrupted(tokens: Tensor, share: float, n_units: int, generator: torch.Generator) -> Tensor:
    """Returns speech tokens (L_s,) of which a random `share` is replaced by random units."""
    is_wrong = torch.rand(len(tokens), generator=generator) < share
    return torch.where(is_wrong, torch.randint(n_units, (len(tokens),), generator=generator), tokens)


def alike(units: Sequence[Tensor]) -> list[list[int]]:
    """Returns for every speech those of the same tokens, itself among them: the same answer to several questions."""
    groups: dict[bytes, list[int]] = {}
    for i, row in enumerate(units):
        groups.setdefault(row.numpy().tobytes(), []).append(i)
    return [groups[row.numpy().tobytes()] for row in units]


def swayed(
    hidden: Sequence[Tensor], groups: Sequence[list[int]], i: int, most: float, generator: torch.Generator
) -> Tensor:
    """Returns states (L_t, D) moved away from those of the same answer to another question, by up to `most` times that.

    LLM states tell questions and voices apart, the speech of an answer does not: a talker that has only met those of
    its training voices stumbles over others. This is extrapolation within a class (DeVries & Taylor, arXiv 1702.05538,
    Eq. 2). An answer to one question alone takes the difference of some other answer's, as far as both have rows.
    """
    pairs = groups[i] if len(groups[i]) > 1 else groups[_draw(len(groups), generator)]
    one, other = (hidden[pairs[_draw(len(pairs), generator)]] for _ in range(2))
    state = hidden[i].float()
    n = min(len(state), len(one), len(other))
    moved = state.clone()
    moved[:n] += most * torch.rand((), generator=generator) * (one[:n].float() - other[:n].float())
    return moved


def _draw(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))


@torch.no_grad()
def talker_states(
    model: VocalNet, data: Path, entries: list[dict[str, Any]], is_typed: bool, seed: int
) -> list[Tensor]:
    """Returns what the talker hears of every entry, (L_t, D) in half precision: LLM states on its question.

    The LLM hears the question's clip or, if it `is_typed`, reads it at the pace of speech, which needs no encoder.
    """
    pieces = prompt_pieces(model.tokenizer, model.family, [Message("user", user_content())])
    rng, pause = random.Random(seed), pause_id(model.tokenizer)
    states: list[Tensor] = []
    for start in tqdm(range(0, len(entries), CACHE_BATCH), desc="answer states", mininterval=5):
        batch = entries[start : start + CACHE_BATCH]
        features: Sequence[Tensor | None]
        if is_typed:
            asked = [model.tokenizer.encode(e["question"], add_special_tokens=False) for e in batch]
            prompts = [[[*pieces[0], *at_spoken_pace(tokens, pause, rng), *pieces[1]]] for tokens in asked]
            features = [None] * len(batch)
        else:
            prompts = [pieces] * len(batch)
            features = encode_clips(model, [read_clip(data / e["speech"]) for e in batch])
        answers = [model.tokenizer.encode(e["answer"], add_special_tokens=False) for e in batch]
        produced, _ = model.answer_states(features, prompts, answers)
        states += [row.half() for row in model.talker_inputs(produced)]
    return states


def gather_speeches(model: VocalNet, data: Path, split: str, options: dict[str, Any], seed: int) -> Speeches:
    """Returns answers of the corpus as the talker hears them and as it is to say them.

    Args:
        model: whose LLM answers.
        data: the corpus.
        split: "train": up to "per_answer" questions for each distinct answer; "dev": "n_dev" different answers.
        options: these two numbers, "typed": whether the LLM reads the questions instead of hearing them, and optionally
            "per_topic" (see `pick_entries`).
        seed: of the choice.
    """
    model.requires_grad_(False).eval()
    if split == "train":
        entries = pick_entries(read_list(data, split), options["per_answer"], seed, options.get("per_topic", 0))
    else:
        entries = pick_entries(read_list(data, split), 1, seed)[: options["n_dev"]]
    units = [torch.from_numpy(np.load(data / e["units"])) for e in entries]
    return Speeches(talker_states(model, data, entries, options["typed"], seed), units)


def fit_talker(
    talker: Talker, answers: Speeches, dev: Speeches, folder: Path, options: dict[str, Any], seed: int
) -> None:
    """Trains a talker in place; the mask (Eq. 2 or 3) is drawn per sample with probability 1/2.

    Args:
        talker: with any head.
        answers: what it learns to say.
        dev: what its losses are measured on.
        folder: of the resume state and the log.
        options: "loop" (LoopConfig), "batch_size", "bf16", "eval_every", "corrupt": share of the speech tokens that
            enter as random ones, so that a wrong token in decoding does not derail the rest; and optionally "dropout",
            in place of the talker's own, and "sway": how far LLM states are moved at most (see `swayed`).
        seed: of the batches' order, the masks, dropout and corruption.
    """
    units, hidden = answers.units, answers.hidden
    dev_hidden = [row.float() for row in dev.hidden]
    talker.requires_grad_(True)
    for module in talker.modules():
        if isinstance(module, nn.Dropout) and "dropout" in options:
            module.p = options["dropout"]
    order = batch_order(len(units), options["batch_size"], seed, [len(u) for u in units])
    sway = options.get("sway", 0.0)
    groups = alike(units) if sway else []

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        is_full = (torch.rand(len(index), generator=generator) < 0.5).tolist()
        masks = ["full" if full else "streaming" for full in is_full]
        targets = [units[i] for i in index]
        inputs = [corrupted(row, options["corrupt"], talker.config.n_units, generator) for row in targets]
        heard = [swayed(hidden, groups, i, sway, generator) if sway else hidden[i].float() for i in index]
        # Over a hundred positions, attention's blockwise backward pass is the slower one on a CPU.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            loss = talker.loss(heard, targets, masks, inputs=inputs)
        heads = {f"head{k}": value for k, value in enumerate(loss.heads)}
        return {"total": loss.total, **heads, "accuracy": loss.accuracy[0]}

    def evaluate() -> dict[str, float]:
        loss = talker.loss(dev_hidden, dev.units, "full")
        return {f"dev_head{k}": value.item() for k, value in enumerate(loss.heads)} | {
            f"dev_accuracy{k}": value.item() for k, value in enumerate(loss.accuracy)
        }

    train({"talker": talker}, losses, LoopConfig(**options["loop"]), folder, seed, evaluate, options["eval_every"])
    talker.requires_grad_(False)


def train_talker(model: VocalNet, data: Path, folder: Path, options: dict[str, Any], seed: int) -> None:
    """Trains `model.talker` in place; options are those of `gather_speeches` and `fit_talker` together."""
    assert model.talker is not None
    answers, dev = (gather_speeches(model, data, split, options, seed) for split in ("train", "dev"))
    fit_talker(model.talker, answers, dev, folder, options, seed)
