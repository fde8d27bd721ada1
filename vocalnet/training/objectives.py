"""The two stages as modules: a batch in, sums over its targets out, which a trainer weighs over the global batch.

What is frozen stays in eval mode and runs without gradients.

Letters: B batch, K heads (1 in stage 1), n targets of a head, V its vocabulary, T_e encoder states, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vocalnet.decoder.backbone import Block
from vocalnet.decoder.heads.contract import IGNORE
from vocalnet.encoder import CONV_STRIDE
from vocalnet.experts import checkpoint_contexts
from vocalnet.model import VocalNet

ENTROPY_ROWS = 1024  # at once: a text vocabulary's probabilities are large
Sums = dict[str, Tensor]  # "loss", "entropy" (nats), "right", "n": (K,) each, summed over targets


def target_sums(scored: Iterable[tuple[Tensor, Tensor]]) -> Sums:
    """Returns the sums of heads whose logits (n, V) and targets (n,) come one after another; "loss" has gradients."""
    columns: dict[str, list[Tensor]] = {"loss": [], "entropy": [], "right": [], "n": []}
    for logits, target in scored:
        columns["loss"].append(functional.cross_entropy(logits.float(), target, reduction="sum"))
        with torch.no_grad():
            columns["entropy"].append(entropy_sum(logits))
            columns["right"].append((logits.argmax(-1) == target).sum())
            columns["n"].append(logits.new_tensor(len(target), dtype=torch.float32))
    return {name: torch.stack(values).float() for name, values in columns.items()}


def entropy_sum(logits: Tensor) -> Tensor:
    """Returns the entropy in nats of rows of logits (n, V), summed over the rows."""
    total = logits.new_zeros((), dtype=torch.float32)
    for rows in logits.split(ENTROPY_ROWS):
        log_p = rows.float().log_softmax(-1)
        total = total - (log_p.exp() * log_p).sum()
    return total


def encode(model: VocalNet, clips: Sequence[Sequence[tuple[Tensor, int]]]) -> list[Tensor]:
    """Returns the encoder's states (T_e, D_e) of clips, each from `encoder_inputs`; all windows run as one batch."""
    windows = [window for clip in clips for window in clip]
    frames = [mel.shape[1] for mel, _ in windows]
    inputs = torch.zeros(len(windows), model.parts.encoder.n_mels, max(frames), device=model.device, dtype=model.dtype)
    for row, (mel, n) in zip(inputs, zip((mel for mel, _ in windows), frames, strict=True), strict=True):
        row[:, :n] = mel
    lengths = None if len(set(frames)) == 1 else torch.tensor(frames, device=model.device)
    states = model.encoder(inputs, lengths)  # (windows, T_e, D_e)
    rows = [row[: min(n, (T_a + 1) // CONV_STRIDE)] for row, T_a, (_, n) in zip(states, frames, windows, strict=True)]
    parts = iter(rows)
    return [torch.cat([next(parts) for _ in clip]) for clip in clips]


class Objective(nn.Module):
    """What both stages share.

    Batches are those of `examples.collate`: under each key of a sample ("windows", "prompt", "answer"; for stage 2 also
    "units", "inputs", "mask") a list of B values, as `Examples.__getitem__` describes them.
    """

    def __init__(self, model: VocalNet) -> None:
        super().__init__()
        self.model = model

    @property
    def _no_split_modules(self) -> list[str]:
        """Class names that a sharded run wraps: the layers of encoder, LLM and talker, as far as they are here."""
        named = {"WhisperEncoderLayer", "Block", *(self.model.llm._no_split_modules or [])}
        return sorted(named & {type(module).__name__ for module in self.modules()})

    def train(self, mode: bool = True) -> Objective:
        """Sets the mode, but leaves parts in which nothing is trained in eval mode."""
        super().train(mode)
        for part in self.model.children():
            if not any(weight.requires_grad for weight in part.parameters()):
                part.eval()
        return self

    def heads(self) -> Sequence[float]:
        """Returns the weight of each head in the total loss."""
        raise NotImplementedError

    def n_targets(self, batch: dict[str, Any]) -> Tensor:
        """Returns how many targets each head has in a batch, (K,)."""
        raise NotImplementedError

    def checkpoint_activations(self) -> None:
        """Makes the layers compute their activations again in the backward pass instead of keeping them."""
        raise NotImplementedError

    def features(self, batch: dict[str, Any]) -> list[Tensor]:
        """Returns the frozen encoder's states of a batch, as the adaptor takes them."""
        with torch.no_grad():
            weight = self.model.adaptor.linear1.weight
            return [states.to(weight.dtype) for states in encode(self.model, batch["windows"])]


class Alignment(Objective):
    """Stage 1: the answer's text after the spoken question (cross entropy)."""

    def heads(self) -> Sequence[float]:
        """Returns the single weight 1."""
        return (1.0,)

    def n_targets(self, batch: dict[str, Any]) -> Tensor:
        """Returns the number of answer tokens, end tokens included, (1,)."""
        return torch.tensor([sum(len(answer) + 1 for answer in batch["answer"])])

    def checkpoint_activations(self) -> None:
        """As in `Objective`; for the LLM."""
        options = {"use_reentrant": False, "context_fn": checkpoint_contexts}
        self.model.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    def forward(self, **batch: Any) -> Sums:
        """Returns the sums over a batch's answer tokens, (1,) each; keys of the batch: windows, prompt, answer."""
        model = self.model
        produced = model.produced_states(self.features(batch), batch["prompt"], batch["answer"])
        return target_sums([model.answer_logits(produced, batch["answer"])])


class Speech(Objective):
    """Stage 2: the talker says the answer that the frozen LLM would write (Eq. 7)."""

    def heads(self) -> Sequence[float]:
        """Returns lambda^k of each head (Eq. 7), or what else the head says."""
        talker = self.model.talker
        assert talker is not None
        return talker.head.weights(talker.config.loss_decay)

    def n_targets(self, batch: dict[str, Any]) -> Tensor:
        """Returns the number of each head's speech tokens, end tokens included, (K,)."""
        talker = self.model.talker
        assert talker is not None
        ends = torch.tensor([len(units) for units in batch["units"]])
        tokens = torch.zeros(len(ends), int(ends.max()), dtype=torch.long)
        return (talker.head.targets(tokens, ends, talker.config.eos_id) != IGNORE).sum((1, 2))

    def checkpoint_activations(self) -> None:
        """As in `Objective`; for the talker."""
        assert self.model.talker is not None
        for block in self.model.talker.modules():
            if isinstance(block, Block):  # on the object: a wrapper would change the keys of the weights
                block.forward = _again_in_backward(block.forward)  # type: ignore[method-assign]

    def forward(self, **batch: Any) -> Sums:
        """Returns the sums over a batch's speech tokens, (K,) each; each sample has the mask that was drawn for it.

        Keys of the batch: windows, prompt, answer, units, inputs, mask.

        Raises:
            ValueError: a mask is unknown, or "inputs" and "units" of a sample differ in length.
        """
        model = self.model
        assert model.talker is not None
        with torch.no_grad():
            produced = model.produced_states(self.features(batch), batch["prompt"], batch["answer"])
            hidden = model.talker_inputs(produced)
        return target_sums(model.talker.labelled_logits(hidden, batch["units"], batch["mask"], batch["inputs"]))


OBJECTIVES: dict[int, type[Objective]] = {1: Alignment, 2: Speech}


def _again_in_backward(forward: Any) -> Any:
    """Returns a block's forward that keeps its inputs only."""

    def checkpointed(*args: Any) -> Tensor:
        return checkpoint(forward, *args, use_reentrant=False)

    return checkpointed
