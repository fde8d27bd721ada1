"""VocalNet: a speech LLM that answers in text and speech with multi-token prediction.

import vocalnet
model = vocalnet.load("nano")
answer = model.respond(audio="question.wav")
"""

from vocalnet.checkpoint import load
from vocalnet.decoder.load import load_talker
from vocalnet.decoder.options import DecodeOptions, RepetitionPenalty
from vocalnet.events import AudioChunk, Finished, SpeechTokens, TextDelta, Timings
from vocalnet.model import VocalNet
from vocalnet.session import Session
from vocalnet.vocoder.token2wav import load_token2wav

__all__ = [
    "AudioChunk",
    "DecodeOptions",
    "Finished",
    "RepetitionPenalty",
    "Session",
    "SpeechTokens",
    "TextDelta",
    "Timings",
    "VocalNet",
    "load",
    "load_talker",
    "load_token2wav",
]
