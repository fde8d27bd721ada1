"""Golden tensors of the official token-to-wave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from vocoder_helpers import TINY_FLOW, TINY_HIFT

from vocalnet.vocoder.prompt import VoicePrompt
from vocalnet.vocoder.token2wav import Token2Wav, load_token2wav

GOLDEN = Path(__file__).parents[1] / "golden" / "token2wav"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def inputs() -> dict[str, Tensor]:
    return load_file(GOLDEN / "inputs.safetensors")


@pytest.fixture(scope="session")
def official() -> dict[str, Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="session")
def vocalnet() -> dict[str, Tensor]:
    return load_file(GOLDEN / "expected_vocalnet.safetensors")


@pytest.fixture(scope="session")
def token2wav() -> Token2Wav:
    return load_token2wav(GOLDEN)


@pytest.fixture(scope="session")
def voice(inputs: dict[str, Tensor]) -> VoicePrompt:
    return VoicePrompt(inputs["prompt_token"], inputs["prompt_feat"], inputs["embedding"])


@pytest.fixture(scope="session")
def tiny() -> Token2Wav:
    """A 16 kHz model of 320 samples per frame, as nano's."""
    torch.manual_seed(1)
    return Token2Wav(TINY_FLOW, TINY_HIFT).eval()
