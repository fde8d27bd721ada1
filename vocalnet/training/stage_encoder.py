"""The encoder stage: nano's Whisper-architecture encoder learns to recognise speech, then is frozen.

Two losses share it: CTC over letters on every clip, and a phone per frame on clips of flite, which tells when it says
what. With CTC alone a transformer finds the alignment slowly (no sign of it in 1,300 steps); phones give it at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.config import EncoderConfig
from vocalnet.encoder import CONV_STRIDE, MEL_RATE_HZ, SpeechEncoder
from vocalnet.training.augment import Warp, augment
from vocalnet.training.data import ALPHABET, characters, clip_lengths, greedy_text, mel_batch, read_clip, read_list
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.synthesis import phones_path

PHONES = tuple(
    "pau aa ae ah ao aw ax axr ay b ch d dh dx eh el em en er ey f g hh hv ih iy jh k l m n ng nx ow oy p r s sh t th uh "
    "uw v w y z zh brth".split(" ")
)
FRAME_S = CONV_STRIDE / MEL_RATE_HZ
IGNORED = -100
PHONE_WEIGHT = 1.0


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


def ctc_loss(logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
    """Returns the mean CTC loss per target character of logits (B, T, V) with valid `lengths` (B,)."""
    flat, sizes = torch.cat(targets), torch.tensor([len(t) for t in targets])
    log_probs = functional.log_softmax(logits.float(), -1).transpose(0, 1)  # (T, B, V)
    loss = functional.ctc_loss(log_probs, flat, lengths, sizes, reduction="sum", zero_infinity=True)
    return loss / sizes.sum().clamp(min=1)


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


def train_encoder(data: Path, folder: Path, config: EncoderConfig, options: dict[str, Any], seed: int) -> SpeechEncoder:
    """Returns the trained encoder.

    Args:
        data: the corpus. Clips in foreign languages are left out, noise is learned as silence.
        options: "loop" (LoopConfig), "batch_size", "bf16", "n_dev" clips for the character error rate.
    """
    entries = [e for e in read_list(data, "train") if e["question"] or e["voice"] == "noise"]
    paths = [data / e["speech"] for e in entries]
    loop = LoopConfig(**options["loop"])
    torch.manual_seed(seed)
    encoder, head = SpeechEncoder(config), nn.Linear(config.dim, len(ALPHABET))
    phone_head = nn.Linear(config.dim, len(PHONES))
    order = batch_order(len(entries), options["batch_size"], seed, clip_lengths(paths))
    dev = [e for e in read_list(data, "dev") if e["question"]][: options["n_dev"]]
    dev_clips = [read_clip(data / e["speech"]) for e in dev]

    def losses(step: int, generator: torch.Generator) -> Losses:
        index = order(step)
        rng = np.random.default_rng([seed, step])
        clips, warps = zip(*(augment(read_clip(paths[i]), rng) for i in index), strict=True)
        mel, lengths = mel_batch(clips, config.n_mels, encoder.max_frames)
        mel = _spec_augment(mel, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            states = encoder(mel, lengths)  # (B, T_e, D_e)
            logits, phone_logits = head(states), phone_head(states)
        frames = (lengths + 1) // CONV_STRIDE
        ctc = ctc_loss(logits, frames, [characters(entries[i]["question"]) for i in index])
        rows = [phone_targets(paths[i], warp, n) for i, warp, n in zip(index, warps, frames.tolist(), strict=True)]
        targets = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        phones = functional.cross_entropy(phone_logits.float().flatten(0, 1), targets.flatten())
        phones = phones.nan_to_num()  # a batch without flite
        return {"total": ctc + PHONE_WEIGHT * phones, "ctc": ctc.detach(), "phones": phones.detach()}

    def evaluate() -> dict[str, float]:
        heard = []
        for start in range(0, len(dev), 32):
            mel, lengths = mel_batch(dev_clips[start : start + 32], config.n_mels, encoder.max_frames)
            for row, n in zip(head(encoder(mel, lengths)), (lengths + 1) // CONV_STRIDE, strict=True):
                heard.append(greedy_text(row[:n]) or " ")
        said = ["".join(ALPHABET[i] for i in characters(e["question"])) for e in dev]
        return {"dev_wer": jiwer.wer(said, heard), "dev_cer": jiwer.cer(said, heard)}

    train(
        {"encoder": encoder, "head": head, "phone_head": phone_head},
        losses,
        loop,
        folder,
        seed,
        evaluate,
        options["eval_every"],
    )
    return encoder
