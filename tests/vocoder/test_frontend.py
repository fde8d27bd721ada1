"""The front ends equal torchaudio's, Matcha-TTS's, Kaldi's and Whisper's."""

from __future__ import annotations

import math

import pytest
import torch
from vocoder_helpers import assert_close

from vocalnet.config import HiftConfig
from vocalnet.training.answers import mel_settings
from vocalnet.vocoder import frontend


def test_resample(inputs, official):
    assert_close(frontend.resample(inputs["wav16k"], 16_000, 24_000), official["wav24k"], 1e-5)


def test_flow_mel(official):
    assert_close(frontend.flow_mel(official["wav24k"]), official["mel24k"], 1e-4)


@pytest.mark.parametrize(("centred", "key"), [(False, "fbank"), (True, "fbank_centered")])
def test_fbank(inputs, official, centred, key):
    assert_close(frontend.fbank(inputs["wav16k"], centred), official[key], 5e-4)


def test_whisper_mel(inputs, official):
    assert_close(frontend.whisper_mel(inputs["wav16k"]), official["whisper_mel128"], 1e-4)


def test_one_row_and_many_are_the_same(inputs):
    """(n,), (1, n) and a row of a batch agree: also Whisper's floor is per row."""
    x = inputs["wav16k"]
    batch = torch.cat([x, 0.01 * x])
    for function in (frontend.flow_mel, frontend.whisper_mel, lambda y: frontend.resample(y, 16_000, 22_050)):
        assert torch.equal(function(x[0]).reshape(-1), function(x).reshape(-1))
        assert_close(function(batch)[1:], function(batch[1:]), 1e-5)


def test_mel_of_another_vocoder(inputs):
    """nano's 16 kHz mel: hop 320, as many frames per second, and a tone lands in the bin of its frequency."""
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / 16_000)
    mel = frontend.flow_mel(tone, 16_000, n_fft=1280, hop=320)
    assert mel.shape == (1, 80, 50)
    filters = frontend.slaney_filters(16_000, 1280, 80, 8000.0)
    assert (mel.mean(2).argmax() - filters[:, 80].argmax()).abs() <= 1  # bin 80 of 1280 at 16 kHz is 1000 Hz
    assert frontend.whisper_mel(tone, n_mels=80).shape == (1, 80, 100)


def test_a_short_window_sees_its_own_frame_alone():
    """A click between two frames is in a window of two hops on both sides, in one of a hop in neither."""
    click = torch.zeros(6400)
    click[8 * 320 + 1] = 1.0  # frame k is centred at 160 + 320 k
    long, short = (frontend.flow_mel(click, 16_000, 640, 320, window=window)[0].amax(0) for window in (None, 320))
    assert long.shape == short.shape == (20,)
    floor = long.min()
    assert (long > floor + 3).nonzero().flatten().tolist() == [7, 8]
    assert (short > floor + 1).sum() == 0
    click = torch.roll(click, 160)  # the middle of frame 8
    loud = frontend.flow_mel(click, 16_000, 640, 320, window=320)[0].amax(0) > floor + 3
    assert loud.nonzero().flatten().tolist() == [8]


def test_no_filter_of_a_short_window_is_empty():
    """White noise reaches every band of a window of one hop: its transform is as long as two."""
    settings = mel_settings(HiftConfig(16_000, upsample_rates=(5, 4), istft_hop=16, mel_window_hops=1))
    assert settings == {"sample_rate_hz": 16_000, "n_fft": 640, "hop": 320, "window": 320}
    noise = torch.randn(6400, generator=torch.Generator().manual_seed(0))
    assert frontend.flow_mel(noise, **settings).min() > math.log(1e-5) + 3


def test_too_short():
    with pytest.raises(ValueError, match="more than 720"):
        frontend.flow_mel(torch.zeros(700))
    with pytest.raises(ValueError, match="at least 400"):
        frontend.fbank(torch.zeros(399))
