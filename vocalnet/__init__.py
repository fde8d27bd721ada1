"""VocalNet: a speech LLM that answers in text and speech with multi-token prediction.

import vocalnet
model = vocalnet.load("nano")
answer = model.respond(audio="question.wav")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vocalnet import lab, runs
    from vocalnet.checkpoint import load
    from vocalnet.decoder.load import load_talker
    from vocalnet.decoder.options import DecodeOptions, RepetitionAware, RepetitionPenalty
    from vocalnet.events import Acceptance, AudioChunk, Finished, SpeechTokens, TextDelta, Timings
    from vocalnet.model import VocalNet
    from vocalnet.session import Session
    from vocalnet.vocoder.options import VocoderOptions
    from vocalnet.vocoder.token2wav import load_token2wav

__all__ = [
    "Acceptance",
    "AudioChunk",
    "DecodeOptions",
    "Finished",
    "RepetitionAware",
    "RepetitionPenalty",
    "Session",
    "SpeechTokens",
    "TextDelta",
    "Timings",
    "VocalNet",
    "VocoderOptions",
    "lab",
    "load",
    "load_talker",
    "load_token2wav",
    "runs",
]

_MODULES = ("lab", "runs")  # public as a whole

_HOMES = {
    "vocalnet.checkpoint": ("load",),
    "vocalnet.decoder.load": ("load_talker",),
    "vocalnet.decoder.options": ("DecodeOptions", "RepetitionAware", "RepetitionPenalty"),
    "vocalnet.events": ("Acceptance", "AudioChunk", "Finished", "SpeechTokens", "TextDelta", "Timings"),
    "vocalnet.model": ("VocalNet",),
    "vocalnet.session": ("Session",),
    "vocalnet.vocoder.options": ("VocoderOptions",),
    "vocalnet.vocoder.token2wav": ("load_token2wav",),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `vocalnet --help` does not wait for torch."""
    if name in _MODULES:
        return importlib.import_module(f"vocalnet.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'vocalnet' has no attribute {name!r}")
