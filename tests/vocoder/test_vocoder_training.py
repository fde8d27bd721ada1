"""The same modules are trained: padding does not leak, gradients arrive, the loss falls."""

from __future__ import annotations

import pytest
import torch
from vocoder_helpers import TINY_FLOW, TINY_HIFT, assert_close

from vocalnet.vocoder.flow import Flow, flow_matching_loss
from vocalnet.vocoder.hift import Hift


@pytest.fixture
def flow() -> Flow:
    torch.manual_seed(2)
    return Flow(TINY_FLOW)


@pytest.mark.parametrize("chunk", [None, 4])
def test_padding_does_not_change_valid_frames(flow, chunk):
    """A short utterance in a batch gives what it gives alone; its padding is filled with other tokens."""
    tokens = torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([11, 6])
    x, cond = torch.randn(2, 2, 80, 22, generator=torch.Generator().manual_seed(2)).unbind()
    t, spk = torch.tensor([0.3, 0.7]), torch.randn(2, 80)
    with torch.no_grad():
        _, mu = flow.encode(tokens, lengths, chunk)
        _, mu_alone = flow.encode(tokens[1:, :6], chunk=chunk)
        assert_close(mu[1:, :12], mu_alone, 1e-5)
        v = flow.velocity(x, t, mu.transpose(1, 2), spk, cond, 2 * lengths, chunk)
        alone = flow.velocity(x[1:, :, :12], t[1:], mu_alone.transpose(1, 2), spk[1:], cond[1:, :, :12], chunk=chunk)
    assert_close(v[1:, :, :12], alone, 1e-5)


def test_chunks_hide_the_future(flow):
    """With chunks of 4, frames of the first chunk depend on its tokens and three more, and on no later one."""
    tokens = torch.arange(12)[None]
    mels = []
    for changed in (
        tokens,
        torch.where(torch.arange(12) >= 7, 40, tokens),
        torch.where(torch.arange(12) >= 6, 40, tokens),
    ):
        with torch.no_grad():
            _, mu = flow.encode(changed, chunk=4)
            zeros = torch.zeros(1, 80, 24)
            noise = torch.ones(1, 80, 24)
            mels.append(flow.sample(noise, mu.transpose(1, 2), zeros[..., 0], zeros, chunk=4)[..., :8])
    assert torch.equal(mels[0], mels[1])
    assert not torch.equal(mels[0], mels[2])


def test_flow_loss_falls_and_reaches_every_parameter(flow):
    tokens = torch.randint(0, 50, (4, 8), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([8, 8, 5, 3])
    mel = torch.full((4, 80, 16), -2.0)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(4)
    losses = []
    for _ in range(15):
        loss = flow_matching_loss(flow, tokens, lengths, mel, generator, chunk=4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in flow.parameters())
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_flow_loss_ignores_padding(flow):
    tokens = torch.ones(2, 6, dtype=torch.long)
    mel = torch.randn(2, 80, 12, generator=torch.Generator().manual_seed(5))
    other = mel.clone()
    other[1, :, 4:] = 9.0
    lengths = torch.tensor([6, 2])
    losses = [
        flow_matching_loss(flow, tokens, lengths, target, torch.Generator().manual_seed(6)).item()
        for target in (mel, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_dropped_condition_hides_tokens_and_speaker(flow, monkeypatch):
    """With the condition always dropped, neither tokens nor the speaker change the loss."""
    monkeypatch.setattr("vocalnet.vocoder.flow.DROP_CONDITION", 1.1)
    mel, lengths = torch.zeros(1, 80, 8), torch.tensor([4])
    losses = [
        flow_matching_loss(
            flow, torch.full((1, 4), token), lengths, mel, torch.Generator().manual_seed(7), embedding=speaker
        ).item()
        for token, speaker in ((1, None), (2, torch.ones(1, 192)))
    ]
    assert losses[0] == losses[1]


def test_hift_gradients():
    """The waveform trains everything but the f0 predictor, which has its own loss."""
    torch.manual_seed(3)
    hift = Hift(TINY_HIFT)
    mel = torch.randn(2, 80, 8)
    pitch = hift.f0(mel)
    (hift.decode(mel, hift.source(pitch)).square().mean() + (pitch - 100).abs().mean()).backward()
    assert [name for name, p in hift.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_hift_starts_at_a_sensible_level():
    """Untrained, it is neither silent nor clipped, and f0 is of the order of a voice."""
    torch.manual_seed(4)
    hift = Hift(TINY_HIFT)
    mel = torch.randn(1, 80, 40) * 2 - 5
    with torch.no_grad():
        wave, _ = hift(mel)
        pitch = hift.f0(mel)
    assert 0.001 < wave.std() < 0.5
    assert 10 < pitch.mean() < 300
