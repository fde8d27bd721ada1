"""Which positions see which, in the talker: the full mask (Eq. 2) and the streaming chunk mask (Eq. 3).

A padded batch has the columns [begin, text ..., padding, start, speech ..., padding]. L_t counts text positions (begin
included), L_s speech rows (start token included), T = L_t + L_s. Masks are boolean, True = visible.

Three readings of the streaming rule exist. Text positions seen by speech row r (C_t 5, C_s 15, begin included):

| rule       | rows                     | sees                                                                    |
|------------|--------------------------|-------------------------------------------------------------------------|
| `paper`    | 0 · 1-15 · 16-30         | 1 · 6 · 11: Eq. 3 to the letter                                          |
| `released` | 0-15 · 16-30             | 5 · 10: the published training code, which counts begin as a text token  |
| `own`      | 0-14 · 15-29             | 6 · 11: exactly what each push of C_t texts has brought by then          |
"""

from __future__ import annotations

import torch
from torch import Tensor

RULES = ("own", "paper", "released")


def check_rule(rule: str) -> str:
    """Returns `rule`.

    Raises:
        ValueError: the rule is unknown; the message lists the known ones.
    """
    if rule not in RULES:
        raise ValueError(f"unknown mask rule {rule!r}; available: {', '.join(RULES)}")
    return rule


def first_speech_row(positions: Tensor, rule: str, text_chunk: int, speech_chunk: int) -> Tensor:
    """Returns the first speech row that sees each text position under the streaming mask.

    Training masks and the key visibility of cached decoding both come from this one function, and so does how far a
    session may speak: rows before `first_speech_row(n_text)` see nothing beyond the first `n_text` positions.

    Args:
        positions: text positions, 0 = begin token; any shape.
        rule: "own", "paper" or "released".
        text_chunk: C_t.
        speech_chunk: C_s.
    """
    check_rule(rule)
    if rule == "released":
        chunk = positions // text_chunk
        return torch.where(chunk > 0, chunk * speech_chunk + 1, 0)
    chunk = (positions + text_chunk - 1) // text_chunk  # 0: begin alone, then groups of C_t
    before = (chunk - 1).clamp(min=0) * speech_chunk
    return torch.where(chunk > 0, before + 1, 0) if rule == "paper" else before


def attention_mask(
    n_text: Tensor,
    n_speech: Tensor,
    is_streaming: Tensor,
    rule: str = "own",
    text_chunk: int = 5,
    speech_chunk: int = 15,
    depth: int = 0,
    stride: int = 1,
) -> Tensor:
    """Returns the mask of a padded batch, (B, T, T).

    Args:
        n_text: text positions of each sample, begin included, (B,).
        n_speech: speech rows of each sample, start token included, (B,).
        is_streaming: True: Eq. 3, False: Eq. 2, (B,). Eq. 2's first case is read with j <= L_t: text never sees speech.
        rule: reading of Eq. 3, see the module docstring.
        text_chunk: C_t.
        speech_chunk: C_s, in tokens.
        depth: MTP depth k. Under `released` the row r of depth k has the text of row r + k, and rows whose target
            lies past the end see nothing; the other rules give every depth the same mask.
        stride: speech tokens per row (G of group heads).
    """
    shift = depth if rule == "released" else 0
    text = torch.arange(int(n_text.max()), device=n_text.device)
    row = torch.arange(int(n_speech.max()), device=n_text.device)
    has_text = text < n_text[:, None]  # (B, L_t)
    has_row = row + shift < n_speech[:, None]  # (B, L_s)
    is_full = ~is_streaming[:, None, None]

    text_text = (text[:, None] >= text) | is_full  # (B, L_t, L_t)
    opens = first_speech_row(text, rule, text_chunk, speech_chunk)
    speech_text = (opens <= ((row + shift) * stride)[:, None]) | is_full  # (B, L_s, L_t)
    speech_speech = (row[:, None] >= row).expand(len(n_text), -1, -1)  # (B, L_s, L_s)
    text_speech = torch.zeros_like(speech_text).transpose(1, 2)  # (B, L_t, L_s)

    rows = torch.cat([has_text, has_row], 1)  # (B, T)
    mask = torch.cat([torch.cat([text_text, text_speech], 2), torch.cat([speech_text, speech_speech], 2)], 1)
    return mask & rows[:, :, None] & rows[:, None, :]  # (B, T, T)


def full_mask(n_text: Tensor, n_speech: Tensor, depth: int = 0) -> Tensor:
    """Returns the non-streaming mask (Eq. 2), (B, T, T); `depth` as under the released rule."""
    streaming = torch.zeros_like(n_text, dtype=torch.bool)
    return attention_mask(n_text, n_speech, streaming, rule="released", depth=depth)


def streaming_mask(
    n_text: Tensor,
    n_speech: Tensor,
    text_chunk: int = 5,
    speech_chunk: int = 15,
    rule: str = "own",
    depth: int = 0,
) -> Tensor:
    """Returns the streaming mask (Eq. 3), (B, T, T), in one of its three readings."""
    streaming = torch.ones_like(n_text, dtype=torch.bool)
    return attention_mask(n_text, n_speech, streaming, rule, text_chunk, speech_chunk, depth)
