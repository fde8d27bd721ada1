"""Tiny talkers with random weights, and the published implementation's recorded answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vocalnet.config import TalkerConfig
from vocalnet.decoder.load import load_talker
from vocalnet.decoder.talker import Talker

GOLDEN = Path(__file__).parents[1] / "golden" / "talker"

MakeTalker = Callable[..., Talker]


@pytest.fixture(scope="session")
def make_talker() -> MakeTalker:
    """Builds a tiny talker whose random weights are large enough for varied answers."""

    def make(head: str = "mtp_vocalnet", seed: int = 0, **changes: Any) -> Talker:
        values = {
            "llm_dim": 24,
            "dim": 32,
            "ffn_dim": 48,
            "n_heads": 4,
            "n_projector_layers": 1,
            "n_layers": 2,
            "mtp_num": 3,
            "group_size": 3,
            "n_units": 45,
            "bos_id": 45,
            "sos_id": 46,
            "eos_id": 47,
            "pad_id": 48,
        }
        torch.manual_seed(seed)
        talker = Talker(TalkerConfig(head=head, **(values | changes))).eval()
        for parameter in talker.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
        return talker

    return make


@pytest.fixture
def texts() -> list[Tensor]:
    """LLM states of four answers, (L_t, 24) each."""
    torch.manual_seed(1)
    return [torch.randn(n, 24) for n in (7, 18, 12, 3)]


@dataclass(frozen=True)
class Golden:
    """What the published implementation was given and returned."""

    talker: Talker
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    cases: dict[str, Any]


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The recorded reference data and the talker loaded from it."""
    return Golden(
        load_talker(GOLDEN),
        load_file(GOLDEN / "inputs.safetensors"),
        load_file(GOLDEN / "expected.safetensors"),
        json.loads((GOLDEN / "cases.json").read_text()),
    )
