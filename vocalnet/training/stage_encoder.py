"""The encoder stage: nano's Whisper-architecture encoder learns to recognise speech, then is frozen.

Its last layer is trained by CTC over the LLM's own text tokens, so that what the adaptor gets already speaks of words,
and at the adaptor's rate: trained at 50 Hz, two tokens of one word often fell into the five frames that it joins.
A layer below it is trained by CTC over letters, and by a phone per frame on clips of flite, which tells when it says
what: with CTC alone a transformer finds the alignment slowly (no sign of it in 1,300 steps), with phones at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from vocalnet.adaptor import group_frames
from vocalnet.config import EncoderConfig
from vocalnet.encoder import CONV_STRIDE, MEL_RATE_HZ, SpeechEncoder
from vocalnet.training.augment import Warp, augment, masked_stretches, other_speakers
from vocalnet.training.data import (
    ALPHABET,
    characters,
    clip_lengths,
    greedy_text,
    has_transcript,
    mel_batch,
    read_clip,
    read_list,
)
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.synthesis import phones_path

PHONES = tuple(
    "pau aa ae ah ao aw ax axr ay b ch d dh dx eh el em en er ey f g hh hv ih iy jh k l m n ng nx ow oy p r s sh t th "
    "uh uw v w y z zh brth".split(" ")
)
FRAME_S = CONV_STRIDE / MEL_RATE_HZ
IGNORED = -100
WEIGHTS = {"tokens": 0.5, "letters": 0.5, "phones": 0.5}  # of the three losses


def ctc_loss(logits: Tensor, lengths: Tensor, targets: list[Tensor], blank: int = 0) -> Tensor:
    """Returns the mean CTC loss per target symbol of logits (B, T, V) with valid `lengths` (B,)."""
    flat, sizes = torch.cat(targets), torch.tensor([len(t) for t in targets])
    log_probs = functional.log_softmax(logits.float(), -1).transpose(0, 1)  # (T, B, V)
    loss = functional.ctc_loss(log_probs, flat, lengths, sizes, blank, "sum", zero_infinity=True)
    return loss / sizes.sum().clamp(min=1)


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Returns CTC targets of a text in the LLM's tokens."""
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)


def phone_targets(clip: Path, warp: Warp, n_frames: int) -> Tensor:
    """Returns the phone at the middle of each encoder frame (n_frames,); IGNORED where a clip has no phones."""
    path = phones_path(clip)
    if not path.exists():
        return torch.full((n_frames,), IGNORED)
    spoken = [entry.split(":") for entry in path.read_text().split()]
    ends_s = warp(np.array([float(end) for _, end in spoken]))
    names = [name for name, _ in spoken] + [PHONES[0]]
    index = np.searchsorted(ends_s, (np.arange(n_frames) + 0.5) * FRAME_S)
    return torch.tensor([PHONES.index(names[i]) for i in index])


class Recogniser(nn.Module):
    """The encoder with the three heads that train it."""

    def __init__(self, config: EncoderConfig, n_tokens: int, lower_layer: int, rate: int):
        super().__init__()
        self.rate = rate
        self.encoder = SpeechEncoder(config)
        self.lower_layer = lower_layer
        self.letters = nn.Linear(config.dim, len(ALPHABET))
        self.phones = nn.Linear(config.dim, len(PHONES))
        self.tokens = nn.Linear(rate * config.dim, n_tokens)

    def forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits over text tokens (B, T_e // rate, V), letters and phones (B, T_e, V)."""
        states = self.encoder.layer_states(mel, lengths)
        lower = states[self.lower_layer - 1]
        return self.tokens(group_frames(states[-1], self.rate)), self.letters(lower), self.phones(lower)


def train_encoder(
    recogniser: Recogniser,
    tokenizer: PreTrainedTokenizerBase,
    data: Path,
    folder: Path,
    options: dict[str, Any],
    seed: int,
) -> None:
    """Trains an encoder in place, with its heads.

    Args:
        recogniser: fresh, or trained before.
        tokenizer: the LLM's; its padding token serves as CTC's blank.
        data: the corpus. Clips in foreign languages are left out, noise is learned as silence.
        options: "loop" (LoopConfig), "batch_size", "bf16", "lists" of clips to train on (one named twice is heard twice
            as often), "n_dev" clips for the error rates.
    """
    entries = [e for name in options["lists"] for e in read_list(data, name) if has_transcript(e)]
    paths = [data / e["speech"] for e in entries]
    loop = LoopConfig(**options["loop"])
    config = recogniser.encoder.config
    blank = tokenizer.pad_token_id
    order = batch_order(len(entries), options["batch_size"], seed, clip_lengths(paths))
    dev = [e for e in read_list(data, "dev") if e["question"]][: options["n_dev"]]
    dev_clips = [read_clip(data / e["speech"]) for e in dev]

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        rng = np.random.default_rng([seed, step])
        clips, warps = zip(*(augment(read_clip(paths[i]), rng) for i in index), strict=True)
        mel, lengths = mel_batch(clips, config.n_mels, recogniser.encoder.max_frames)
        mel = masked_stretches(other_speakers(mel, generator), generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            tokens, letters, phones = recogniser(mel, lengths)
        frames = (lengths + 1) // CONV_STRIDE
        texts = [entries[i]["question"] for i in index]
        token_loss = ctc_loss(
            tokens, frames // recogniser.rate, [text_tokens(tokenizer, text) for text in texts], blank
        )
        letter_loss = ctc_loss(letters, frames, [characters(text) for text in texts])
        rows = [phone_targets(paths[i], warp, n) for i, warp, n in zip(index, warps, frames.tolist(), strict=True)]
        targets = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        phone_loss = functional.cross_entropy(phones.float().flatten(0, 1), targets.flatten())
        phone_loss = phone_loss.nan_to_num()  # a batch without flite
        total = WEIGHTS["tokens"] * token_loss + WEIGHTS["letters"] * letter_loss + WEIGHTS["phones"] * phone_loss
        return {
            "total": total,
            "tokens": token_loss.detach(),
            "letters": letter_loss.detach(),
            "phones": phone_loss.detach(),
        }

    def evaluate() -> dict[str, float]:
        words, spelled = [], []
        for start in range(0, len(dev), 32):
            mel, lengths = mel_batch(dev_clips[start : start + 32], config.n_mels, recogniser.encoder.max_frames)
            tokens, letters, _ = recogniser(mel, lengths)
            for row, letter_row, n in zip(tokens, letters, (lengths + 1) // CONV_STRIDE, strict=True):
                best = torch.unique_consecutive(row[: n // recogniser.rate].argmax(-1))
                words.append(str(tokenizer.decode(best[best != blank], skip_special_tokens=True)) or " ")
                spelled.append(greedy_text(letter_row[:n]) or " ")
        said = [e["question"] for e in dev]
        letters_said = ["".join(ALPHABET[i] for i in characters(text)) for text in said]
        return {"dev_wer": jiwer.wer(said, words), "dev_letters_cer": jiwer.cer(letters_said, spelled)}

    train({"recogniser": recogniser}, losses, loop, folder, seed, evaluate, options["eval_every"])
