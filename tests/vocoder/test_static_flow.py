"""The estimator in static shapes: the same mel, run as it is and recorded as a graph."""

from __future__ import annotations

import pytest
import torch
from fake_graphs import FakeCuda, fake_cuda
from vocoder_helpers import TINY_FLOW, TINY_HIFT, assert_close

from vocalnet.decoder import kernels
from vocalnet.decoder.kernels import use_kernel
from vocalnet.graphs import Passes
from vocalnet.vocoder import static
from vocalnet.vocoder.token2wav import Token2Wav

TOLERANCE = 1e-4


@pytest.fixture(params=["as it is", "recorded"])
def cuda(request, monkeypatch) -> FakeCuda | None:
    monkeypatch.setattr(static, "BUCKET", 32)
    return fake_cuda(monkeypatch) if request.param == "recorded" else None


@pytest.fixture
def token2wav() -> Token2Wav:
    torch.manual_seed(0)
    model = Token2Wav(TINY_FLOW, TINY_HIFT).eval().requires_grad_(False)
    for parameter in model.flow_model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def mels(model: Token2Wav, **changes) -> list[torch.Tensor]:
    """Mels of 5, 20, 13 and 16 tokens: in buckets of 32 frames, 1, 2, 1 and 1 of them."""
    tokens = torch.arange(20)[None]
    return [model.flow(tokens[:, :n], **changes) for n in (5, 20, 13, 16)]


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("cfg_rate", [0.7, 0.0])
def test_the_mel_is_the_same(token2wav, cuda, chunk, cfg_rate):
    prompt = {
        "prompt_tokens": torch.arange(3)[None],
        "prompt_mel": torch.randn(1, 6, 80),
        "embedding": torch.randn(1, TINY_FLOW.spk_embed_dim),
    }
    for voice in ({}, prompt):
        expected = mels(token2wav, chunk=chunk, cfg_rate=cfg_rate, **voice)
        token2wav.flow_model.passes = Passes()
        found = mels(token2wav, chunk=chunk, cfg_rate=cfg_rate, **voice)
        token2wav.flow_model.passes = None
        for mel, other in zip(found, expected, strict=True):
            assert_close(mel, other, TOLERANCE)
    assert expected[0].abs().max() > 1
    if cuda is not None:
        assert len(cuda.graphs) == 4  # of one and of two buckets, without and with the voice
        assert cuda.n_replays == 2 * 4 * TINY_FLOW.n_steps


def test_what_is_left_of_another_utterance_is_not_seen(token2wav, cuda):
    expected = mels(token2wav)[0]
    token2wav.flow_model.passes = passes = Passes()
    kind = static.Kind(2, 32, None)
    used = static.StaticEstimate(token2wav.flow_model, kind)
    for buffer in (used.x, used.mu, used.cond):
        buffer.fill_(float("nan"))
    passes.give(kind, used)
    assert_close(mels(token2wav)[0], expected, TOLERANCE)
    assert passes.take(kind, lambda: None) is used


def test_an_utterance_that_fails_keeps_its_pass(token2wav):
    flow = token2wav.flow_model
    flow.passes = Passes()
    zeros = torch.zeros(1, 80, 4)
    with torch.no_grad(), pytest.raises(RuntimeError):
        flow.sample(torch.zeros(1, 80, 5), zeros, zeros[..., 0], zeros)  # noise of another length
    assert flow.passes.take(static.Kind(2, static.BUCKET, None), lambda: None) is None


def test_streams_are_as_before(token2wav, cuda):
    """An exact stream has a cache and goes the ordinary way; the others run the flow again and again."""
    chunks = list(torch.arange(45)[None].split(15, dim=1))
    for style in ("exact", "official", "vocalnet"):
        expected = torch.cat([mel for mel, _ in token2wav.stream(chunks, style=style)], -1)
        token2wav.flow_model.passes = Passes()
        found = torch.cat([mel for mel, _ in token2wav.stream(chunks, style=style)], -1)
        token2wav.flow_model.passes = None
        assert_close(found, expected, TOLERANCE)
        if cuda is not None:
            assert (cuda.n_replays > 0) == (style != "exact")


def test_gradients_go_the_ordinary_way(token2wav):
    flow = token2wav.flow_model.requires_grad_(True)
    flow.passes = Passes()
    noise, zeros = torch.ones(1, 80, 8), torch.zeros(1, 80, 8)
    flow.sample(noise, noise, zeros[..., 0], zeros).sum().backward()
    assert flow.decoder["estimator"].final_proj.weight.grad is not None


def test_the_kernel_prepares_the_flow(token2wav, monkeypatch):
    expected = mels(token2wav)
    with pytest.raises(ValueError, match="records CUDA graphs"):
        use_kernel(token2wav.flow_model, "graphed")
    monkeypatch.setattr(kernels, "check_kernel", lambda *args: None)
    use_kernel(token2wav.flow_model, "graphed")
    assert token2wav.flow_model.passes is not None
    for mel, other in zip(mels(token2wav), expected, strict=True):
        assert_close(mel, other, TOLERANCE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("chunk", [None, 4])
def test_graphs_on_a_gpu_make_the_same_mel(token2wav, chunk):
    token2wav = token2wav.cuda()
    expected = mels(token2wav, chunk=chunk)
    use_kernel(token2wav.flow_model, "graphed")
    for mel, other in zip(mels(token2wav, chunk=chunk), expected, strict=True):
        assert_close(mel, other, 1e-3)
