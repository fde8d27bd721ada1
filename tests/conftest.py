"""Shared fixtures: one thread for torch, and a model that answers without computing anything."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from fakes import FakeModel

from vocalnet.config import (
    AdaptorConfig,
    EncoderConfig,
    EstimatorConfig,
    FlowConfig,
    FlowEncoderConfig,
    HiftConfig,
    SpeechTokenizerConfig,
    TalkerConfig,
    VocalNetConfig,
)
from vocalnet.model import VocalNet
from vocalnet.training.stage_text import train_bpe


def tiny_config() -> VocalNetConfig:
    """A whole VocalNet of a few thousand weights, vocoder at 16 kHz."""
    llm = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "tie_word_embeddings": True,
    }
    units = {"n_units": 27, "bos_id": 27, "sos_id": 28, "eos_id": 29, "pad_id": 30}
    return VocalNetConfig(
        encoder=EncoderConfig(80, 32, 1, 2, 64, window_s=2.0, pad_to_window=False),
        adaptor=AdaptorConfig(5, 32),
        llm=llm,
        talker=TalkerConfig(32, 32, 64, 2, 1, 1, mtp_num=2, text_chunk=2, dropout=0.0, **units),
        flow=FlowConfig(
            input_size=32,
            vocab_size=27,
            encoder=FlowEncoderConfig(32, 2, 32, 1, 1),
            estimator=EstimatorConfig(channels=(16,), attention_head_dim=8, n_blocks=1, num_mid_blocks=1, num_heads=2),
            n_steps=2,
        ),
        hift=HiftConfig(
            sample_rate_hz=16000,
            base_channels=16,
            f0_channels=16,
            upsample_rates=(5, 4),
            upsample_kernels=(11, 8),
            istft_n_fft=64,
            istft_hop=16,
            source_resblock_kernels=(7, 11),
        ),
        speech_tokenizer=SpeechTokenizerConfig(80, 16, 32, 1, 7, (3, 3, 3)),
        max_text_tokens=12,
    )


def make_tiny_model() -> VocalNet:
    """A random model that answers with up to twelve text tokens of nonsense."""
    torch.manual_seed(3)
    model = VocalNet(tiny_config(), train_bpe(["What is two plus two?", "It is four."] * 3, 300))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_model() -> VocalNet:
    """One for all tests."""
    return make_tiny_model()


@pytest.fixture(scope="session")
def question() -> tuple[np.ndarray, int]:
    """A second and a half of something that is not silence."""
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(24_000)).astype(np.float32), 16_000


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny shapes gain nothing from threads, and runs become comparable between machines.

    Where tests run side by side, the programs that they start have one thread too: several on as many cores wait for
    each other's turns, five times as long as they compute.
    """
    torch.set_num_threads(1)
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Random weights and draws of a test depend on no test before it: a random talker may say nothing at all."""
    torch.manual_seed(0)


@pytest.fixture
def fake_model() -> FakeModel:
    """A model with the facade's `respond` and `stream`."""
    return FakeModel("Two plus two is four.")
