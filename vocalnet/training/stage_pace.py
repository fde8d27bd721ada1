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
from torch import Tensor

from vocalnet.encoder import CONV_STRIDE
from vocalnet.llm import embeddings
from vocalnet.model import VocalNet
from vocalnet.training.augment import augment
from vocalnet.training.data import clip_lengths, has_transcript, mel_batch, pad, read_clip, read_list
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.stage_encoder import ctc_loss, text_tokens
from vocalnet.training.stage_text import pause_id

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


def encode_clips(model: VocalNet, clips: Sequence[np.ndarray]) -> list[Tensor]:
    """Returns the frozen encoder's states (T_e, D_e) of clips that fit into one window."""
    with torch.no_grad():
        mel, lengths = mel_batch(clips, model.parts.encoder.n_mels, model.encoder.max_frames)
        states = model.encoder(mel, lengths)
    return [row[: (n + 1) // CONV_STRIDE] for row, n in zip(states, lengths.tolist(), strict=True)]


def train_pace(model: VocalNet, data: Path, folder: Path, options: dict[str, Any], seed: int) -> None:
    """Trains the adaptor of `model` in place, on its frozen encoder; its LLM only lends its embeddings.

    Args:
        options: "loop" (LoopConfig), "batch_size", "bf16", "n_dev" clips for the error rate, "eval_every".
    """
    entries = [e for e in read_list(data, "train") if has_transcript(e)]
    paths = [data / e["speech"] for e in entries]
    dev = [e for e in read_list(data, "dev") if e["question"]][: options["n_dev"]]
    dev_clips = [read_clip(data / e["speech"]) for e in dev]
    torch.manual_seed(seed)
    model.requires_grad_(False)
    model.adaptor.requires_grad_(True)
    reader = TokenReader(model)
    order = batch_order(len(entries), options["batch_size"], seed, clip_lengths(paths))

    def adapted(clips: Sequence[np.ndarray]) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            states = encode_clips(model, clips)
        return [model.adapt(row.float()) for row in states]

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        rng = np.random.default_rng([seed, step])
        model.encoder.eval()
        heard = adapted([augment(read_clip(paths[i]), rng)[0] for i in index])
        ctc, distance = reader.losses(heard, [entries[i]["question"] for i in index])
        return {"total": ctc + distance, "ctc": ctc.detach(), "distance": distance.detach()}

    def evaluate() -> dict[str, float]:
        words = [
            reader.text(row) or " "
            for start in range(0, len(dev), 32)
            for row in adapted(dev_clips[start : start + 32])
        ]
        return {"dev_wer": jiwer.wer([e["question"] for e in dev], words)}

    train(
        {"adaptor": model.adaptor}, losses, LoopConfig(**options["loop"]), folder, seed, evaluate, options["eval_every"]
    )
    model.requires_grad_(False)
