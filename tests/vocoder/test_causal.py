"""The causal building blocks compute what their plain forms do, in whole and in pieces, and are saved as those."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional
from vocoder_helpers import TINY_FLOW, assert_close

from vocalnet.decoder.backbone import attention_bias
from vocalnet.decoder.kernels import PackedLinear, use_kernel
from vocalnet.vocoder import causal
from vocalnet.vocoder.causal import CausalConv1d, PassCache, RowConv1d, attend, attention_mask
from vocalnet.vocoder.estimator import mish
from vocalnet.vocoder.flow import Flow


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("is_packed", [False, True])
def test_an_unfolded_convolution_agrees_with_the_plain_one(kernel, is_packed):
    torch.manual_seed(0)
    conv = RowConv1d(12, 20, kernel).half().float()
    x = torch.randn(2, 9, 12)
    with torch.no_grad():
        expected = functional.conv1d(x.transpose(1, 2), conv.weight, conv.bias).transpose(1, 2)
        conv.unfold()
        if is_packed:
            conv.unfolded = PackedLinear(conv.unfolded)
        assert_close(conv(x), expected, 1e-5)
        assert_close(conv(x.transpose(1, 2).contiguous().transpose(1, 2)), expected, 1e-5)


def test_an_unfolded_convolution_in_pieces_is_the_whole():
    torch.manual_seed(0)
    conv = CausalConv1d(12, 20, 3)
    x = torch.randn(2, 9, 12)
    with torch.no_grad():
        expected = conv(x)
        conv.unfold()
        cache = PassCache()
        assert_close(torch.cat([conv(piece, cache) for piece in x.split([1, 5, 3], dim=1)], dim=1), expected, 1e-5)


def test_a_packed_flow_is_saved_as_the_plain_one():
    torch.manual_seed(0)
    flow = Flow(TINY_FLOW).half().float().eval().requires_grad_(False)
    expected = copy.deepcopy(flow.state_dict())
    use_kernel(flow, "packed")
    assert any(isinstance(part, RowConv1d) and part.unfolded is not None for part in flow.modules())
    use_kernel(flow, "packed")  # what is prepared stays
    state = flow.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items())


@pytest.mark.parametrize("n_past", [0, 8])
@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("limit", [0, 1 << 22], ids=["fused", "products"])
def test_attention_by_products_agrees_with_the_fused_kernel(monkeypatch, n_past, chunk, limit):
    monkeypatch.setattr(causal, "PRODUCT_SCORES", limit)
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 8, 5), torch.randn(2, 3, n_past + 8, 5), torch.randn(2, 3, n_past + 8, 5)
    mask = attention_mask(8, n_past, chunk, None, query.device)
    assert (mask is None) == (chunk is None)
    expected = functional.scaled_dot_product_attention(query, key, value, mask)
    with torch.no_grad():
        bias = None if mask is None else attention_bias(mask, query.dtype)
        assert_close(attend(query, key, value, bias), expected, 1e-6)


def test_attention_of_strided_heads_agrees_with_the_fused_kernel():
    """Heads as the estimator has them: side by side in rows, keys and values with room after them."""
    torch.manual_seed(0)
    rows = torch.randn(2, 6, 3 * 4 * 5)
    heads = rows.unflatten(-1, (3, 4, 5)).permute(2, 0, 3, 1, 4)  # (3, B, H, N, d)
    with torch.no_grad():
        key, value = PassCache().append(torch.nn.Identity(), heads[1:])
        assert_close(attend(heads[0], key, value, None), functional.scaled_dot_product_attention(*heads), 1e-6)


def test_mish_from_one_exponential():
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])])
    with torch.no_grad():
        torch.testing.assert_close(mish(x), functional.mish(x), atol=1e-6, rtol=1e-6)


def test_what_is_the_same_in_all_passes_is_made_once():
    cache, owner, made = PassCache(), torch.nn.Identity(), []

    def make() -> list[torch.Tensor]:
        made.append(1)
        return [torch.ones(1)]

    assert cache.once(owner, make) is cache.once(owner, make)
    assert len(made) == 1
