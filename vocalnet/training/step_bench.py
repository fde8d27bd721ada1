"""How long a step of stage 2 takes, and how much of it the masks: the whole batch's in a few operations, beside a
straightforward implementation that builds one sample's mask after another, row by row.

Letters: B batch, T columns of a padded batch, L_t text positions, L_s speech rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vocalnet.config import TalkerConfig
from vocalnet.decoder.batch import BatchRules, MaskRule, Masks, build_masks
from vocalnet.decoder.talker import Talker
from vocalnet.masks import attention_mask, first_speech_row
from vocalnet.provenance import provenance
from vocalnet.training.objectives import target_sums

B, ANSWER, SPEECH = 2, 60, 250  # ten seconds of speech


class Operations(TorchDispatchMode):
    """Counts tensor operations."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


class TimedMasks:
    """Builds a batch's masks by a rule (booleans, padding and attention's bias) and adds up the seconds it takes."""

    def __init__(self, rule: MaskRule) -> None:
        self.seconds = 0.0
        self._build = partial(build_masks, mask_rule=rule)

    def __call__(self, *arguments: Any) -> Masks:
        """Returns what `build_masks` does."""
        began = time.perf_counter()
        masks = self._build(*arguments)
        self.seconds += time.perf_counter() - began
        return masks


def plain_mask(
    n_text: Tensor,
    n_speech: Tensor,
    is_streaming: Tensor,
    rule: str = "own",
    text_chunk: int = 5,
    speech_chunk: int = 15,
    depth: int = 0,
    stride: int = 1,
) -> Tensor:
    """Returns what `masks.attention_mask` returns under the rules "own" and "paper", sample by sample, row by row."""
    L_t, L_s = int(n_text.max()), int(n_speech.max())
    mask = torch.zeros(len(n_text), L_t + L_s, L_t + L_s, dtype=torch.bool)
    opens = first_speech_row(torch.arange(L_t), rule, text_chunk, speech_chunk)
    for sample, own_text, own_speech, streams in zip(mask, n_text, n_speech, is_streaming, strict=True):
        for row in range(int(own_text)):
            sample[row, : row + 1 if streams else int(own_text)] = True
        for row in range(int(own_speech)):
            n_seen = int((opens[: int(own_text)] <= row * stride).sum()) if streams else int(own_text)
            sample[L_t + row, :n_seen] = True
            sample[L_t + row, L_t : L_t + row + 1] = True
    return mask


def count_mask_operations(talker: Talker, n_text: Sequence[int], n_speech: Sequence[int]) -> int:
    """Returns the tensor operations that a training batch's masks take."""
    rules = BatchRules(["full", "streaming"] * (len(n_text) // 2))
    with Operations() as operations:
        build_masks(talker, torch.tensor(n_text), torch.tensor(n_speech), rules, torch.float32)
    return operations.n


def bench_step(config: TalkerConfig, name: str, repeats: int = 5, seed: int = 0) -> dict[str, Any]:
    """Returns the times of steps of a random talker with a batch of two, both ways of building masks in turns.

    A step is forward, backward and AdamW; the first of each is not counted.
    """
    torch.manual_seed(seed)
    talker = Talker(config)
    talker.train()
    optimizer = torch.optim.AdamW(talker.parameters(), lr=1e-5, fused=True)
    hidden = [torch.randn(ANSWER - 7 * i, config.llm_dim) for i in range(B)]
    units = [torch.randint(config.n_units, (SPEECH - 20 * i,)) for i in range(B)]
    rules: dict[str, MaskRule] = {"ours": attention_mask, "plain": plain_mask}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rules}
    for _ in range(repeats + 1):
        for way, rule in rules.items():
            times[way].append(_step(talker, optimizer, hidden, units, rule))
    cells = []
    for way, measured in times.items():
        steps, masks = zip(*measured[1:], strict=True)
        tokens_per_s = sum(len(row) for row in units) / median(steps)
        share = median(mask / step for step, mask in measured[1:])
        cells.append({"masks": way, "step_s": median(steps), "mask_s": median(masks), "mask_share": share})
        cells[-1]["tokens_per_s"] = tokens_per_s
    lengths = ((10, 20), (60, 250), (120, 1000))
    n = [count_mask_operations(talker, [text] * B, [speech] * B) for text, speech in lengths]
    parameters = sum(weight.numel() for weight in talker.parameters())
    return {"what": "training-step", "talker": name, "parameters": parameters, "mask_operations": n, "cells": cells} | {
        "lengths": lengths,
        "batch": B,
        **provenance(seed),
    }


def _step(
    talker: Talker, optimizer: torch.optim.Optimizer, hidden: list[Tensor], units: list[Tensor], rule: MaskRule
) -> tuple[float, float]:
    """Returns the seconds of a step, and those of its masks."""
    masks, began = TimedMasks(rule), time.perf_counter()
    sums = target_sums(talker.labelled_logits(hidden, units, ["full", "streaming"], build_masks=masks))
    weights = torch.tensor(talker.head.weights(talker.config.loss_decay))
    (sums["loss"] / sums["n"] * weights).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - began, masks.seconds
