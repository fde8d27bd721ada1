"""Attention computed anew: the fused kernel's own weights, and nothing where the mask forbids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vocalnet.decoder.attention import attention
from vocalnet.decoder.backbone import Attention, Rows, attention_bias
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker
from vocalnet.masks import full_mask, streaming_mask

TOKENS = torch.arange(36) % 45


def test_the_weights_are_those_of_the_kernel(make_talker: Callable[..., Talker]) -> None:
    talker = make_talker()
    layer = Attention(32, 4)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    bias = attention_bias(torch.ones(9, 9).tril().bool()[None, None], x.dtype)
    rows = Rows(*talker.rotation(torch.arange(9)[None]), bias)
    weights = layer.weights(x, rows)  # (B, H, n, n)
    values = layer.v_proj(x).view(2, 9, 4, 8).transpose(1, 2)
    mixed = layer.o_proj((weights @ values).transpose(1, 2).reshape(2, 9, 32))
    torch.testing.assert_close(mixed, layer(x, rows))


@pytest.mark.parametrize("mask", ["full", "streaming"])
@pytest.mark.parametrize("head", HEADS)
def test_forbidden_cells_are_exactly_zero(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str
) -> None:
    talker = make_talker(head)
    seen = attention(talker, texts[2], TOKENS, DecodeOptions(mask=mask))
    n_rows = 1 + len(TOKENS) // talker.head.stride
    assert seen.weights.shape == (2, 4, n_rows, 13 + n_rows)
    assert seen.text.shape == (2, 4, n_rows, 13)
    assert (seen.weights[..., ~seen.visible] == 0).all()
    assert (seen.weights[..., seen.visible] > 0).all()
    torch.testing.assert_close(seen.weights.sum(-1), torch.ones(2, 4, n_rows))


def test_what_is_visible_is_the_papers_masks(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    n_text, n_speech = torch.tensor([13]), torch.tensor([37])
    for name, mask in (("full", full_mask), ("streaming", streaming_mask)):
        seen = attention(make_talker(), texts[2], TOKENS, DecodeOptions(mask=name))
        assert torch.equal(seen.visible, mask(n_text, n_speech)[0, 13:])
    assert not torch.equal(full_mask(n_text, n_speech), streaming_mask(n_text, n_speech))


def test_the_chunks_are_those_of_the_answer(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    options = DecodeOptions(mask="streaming", text_chunk=2, speech_chunk=7)
    seen = attention(make_talker(), texts[2], TOKENS, options)
    expected = streaming_mask(torch.tensor([13]), torch.tensor([37]), 2, 7)[0, 13:]
    assert torch.equal(seen.visible, expected)
