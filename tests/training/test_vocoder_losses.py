"""The vocoder's spectral losses."""

from __future__ import annotations

import pytest
import torch

from vocalnet.training.stage_vocoder import mel_loss, spectral_loss


@pytest.mark.parametrize("loss", [lambda x, y: mel_loss(x, y, 16_000), spectral_loss])
def test_losses_grow_with_the_distance(loss):
    """Nothing for the same waves, more for louder noise; the sign does not matter; a gradient arrives."""
    draw = torch.Generator().manual_seed(0)
    waves, noise = 0.1 * torch.randn(2, 2, 6400, generator=draw)
    assert loss(waves, waves) == 0
    assert loss(-waves, waves) < 1e-5
    distances = [loss(waves + share * noise, waves) for share in (0.03, 0.1, 0.3, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] > 0
    copy = (waves + noise).requires_grad_()
    loss(copy, waves).backward()
    assert copy.grad is not None
    assert copy.grad.isfinite().all()
    assert copy.grad.abs().sum() > 0


def test_mel_loss_hears_when_something_sounds():
    """A burst 5 ms late costs: a single long window would hardly notice."""
    draw = torch.Generator().manual_seed(0)
    wave = 0.001 * torch.randn(1, 6400, generator=draw)
    burst = 0.5 * torch.randn(1, 80, generator=draw)
    early, late = wave.clone(), wave.clone()
    early[:, 3000:3080] += burst
    late[:, 3080:3160] += burst
    assert mel_loss(late, early, 16_000) > 3 * mel_loss(wave + 0.001 * wave.roll(1), wave, 16_000)
