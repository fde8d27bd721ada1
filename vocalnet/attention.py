"""What the talker looked at while it spoke an answer: the answer's states computed once more, then its attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vocalnet.audio import load_audio
from vocalnet.decoder.attention import Attention, attention
from vocalnet.decoder.options import DecodeOptions
from vocalnet.events import Result
from vocalnet.llm import Message, prompt_pieces, user_content
from vocalnet.metrics.alignment import alignment_score
from vocalnet.model import VocalNet
from vocalnet.session import SEGMENT_TOKENS, AudioSource

TIE = 0.25  # logits closer than this may change places between one pass and token by token, in bfloat16
BEGIN, END = "⟨begin⟩", "⟨end⟩"


@dataclass(frozen=True)
class AnswerAttention:
    """The attention of one answer.

    Attributes:
        pieces: the text positions in words, `BEGIN` first and `END` last (L_t).
        attention: of every speech row, layer and head.
        scores: `alignment_score` of each, begin left out, (layers, H).
    """

    pieces: tuple[str, ...]
    attention: Attention
    scores: np.ndarray

    @property
    def chance(self) -> float:
        """The score of attention that is spread evenly."""
        return 1 / (len(self.pieces) - 1)


@torch.inference_mode()
def answer_attention(
    model: VocalNet, result: Result, options: DecodeOptions, audio: AudioSource | None = None, text: str | None = None
) -> AnswerAttention:
    """Returns what the talker looked at, in an answer to a first question without a prompt.

    Args:
        model: what answered.
        result: its answer.
        options: how it was decoded; mask and chunks matter.
        audio: the spoken question, or
        text: the typed one.

    Raises:
        ValueError: the answer holds no text or no speech, was spoken in segments, or does not follow from the question.
    """
    talker = model.talker
    ids = model.tokenizer.encode(result.text, add_special_tokens=False)
    if talker is None or not ids or not result.speech_tokens:
        raise ValueError("Attention is of spoken answers: this one holds no text or no speech. Ask something else.")
    if len(ids) > SEGMENT_TOKENS:
        raise ValueError(
            f"An answer of {len(ids)} text tokens is spoken in segments; attention is shown for up to "
            f"{SEGMENT_TOKENS}. Ask for a shorter one."
        )
    features = None if audio is None else model.features(load_audio(audio, model.parts.max_audio_s))
    pieces = prompt_pieces(model.tokenizer, model.family, [Message("user", user_content("", text))])
    produced = model.produced_states([features], [pieces], [ids])
    logits, targets = model.answer_logits(produced, [ids])
    if not follows(logits[:-1], targets[:-1]):  # but for the end, which may be another of the family's end tokens
        raise ValueError(
            "These words do not follow from the question alone: they answer a follow-up, or a question with a prompt. "
            "Attention is shown for first questions without one."
        )
    (hidden,) = model.talker_inputs(produced)
    seen = attention(talker, hidden, torch.tensor(result.speech_tokens), options)
    words = (BEGIN, *(str(model.tokenizer.decode([token])) for token in ids), END)
    weights = seen.text[..., 1:].float().cpu().numpy()  # (layers, H, L_s, L_t - 1)
    scores = np.array([[alignment_score(head) for head in layer] for layer in weights])
    return AnswerAttention(words, seen, scores)


def follows(logits: Tensor, tokens: Tensor) -> bool:
    """Says whether greedy decoding gives these tokens (n,), from the logits (n, V_t) at their places."""
    given = logits.float().gather(-1, tokens[:, None])[:, 0]
    return bool((given >= logits.float().amax(-1) - TIE).all())
