"""The vocoder equals the official one, tensor by tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from vocoder_helpers import TINY_HIFT, assert_close, assert_sounds_as, stage_outputs

from vocalnet.config import HiftConfig
from vocalnet.decoder.kernels import PackedConv1d, use_kernel
from vocalnet.vocoder.hift import Hift

WAVE_TOLERANCE = 2e-4
SOURCE_TOLERANCE = 1e-3

DECODER_STAGES = {
    "h_conv_pre": "conv_pre",
    "h_ups0": "ups.0",
    "h_sdown0": "source_downs.0",
    "h_sres0": "source_resblocks.0",
    "h_res0": "resblocks.0",
    "h_ups2": "ups.2",
    "h_conv_post": "conv_post",
}


def test_f0(token2wav, inputs, official):
    assert_close(token2wav.f0(inputs["hift_mel"]), official["f0"], 2e-3)


def test_source(token2wav, inputs, official):
    noise = inputs["hift_source_noise"]
    assert_close(token2wav.source(official["f0"], noise=noise), official["source"], SOURCE_TOLERANCE)
    assert_close(token2wav.source(official["f0"], noise=0), official["source_zero_noise"], SOURCE_TOLERANCE)


def test_source_of_vocalnet(token2wav, inputs, official, vocalnet):
    f0, noise, phase = official["f0"], inputs["hift_source_noise"], vocalnet["in_phase"]
    assert_close(token2wav.source(f0, "sample", noise, phase), vocalnet["source"], SOURCE_TOLERANCE)
    assert_close(token2wav.source(f0, "sample", 0, 0), vocalnet["source_zero_noise"], SOURCE_TOLERANCE)


def test_source_spectrum(token2wav, inputs, official):
    assert_close(token2wav.hift.source_spectrum(inputs["hift_source"]), official["source_stft"], 1e-4)


def test_decoder_stages(token2wav, inputs, official):
    mel, source = inputs["hift_mel"], inputs["hift_source"]
    outputs = stage_outputs(token2wav.hift, DECODER_STAGES, lambda: token2wav.vocode(mel, source))
    assert outputs.keys() == DECODER_STAGES.keys()
    for key, output in outputs.items():
        assert_close(output, official[key], 1e-4 * float(official[key].abs().max()))


def test_wave(token2wav, inputs, official, vocalnet):
    mel = inputs["hift_mel"]
    assert_close(token2wav.vocode(mel, inputs["hift_source"])[0], official["wave"], WAVE_TOLERANCE)
    assert_close(token2wav.vocode(mel, vocalnet["source"])[0], vocalnet["wave"], WAVE_TOLERANCE)


def test_wave_with_source_cache(token2wav, inputs, official):
    wave, source = token2wav.vocode(
        inputs["hift_mel"], source_cache=inputs["hift_cache_source"], source_noise=inputs["hift_source_noise"]
    )
    assert_close(source, official["source_cached"], SOURCE_TOLERANCE)
    assert_sounds_as(wave, official["wave_cached_source"])
    wave, _ = token2wav.vocode(inputs["hift_mel"], official["source_cached"])
    assert_close(wave, official["wave_cached_source"], WAVE_TOLERANCE)


@pytest.mark.parametrize(("key", "mode"), [("offline_wave", "frame"), ("direct_wave", "sample")])
def test_wave_end_to_end(token2wav, inputs, voice, official, vocalnet, key, mode):
    """From tokens: random weights amplify rounding, so by correlation."""
    expected = (official | vocalnet)[key]
    mel = token2wav.flow(inputs["token"], *voice, chunk=50 if mode == "sample" else None)
    wave = token2wav.vocode(mel, source_mode=mode, source_noise=0, phase=0)[0][:, : expected.shape[1]]
    assert torch.corrcoef(torch.cat([wave, expected]))[0, 1] >= 0.999
    assert_close(wave, expected, 0.1)


def test_drawn_source_is_repeatable(token2wav, official):
    first, second = (token2wav.source(official["f0"], "sample") for _ in range(2))
    assert torch.equal(first, second)
    assert (first - token2wav.source(official["f0"], "sample", 0, 0)).abs().max() > 1e-3


def test_unknown_mode_and_wrong_noise(token2wav, official):
    with pytest.raises(ValueError, match="frame, sample"):
        token2wav.source(official["f0"], "phase")
    with pytest.raises(ValueError, match="must be"):
        token2wav.source(official["f0"], noise=torch.zeros(1, 3, 9))


def test_batch_rows_are_independent(tiny):
    """Two utterances in one batch give what each gives alone."""
    mel = torch.randn(2, 80, 12, generator=torch.Generator().manual_seed(3))
    hift = tiny.hift
    with torch.no_grad():
        both = hift.decode(mel, hift.source(hift.f0(mel), noise=0, phase=0))
        for row in range(2):
            one = mel[row : row + 1]
            assert_close(hift.decode(one, hift.source(hift.f0(one), noise=0)), both[row : row + 1], 1e-5)
    assert both.shape == (2, 320 * 12)


@pytest.mark.parametrize(
    "sizes",
    [
        {"upsample_kernels": (16, 11, 6)},
        {"upsample_kernels": (16, 11)},
        {"base_channels": 20},
    ],
)
def test_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="hift:"):
        Hift(HiftConfig(**sizes))


def test_a_packed_vocoder_computes_the_same_and_is_saved_as_the_plain_one():
    torch.manual_seed(0)
    hift = Hift(TINY_HIFT).eval().requires_grad_(False)
    hift.fuse_weight_norm()
    packed = copy.deepcopy(hift)
    use_kernel(packed, "packed")
    assert sum(isinstance(part, PackedConv1d) for part in packed.modules()) > 60
    state, expected = packed.state_dict(), hift.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    with torch.no_grad():
        for n in (1, 7, 20):
            mel = torch.randn(1, 80, n)
            source = hift.source(hift.f0(mel), noise=0)
            assert_close(packed.f0(mel), hift.f0(mel), 1e-2)
            assert_close(packed.decode(mel, source), hift.decode(mel, source), 1e-5)
    with pytest.raises(ValueError, match='kernel="plain"'):
        packed.double()


def test_weight_norm_is_not_packed():
    hift = Hift(TINY_HIFT)
    use_kernel(hift, "packed")
    assert sum(isinstance(part, PackedConv1d) for part in hift.modules()) == len(hift.source_downs)
    assert all(isinstance(part, PackedConv1d) for part in hift.source_downs)
