"""The encoder stage: nano's Whisper-architecture encoder learns to recognise speech, then is frozen.

Its last layer is trained by CTC over the LLM's own text tokens, so that what the adaptor gets already speaks of words,
and at the adaptor's rate: trained at 50 Hz, two tokens of one word often fell into the five frames that it joins.
A layer below it is trained by CTC over letters, and by a phone per frame on clips of flite, which tells when it says
what: with CTC alone a transformer finds the alignment slowly (no sign of it in 1,300 steps), with phones at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from vocalnet.adaptor import Adaptor, group_frames
from vocalnet.config import EncoderConfig
from vocalnet.encoder import CONV_STRIDE, MEL_RATE_HZ, SpeechEncoder
from vocalnet.training.augment import Warp, augment
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

if TYPE_CHECKING:
    from vocalnet.training.stage_pace import TokenReader

PHONES = tuple(
    "pau aa ae ah ao aw ax axr ay b ch d dh dx eh el em en er ey f g hh hv ih iy jh k l m n ng nx ow oy p r s sh t th "
    "uh uw v w y z zh brth".split(" ")
)
FRAME_S = CONV_STRIDE / MEL_RATE_HZ
IGNORED = -100
WEIGHTS = {"tokens": 0.5, "letters": 0.5, "phones": 0.5}  # of the three losses


def _spec_augment(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Zeroes two bands of up to 12 bins and two stretches of up to 12 frames in each (n_mels, T_a) of the batch."""
    B, n_mels, T_a = mel.shape
    mel = mel.clone()
    draws = torch.rand(B, 8, generator=generator)
    for i in range(B):
        for j in (0, 2):
            width, start = int(draws[i, j] * 12), int(draws[i, j + 1] * (n_mels - 12))
            mel[i, start : start + width] = 0
            width, start = int(draws[i, j + 4] * 12), int(draws[i, j + 5] * max(1, T_a - 12))
            mel[i, :, start : start + width] = 0
    return mel


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


