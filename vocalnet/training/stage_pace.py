"""The pace stage: the adaptor learns to say the LLM's tokens in the LLM's own embeddings, ten a second.

Stage 1 then starts from audio that the LLM can nearly read, instead of from noise, which LoRA learns to ignore.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.adaptor import group_frames
from vocalnet.llm import embeddings
from vocalnet.model import VocalNet, encoder_inputs
from vocalnet.training.augment import augment, masked_stretches, other_speakers
from vocalnet.training.data import clip_lengths, has_transcript, pad, read_clip, read_list
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.objectives import encode
from vocalnet.training.stage_encoder import ctc_loss, text_tokens
from vocalnet.training.stage_text import pause_id

PASSED = 3.0  # deviations above zero at which a hidden unit starts: ReLU then cuts off one value in a thousand
START_CLIPS = 960  # for the adaptor's start
ENCODED_AT_ONCE = 32
SHARPNESS = 10.0  # log odds of a token at its own embedding against one at the mean distance


class TokenReader:
    """Reads audio embeddings as the LLM's tokens: each is the token whose text embedding is nearest."""

    def __init__(self, model: VocalNet) -> None:
        """Takes the embeddings (V, D) of a model's LLM as they are now."""
        self.tokenizer = model.tokenizer
        self.pause = pause_id(model.tokenizer)
        self.table = embeddings(model.llm).detach().clone()  # (V, D)
        self.spread = 2 * self.table.var(0).sum()  # mean squared distance of two rows

    def logits(self, adapted: Tensor) -> Tensor:
        """Returns logits (..., V) of audio embeddings (..., D): minus the squared distance to each text embedding.

        The part that all tokens share, the embedding's own square, is left out; softmax does not see it.
        """
        return SHARPNESS / self.spread * (2 * adapted @ self.table.T - (self.table**2).sum(1))

    def losses(self, adapted: Sequence[Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns two losses of audio embeddings (L_a, D) against what is said in them.

        The CTC loss per token, with pauses as blanks; and the mean squared distance to the text embedding that the
        logits expect, over the spread: CTC alone leaves open how far along its direction an embedding lies.
        """
        rows, lengths = pad(adapted)  # (B, L_a, D)
        logits = self.logits(rows)
        targets = [text_tokens(self.tokenizer, text) for text in texts]
        ctc = ctc_loss(logits, lengths, [target[target != self.pause] for target in targets], self.pause)
        expected = logits.detach().softmax(-1) @ self.table  # (B, L_a, D)
        is_valid = torch.arange(rows.shape[1]) < lengths[:, None]
        distance = ((rows - expected) ** 2).sum(-1)[is_valid].mean() / self.spread
        return ctc, distance

    def text(self, adapted: Tensor) -> str:
        """Returns the best path of audio embeddings (L_a, D): repeats merged, pauses removed."""
        best = torch.unique_consecutive(self.logits(adapted).argmax(-1))
        return str(self.tokenizer.decode(best[best != self.pause], skip_special_tokens=True))


def encode_clips(
    model: VocalNet, clips: Sequence[np.ndarray], generator: torch.Generator | None = None, is_masked: bool = False
) -> list[Tensor]:
    """Returns the encoder's states (T_e, D_e) of 16 kHz clips (n,).

    With a `generator` they are those of other speakers, with `is_masked` also full of holes (SpecAugment).
    """
    inputs = [encoder_inputs(clip, model.parts.encoder) for clip in clips]
    if generator is not None:  # nano's clips have one window

        def changed(mel: Tensor) -> Tensor:
            other = other_speakers(mel[None], generator)
            return (masked_stretches(other, generator) if is_masked else other)[0]

        inputs = [[(changed(mel), n) for mel, n in clip] for clip in inputs]
    return encode(model, inputs)


@torch.no_grad()
def start_at_head(model: VocalNet, head: nn.Linear, clips: Sequence[np.ndarray]) -> None:
    """Sets the adaptor of `model` to about the linear map that says what a recogniser's token head reads.

    From a random start half of the hidden units died in training and few of the others ever spoke. Here they take the
    directions in which the head's logits vary most, high enough above zero to pass ReLU; the output is fitted to the
    embedding that the head expects.

    Args:
        head: token logits (L_a, V) of groups of encoder states (L_a, rate * D_e); its blank is the padding token.
        clips: 16 kHz, a few hundred.
    """
    adaptor, reader = model.adaptor, TokenReader(model)
    batches = [clips[start : start + ENCODED_AT_ONCE] for start in range(0, len(clips), ENCODED_AT_ONCE)]
    rows = [row[None] for batch in batches for row in encode_clips(model, batch)]
    groups = torch.cat([group_frames(row, adaptor.rate)[0] for row in rows])  # (n, G)
    mean, spread = groups.mean(0), torch.cov(groups.T)
    root = torch.linalg.cholesky(spread + 1e-4 * torch.eye(len(spread)))  # whitens the groups
    _, _, directions = torch.linalg.svd(head.weight @ root, full_matrices=False)
    directions = directions[: adaptor.linear1.out_features]
    enter = torch.linalg.solve_triangular(root.T, directions.T, upper=True).T  # (n_directions, G), unit variance
    adaptor.linear1.weight[: len(enter)] = enter
    adaptor.linear1.bias[: len(enter)] = PASSED - enter @ mean
    table = reader.table[: head.out_features].clone()
    table[model.tokenizer.pad_token_id] = table[reader.pause]
    hidden = functional.pad(functional.relu(adaptor.linear1(groups)), (0, 1), value=1.0)  # (n, n_hidden + 1)
    normal = hidden.T @ hidden + 1e-5 * len(hidden) * torch.eye(hidden.shape[1])
    leave = torch.linalg.solve(normal, hidden.T @ (head(groups).softmax(-1) @ table))  # (n_hidden + 1, D)
    adaptor.linear2.weight.copy_(leave[:-1].T)
    adaptor.linear2.bias.copy_(leave[-1])


def train_pace(model: VocalNet, head: nn.Linear, data: Path, folder: Path, options: dict[str, Any], seed: int) -> None:
    """Trains the adaptor of `model` in place, on its frozen encoder; its LLM only lends its embeddings.

    Args:
        head: the recogniser's token head, at which the adaptor starts.
        options: "loop" (LoopConfig), "batch_size", "bf16", "n_dev" clips for the error rate, "eval_every".
    """
    entries = [e for e in read_list(data, "train") if has_transcript(e)]
    paths = [data / e["speech"] for e in entries]
    dev = [e for e in read_list(data, "dev") if e["question"]][: options["n_dev"]]
    dev_clips = [read_clip(data / e["speech"]) for e in dev]
    torch.manual_seed(seed)
    model.requires_grad_(False)
    model.adaptor.requires_grad_(True)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(paths), min(START_CLIPS, len(paths)), replace=False)
    start_at_head(model, head, [augment(read_clip(paths[i]), rng)[0] for i in chosen])
    reader = TokenReader(model)
    order = batch_order(len(entries), options["batch_size"], seed, clip_lengths(paths))

    def adapted(clips: Sequence[np.ndarray], generator: torch.Generator | None = None) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            states = encode_clips(model, clips, generator)
        return [model.adapt(row.float()) for row in states]

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        rng = np.random.default_rng([seed, step])
        model.encoder.eval()
        heard = adapted([augment(read_clip(paths[i]), rng)[0] for i in index], generator)
        ctc, distance = reader.losses(heard, [entries[i]["question"] for i in index])
        return {"total": ctc + distance, "ctc": ctc.detach(), "distance": distance.detach()}

    def evaluate() -> dict[str, float]:
        words = [
            reader.text(row) or " "
            for start in range(0, len(dev), ENCODED_AT_ONCE)
            for row in adapted(dev_clips[start : start + ENCODED_AT_ONCE])
        ]
        return {"dev_wer": jiwer.wer([e["question"] for e in dev], words)}

    train(
        {"adaptor": model.adaptor}, losses, LoopConfig(**options["loop"]), folder, seed, evaluate, options["eval_every"]
    )
    model.requires_grad_(False)
