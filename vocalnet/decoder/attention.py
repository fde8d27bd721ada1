"""What a talker looked at while it spoke: its attention weights, computed once more from a finished answer.

Decoding uses a fused kernel that never forms them. Here the same tokens go through the same layers in one pass (teacher
forcing), which gives the same states: cached logits equal teacher-forced ones.

Letters: L_t text positions (begin included), L_s speech rows (start token included), T = L_t + L_s, H heads,
D LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from vocalnet.decoder.backbone import Block
from vocalnet.decoder.batch import BatchRules, collate
from vocalnet.decoder.options import DecodeOptions

if TYPE_CHECKING:
    from vocalnet.decoder.talker import Talker


@dataclass(frozen=True, slots=True)
class Attention:
    """The weights of an answer's speech rows in every layer of the speech decoder.

    Attributes:
        weights: (layers, H, L_s, T); every row sums to 1, and what the mask forbids is exactly 0.
        visible: what the mask lets each row see, (L_s, T).
        n_text: L_t.
        stride: speech tokens per row, 1 but for group heads.
    """

    weights: Tensor
    visible: Tensor
    n_text: int
    stride: int

    @property
    def text(self) -> Tensor:
        """The weights on text alone, begin first, (layers, H, L_s, L_t)."""
        return self.weights[..., : self.n_text]


@torch.inference_mode()
def attention(talker: Talker, hidden: Tensor, speech_tokens: Tensor, options: DecodeOptions) -> Attention:
    """Returns the attention of the speech decoder's layers over one answer.

    Released weights are seen here as they were trained; their published inference differs from that (see the README).

    Args:
        talker: who spoke.
        hidden: LLM states, as handed to it, (L_t - 1, D).
        speech_tokens: what it said, (n_tokens,).
        options: as it was decoded; mask and chunks matter.
    """
    config = options.chunked(talker.config)
    rules = BatchRules(options.mask, chunks=(config.text_chunk, config.speech_chunk))
    batch = collate(talker, [hidden], [speech_tokens], rules)
    rows, x, layers = batch.teacher.rows[0], batch.teacher.inputs, list[Tensor]()
    for n, layer in enumerate(talker.decoder.layers):
        block = cast(Block, layer)
        layers.append(block.self_attn.weights(block.input_layernorm(x), rows)[0])  # (H, T, T)
        x = block(x, rows, n)
    n_text = batch.teacher.n_text
    return Attention(torch.stack(layers)[:, :, n_text:], batch.visible[0, 0, n_text:], n_text, talker.head.stride)
