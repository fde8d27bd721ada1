"""The vocoder's stages: what HiFT reads while it learns."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from train.common import load_recipes
from vocalnet.training import stage_vocoder
from vocalnet.training.stage_vocoder import flowed, train_vocoder
from vocalnet.vocoder.token2wav import Token2Wav


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The smoke recipe's stage polish; pitch comes without Praat."""
    monkeypatch.setattr(stage_vocoder, "pitch", lambda samples, hift, n_frames: torch.full((n_frames,), 120.0))
    return load_recipes("smoke", tmp_path)["polish"]


def token2wav(recipe):
    torch.manual_seed(0)
    return Token2Wav(recipe.model.flow, recipe.model.hift).eval()


def answers(recipe, n_frames=30):
    """Two answers of noise with their mels."""
    rng = np.random.default_rng(0)
    hop = recipe.model.hift.samples_per_frame
    samples = [rng.uniform(-0.3, 0.3, n_frames * hop).astype(np.float32) for _ in range(2)]
    return SimpleNamespace(samples=samples, mel=[torch.randn(n_frames, 80) for _ in samples])


def trained(recipe, folder, mels):
    vocoder = token2wav(recipe).hift.train()
    train_vocoder(vocoder, answers(recipe), folder, recipe.config, recipe.seed, mels)
    return torch.cat([weight.flatten() for weight in vocoder.parameters()])


def test_flowed_mels_take_turns_between_chunks_and_one_piece(recipe):
    ready = token2wav(recipe)
    units = [torch.arange(25) % 27, torch.arange(24) % 27]  # more than one chunk each
    streamed, whole = flowed(ready, units)
    chunk = recipe.model.flow.chunk_size
    assert [len(streamed), len(whole)] == [50, 48]  # two frames a token
    assert torch.equal(streamed.T[None], ready.flow(units[0], chunk=chunk))
    assert not torch.equal(streamed.T[None], ready.flow(units[0]))
    assert torch.equal(whole.T[None], ready.flow(units[1]))


def test_the_vocoder_reads_the_mels_that_it_is_given(recipe, tmp_path):
    own = answers(recipe).mel
    torch.manual_seed(1)
    other = [torch.randn(30, 80) for _ in own]
    without = trained(recipe, tmp_path / "a", None)
    assert not torch.equal(without, trained(recipe, tmp_path / "b", other))
    short = [mel[:20] for mel in other]  # of the answer's frames or fewer
    assert trained(recipe, tmp_path / "c", short).isfinite().all()
