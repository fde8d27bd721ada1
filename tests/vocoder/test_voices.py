"""Voices: a folder's own, a recording's, and what is said where there are none; options of the vocoder."""

from __future__ import annotations

import shutil

import pytest
import soundfile
import torch

from vocalnet import VocoderOptions
from vocalnet.vocoder.prompt import make_prompt, open_session
from vocalnet.vocoder.voices import SPEAKER, TOKENIZER, Voices


@pytest.fixture
def folder(golden_folder, inputs, tmp_path):
    """A vocoder's folder with both networks and a voice of its own."""
    shutil.copy(golden_folder / "tiny_speaker.onnx", tmp_path / SPEAKER)
    shutil.copy(golden_folder / "tiny_tokenizer.onnx", tmp_path / TOKENIZER)
    (tmp_path / "voices").mkdir()
    soundfile.write(tmp_path / "voices" / "anna.wav", inputs["wav16k"][0].numpy(), 16_000, subtype="FLOAT")
    return tmp_path


def test_a_voice_is_the_prompt_of_its_recording(folder, inputs):
    voices = Voices(folder)
    assert list(voices.files) == ["anna"]
    prompt = voices.prompt("anna")
    expected = make_prompt(
        inputs["wav16k"][:1], 16_000, open_session(folder / TOKENIZER), open_session(folder / SPEAKER)
    )
    assert all(torch.equal(own, other) for own, other in zip(prompt, expected, strict=True))
    assert voices.prompt("anna") is prompt  # made once
    assert torch.equal(voices.prompt(str(folder / "voices" / "anna.wav")).tokens, prompt.tokens)


def test_what_is_no_voice_is_said_in_a_sentence(folder):
    with pytest.raises(ValueError, match=r"no voice 'bob'. Its own voices: anna"):
        Voices(folder).prompt("bob")
    soundfile.write(folder / "long.wav", torch.ones(31 * 8000).numpy() * 0.1, 8000)
    with pytest.raises(ValueError, match="too long"):
        Voices(folder).prompt(str(folder / "long.wav"))
    (folder / SPEAKER).unlink()
    for voices in (Voices(), Voices(folder)):
        assert voices.files == {}
        with pytest.raises(ValueError, match="speaks with one voice"):
            voices.prompt("anna")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"chunk": 0}, "chunk"),
        ({"cfg_rate": -1.0}, "cfg_rate"),
        ({"style": "fast"}, "exact, official"),
        ({"fade": "x"}, "hamming, zero"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        VocoderOptions(**options)
