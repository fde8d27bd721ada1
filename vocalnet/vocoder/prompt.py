"""The voice to speak with: speech tokens, mel and speaker vector of a short recording.

The two networks for it are the released ONNX files campplus.onnx (speaker vector) and speech_tokenizer_v2.onnx (25 Hz
tokens), run by onnxruntime. Preparation of the recording as in VocalNet's copy of CosyVoice 2.

Letters: n samples, F frames, P prompt tokens.
"""

from __future__ import annotations

from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vocalnet.vocoder import frontend

TRIM_BELOW_DB, TRIM_FRAME, TRIM_HOP = 60.0, 440, 220  # silence is 60 dB under the loudest frame
MAX_PEAK = 0.8
SILENCE_AFTER = 4800  # 0.3 s at 16 kHz
TOKENIZER_WINDOW = 30 * frontend.RATE_HZ  # the tokenizer takes 30 s at most
FRAMES_PER_TOKEN = 2


class VoicePrompt(NamedTuple):
    """What the flow needs of a voice: tokens (1, P), mel (1, ratio * P, n_mels), speaker vector (1, spk_embed_dim)."""

    tokens: Tensor
    mel: Tensor
    embedding: Tensor

    def frames(self, start: int, end: int) -> Tensor:
        """Returns mel frames start..end, zeros after the prompt, (1, n_mels, end - start)."""
        known = self.mel[:, start:end].transpose(1, 2)
        return functional.pad(known, (0, end - start - known.shape[2]))


def open_session(path: str | PathLike[str]) -> Any:
    """Opens an ONNX file on one CPU thread, as an onnxruntime session."""
    import onnxruntime  # only voices of one's own need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def speaker_embedding(session: Any, x: Tensor) -> Tensor:
    """Returns CAM++'s speaker vector of a 16 kHz signal: (1, n) -> (1, 192)."""
    features = frontend.fbank(x, centred=True)[None]  # (1, F, 80)
    (output,) = session.run(None, {session.get_inputs()[0].name: features.numpy()})
    return torch.as_tensor(output, dtype=torch.float32).reshape(1, -1)


def speech_tokens(session: Any, x: Tensor) -> Tensor:
    """Returns speech tokens (1, P) of a 16 kHz signal (1, n), P about n / 640; in pieces of 30 s, as in VocalNet."""
    features, length = (put.name for put in session.get_inputs())
    pieces = []
    for piece in x.split(TOKENIZER_WINDOW, dim=1):
        mel = frontend.whisper_mel(piece)  # (1, 128, F)
        (codes,) = session.run(None, {features: mel.numpy(), length: np.array([mel.shape[2]], dtype=np.int32)})
        pieces.append(torch.as_tensor(codes, dtype=torch.long).reshape(1, -1))
    return torch.cat(pieces, dim=1)


def prepare_recording(x: Tensor, sample_rate_hz: int) -> Tensor:
    """Returns a recording (1, n) at 16 kHz: silence trimmed, not louder than 0.8, 0.3 s of silence after it."""
    x = trim_silence(frontend.resample(x, sample_rate_hz, frontend.RATE_HZ))
    peak = float(x.abs().max())
    if peak > MAX_PEAK:
        x = x * (MAX_PEAK / peak)
    return functional.pad(x, (0, SILENCE_AFTER))


def trim_silence(x: Tensor) -> Tensor:
    """Cuts leading and trailing silence, (1, n) -> (1, m), with librosa's rule of mean power per frame.

    Raises:
        ValueError: nothing but digital silence.
    """
    _, n = x.shape
    half = TRIM_FRAME // 2
    frames = functional.pad(x, (half, half)).unfold(1, TRIM_FRAME, TRIM_HOP)  # (1, F, 440)
    power = frames.square().mean(dim=2)[0]  # (F,)
    if not power.max() > 0:
        raise ValueError("The voice recording is silent. Choose one with a few seconds of speech.")
    loud = torch.nonzero(10 * torch.log10(power / power.max()) > -TRIM_BELOW_DB)
    return x[:, int(loud[0]) * TRIM_HOP : min(n, (int(loud[-1]) + 1) * TRIM_HOP)]


def make_prompt(x: Tensor, sample_rate_hz: int, tokenizer: Any, speaker: Any) -> VoicePrompt:
    """Turns a recording (1, n) into a prompt for the released 24 kHz vocoder.

    Tokens and mel are cut to two frames per token.

    Args:
        tokenizer, speaker: sessions of speech_tokenizer_v2.onnx and campplus.onnx.
    """
    x = prepare_recording(x, sample_rate_hz)
    tokens = speech_tokens(tokenizer, x)  # (1, P)
    mel = frontend.flow_mel(frontend.resample(x, frontend.RATE_HZ, 24_000)).transpose(1, 2)  # (1, F, 80)
    n = min(mel.shape[1] // FRAMES_PER_TOKEN, tokens.shape[1])
    return VoicePrompt(tokens[:, :n], mel[:, : FRAMES_PER_TOKEN * n], speaker_embedding(speaker, x))
