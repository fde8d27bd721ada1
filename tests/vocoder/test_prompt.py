"""A recording becomes a voice: preparation, both networks through onnxruntime, and pairing of tokens with mel."""

from __future__ import annotations

import pytest
import torch
from vocoder_helpers import assert_close

from vocalnet.vocoder import frontend
from vocalnet.vocoder.prompt import (
    make_prompt,
    open_session,
    prepare_recording,
    speaker_embedding,
    speech_tokens,
    trim_silence,
)


@pytest.fixture(scope="module")
def tokenizer(golden_folder):
    """Best of 128 bins in every fourth frame, plus the number of frames."""
    return open_session(golden_folder / "tiny_tokenizer.onnx")


@pytest.fixture(scope="module")
def speaker(golden_folder):
    """Maximum of each bin over time, padded to 192."""
    return open_session(golden_folder / "tiny_speaker.onnx")


def test_speaker_hears_centred_filter_banks(speaker, inputs, official):
    embedding = speaker_embedding(speaker, inputs["wav16k"])
    assert embedding.shape == (1, 192)
    assert_close(embedding[0, :80], official["fbank_centered"].amax(0), 5e-4)


def test_tokenizer_hears_whisper_mel_and_its_length(tokenizer, inputs, official):
    expected = official["whisper_mel128"][0].argmax(0)[::4] + 80
    assert torch.equal(speech_tokens(tokenizer, inputs["wav16k"]), expected[None])


def test_long_recording_is_tokenised_in_pieces(tokenizer):
    """31 s are 30 s (3000 frames) and 1 s (100 frames); the tiny tokenizer adds each length to its codes."""
    codes = speech_tokens(tokenizer, torch.zeros(1, 31 * 16_000))
    assert codes.shape == (1, 775)
    assert codes[0, 0] == 3000
    assert codes[0, -1] == 100


def test_trim_silence():
    x = torch.zeros(1, 16_000)
    x[:, 6000:9000] = 0.5
    trimmed = trim_silence(x)
    assert trimmed.shape[1] == pytest.approx(3000, abs=2 * 440)
    assert trimmed.abs().sum() == x.abs().sum()
    with pytest.raises(ValueError, match="silent"):
        trim_silence(torch.zeros(1, 4000))


def test_prepare_recording(inputs):
    loud = inputs["wav16k"] / inputs["wav16k"].abs().max() * 3
    prepared = prepare_recording(loud, 16_000)
    assert prepared.abs().max().item() == pytest.approx(0.8, abs=1e-6)
    assert prepared[:, -4800:].abs().max() == 0
    assert prepared[:, -4801].abs() > 0


def test_make_prompt_pairs_two_frames_per_token(tokenizer, speaker, inputs, token2wav):
    x = frontend.resample(inputs["wav16k"], 16_000, 22_050)
    prompt = make_prompt(x, 22_050, tokenizer, speaker)
    n = prompt.tokens.shape[1]
    assert n == pytest.approx((12_800 + 4800) / 640, abs=1)
    assert prompt.mel.shape == (1, 2 * n, 80)
    assert prompt.embedding.shape == (1, 192)
    assert token2wav.flow([1, 2], *prompt).shape == (1, 80, 4)
