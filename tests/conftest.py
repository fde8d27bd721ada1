"""Shared fixtures: one thread for torch, and a model that answers without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from vocalnet.audio import load_audio
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
from vocalnet.events import AudioChunk, Finished, Result, SpeechTokens, TextDelta, Timings, TokenStat
from vocalnet.model import VocalNet
from vocalnet.training.stage_text import train_bpe

FAKE_RATE_HZ = 16_000


class FakeModel:
    """Answers every recording with `answer` and half a second of tone; bad recordings raise as in a real model."""

    def __init__(self, answer: str = "Two plus two is four.") -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []

    def stream(
        self, audio: Any = None, text: str | None = None, voice: Any = None, speech: bool = True, options: Any = None
    ) -> Iterator[Any]:
        """Yields the events of one answer, in a real session's order."""
        self.calls.append({"audio": audio, "text": text, "voice": voice, "speech": speech, "options": options})
        if audio is not None:
            load_audio(audio)
        yield TextDelta(self.answer, 0.1)
        stages = {"load": 0.0, "audio": 0.01, "encoder": 0.02, "llm": 0.05, "first_text": 0.1, "total": 0.1}
        samples, tokens, stats = None, [], []
        if speech:
            t = np.arange(FAKE_RATE_HZ // 2) / FAKE_RATE_HZ
            samples = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
            tokens = [1, 2, 3]
            stats = [TokenStat(head=k, entropy=0.5, max_prob=0.8, logprob=-0.2) for k in range(3)]
            yield SpeechTokens(tokens, stats, 0.2)
            for half in np.split(samples, 2):
                yield AudioChunk(half, FAKE_RATE_HZ, 0.3)
            stages |= {"talker": 0.1, "vocoder": 0.1, "first_audio": 0.3, "total": 0.4}
        yield Timings(stages, 0.4)
        yield Finished(Result(self.answer, samples, FAKE_RATE_HZ, tokens, stats, stages, ["A warning."]), 0.4)

    def respond(self, **arguments: Any) -> Result:
        """Returns the last event's result."""
        *_, last = self.stream(**arguments)
        return last.result


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


@pytest.fixture(scope="session")
def tiny_model() -> VocalNet:
    """A random model that answers with up to twelve text tokens of nonsense."""
    torch.manual_seed(3)
    model = VocalNet(tiny_config(), train_bpe(["What is two plus two?", "It is four."] * 3, 300))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def question() -> tuple[np.ndarray, int]:
    """A second and a half of something that is not silence."""
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(24_000)).astype(np.float32), 16_000


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny shapes gain nothing from threads, and runs become comparable between machines."""
    torch.set_num_threads(1)


@pytest.fixture
def fake_model() -> FakeModel:
    """A model with the facade's `respond` and `stream`."""
    return FakeModel()
