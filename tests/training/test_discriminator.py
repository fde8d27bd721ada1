"""The vocoder's discriminator: whom its losses teach."""

from __future__ import annotations

import pytest
import torch

from vocalnet.training.discriminator import Discriminator


@pytest.fixture
def judged():
    """A discriminator with its losses for a real wave and a copy that can be changed."""
    torch.manual_seed(0)
    real, fake = torch.randn(2, 2, 4000).unbind()
    fake.requires_grad_()
    discriminator = Discriminator(channels=4)
    return discriminator, fake, discriminator.losses(real, fake)


def test_its_own_loss_teaches_the_discriminator_only(judged):
    discriminator, fake, (own, _, _) = judged
    own.backward()
    assert fake.grad is None
    assert all(weight.grad.abs().sum() > 0 for weight in discriminator.parameters())


def test_the_copys_losses_teach_the_copy_only(judged):
    discriminator, fake, (_, adversarial, matching) = judged
    (adversarial + matching).backward()
    assert fake.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in discriminator.parameters())


def test_it_learns_to_tell_real_from_fake(judged):
    discriminator, fake, (first, _, _) = judged
    real = torch.sin(torch.arange(8000) * 0.3).reshape(2, 4000)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=3e-3)
    for _ in range(30):
        own, adversarial, _ = discriminator.losses(real, fake.detach())
        optimiser.zero_grad()
        own.backward()
        optimiser.step()
    assert own < 0.5 * first
    assert adversarial > 0.5