@dataclass(frozen=True)
class Heard:
    """What the recogniser makes of a batch of clips."""

    states: Tensor  # (B, T_e, D_e)
    tokens: Tensor  # logits (B, T_e // rate, V)
    letters: Tensor  # logits (B, T_e, V)
    phones: Tensor  # logits (B, T_e, V)
    frames: Tensor  # (B,) valid encoder frames
    groups: Tensor  # (B,) valid groups of `rate` frames

    def adapted(self, adaptor: Adaptor) -> list[Tensor]:
        """Returns audio embeddings (L_a, D) of each clip."""
        return [row[:n] for row, n in zip(adaptor(self.states.float()), self.groups.tolist(), strict=True)]


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

    def hear(self, mel: Tensor, lengths: Tensor) -> Heard:
        """Returns states and logits of log-mels (B, n_mels, T_a) with valid `lengths` (B,)."""
        states = self.encoder.layer_states(mel, lengths)
        lower = states[self.lower_layer - 1]
        tokens = self.tokens(group_frames(states[-1], self.rate))
        frames = (lengths + 1) // CONV_STRIDE
        return Heard(states[-1], tokens, self.letters(lower), self.phones(lower), frames, frames // self.rate)


def _recognition_losses(
    heard: Heard, texts: list[str], phones: list[Tensor], tokenizer: PreTrainedTokenizerBase
) -> Losses:
    targets = [text_tokens(tokenizer, text) for text in texts]
    frames = nn.utils.rnn.pad_sequence(phones, batch_first=True, padding_value=IGNORED)
    phone_loss = functional.cross_entropy(heard.phones.float().flatten(0, 1), frames.flatten())
    losses = {
        "tokens": ctc_loss(heard.tokens, heard.groups, targets, tokenizer.pad_token_id),
        "letters": ctc_loss(heard.letters, heard.frames, [characters(text) for text in texts]),
        "phones": phone_loss.nan_to_num(),  # a batch without flite
    }
    return {"total": sum((WEIGHTS[name] * value for name, value in losses.items()), torch.zeros(()))} | losses


def _error_rates(
    heard: list[Heard],
    said: list[str],
    tokenizer: PreTrainedTokenizerBase,
    adaptor: Adaptor | None,
    reader: TokenReader | None,
) -> dict[str, float]:
    words, spelled, read = [], [], []
    for batch in heard:
        for i, (n, n_frames) in enumerate(zip(batch.groups.tolist(), batch.frames.tolist(), strict=True)):
            best = torch.unique_consecutive(batch.tokens[i, :n].argmax(-1))
            best = best[best != tokenizer.pad_token_id]
            words.append(str(tokenizer.decode(best, skip_special_tokens=True)) or " ")
            spelled.append(greedy_text(batch.letters[i, :n_frames]) or " ")
        if adaptor is not None and reader is not None:
            read += [reader.text(row) or " " for row in batch.adapted(adaptor)]
    letters_said = ["".join(ALPHABET[i] for i in characters(text)) for text in said]
    rates = {"dev_wer": jiwer.wer(said, words), "dev_letters_cer": jiwer.cer(letters_said, spelled)}
    return rates | ({"dev_adaptor_wer": jiwer.wer(said, read)} if read else {})


def train_encoder(
    data: Path,
    folder: Path,
    config: EncoderConfig,
    tokenizer: PreTrainedTokenizerBase,
    options: dict[str, Any],
    seed: int,
    start: Path | None = None,
    adaptor: Adaptor | None = None,
    reader: TokenReader | None = None,
) -> SpeechEncoder:
    """Returns the trained encoder; an `adaptor` that is given is trained with it, in place.

    Args:
        data: the corpus. Clips in foreign languages are left out, noise is learned as silence.
        tokenizer: the LLM's; its padding token serves as CTC's blank.
        options: "loop" (LoopConfig), "batch_size", "bf16", "lower_layer" (the one trained by letters and phones),
            "rate" (encoder frames that the adaptor joins), "lists" of clips to train on (one named twice is heard twice
            as often), "n_dev" clips for the error rates.
        start: resume state of an earlier run of this stage, whose weights are taken up; None: fresh weights.
        adaptor, reader: what stage_pace trains, by the same losses. An adaptor on a frozen encoder misreads twice as
            many words as the encoder's own linear layer; trained together they come close.
    """
    entries = [e for name in options["lists"] for e in read_list(data, name) if has_transcript(e)]
    paths = [data / e["speech"] for e in entries]
    torch.manual_seed(seed)
    recogniser = Recogniser(config, len(tokenizer), options["lower_layer"], options["rate"])
    if start is not None:
        earlier = torch.load(start, weights_only=True)["modules"]
        recogniser.load_state_dict({key.removeprefix("recogniser."): value for key, value in earlier.items()})
    order = batch_order(len(entries), options["batch_size"], seed, clip_lengths(paths))
    dev = [e for e in read_list(data, "dev") if e["question"]][: options["n_dev"]]
    dev_clips = [read_clip(data / e["speech"]) for e in dev]

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        rng = np.random.default_rng([seed, step])
        clips, warps = zip(*(augment(read_clip(paths[i]), rng) for i in index), strict=True)
        mel, lengths = mel_batch(clips, config.n_mels, recogniser.encoder.max_frames)
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            heard = recogniser.hear(_spec_augment(mel, generator), lengths)
        texts, frames = [entries[i]["question"] for i in index], heard.frames.tolist()
        phones = [phone_targets(paths[i], warp, n) for i, warp, n in zip(index, warps, frames, strict=True)]
        values = _recognition_losses(heard, texts, phones, tokenizer)
        if adaptor is not None and reader is not None:
            values["ctc"], values["distance"] = reader.losses(heard.adapted(adaptor), texts)
            values["total"] = values["total"] + values["ctc"] + values["distance"]
        return {name: value if name == "total" else value.detach() for name, value in values.items()}

    def evaluate() -> dict[str, float]:
        batches = [dev_clips[i : i + 32] for i in range(0, len(dev), 32)]
        heard = [recogniser.hear(*mel_batch(batch, config.n_mels, recogniser.encoder.max_frames)) for batch in batches]
        return _error_rates(heard, [e["question"] for e in dev], tokenizer, adaptor, reader)

    modules: dict[str, nn.Module] = {"recogniser": recogniser} | ({} if adaptor is None else {"adaptor": adaptor})
    train(modules, losses, LoopConfig(**options["loop"]), folder, seed, evaluate, options["eval_every"])
    return recogniser.encoder
