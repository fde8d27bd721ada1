"""Streamed equals offline where it must, and equals the two released loops where they differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from vocoder_helpers import assert_close, assert_sounds_as

from vocalnet.vocoder.prompt import VoicePrompt
from vocalnet.vocoder.token2wav import Token2Wav
from vocalnet.vocoder.token_stream import STYLES, OfficialWindows, VocalNetWindows
from vocalnet.vocoder.wave_stream import FADES

MEL_TOLERANCE = 2e-4
RELEASED = [("official", 35), ("vocalnet", 15)]


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([mel for mel, _ in parts], dim=2), torch.cat([wave for _, wave in parts], dim=1)


@pytest.mark.parametrize(("style", "n"), RELEASED)
def test_released_styles(token2wav, inputs, voice, official, vocalnet, style, n):
    expected = official if style == "official" else vocalnet
    parts = list(token2wav.stream(inputs["token"].split(n, dim=1), voice, style, source_noise=0, phase=0))
    assert len(parts) == sum(key.startswith("stream_mel") for key in expected)
    for i, (mel, wave) in enumerate(parts):
        assert_close(mel, expected[f"stream_mel_{i}"], MEL_TOLERANCE)
        assert wave.shape == expected[f"stream_wave_{i}"].shape


def test_official_windows():
    """The first hop aligns the prompt with the chunk grid, then hops double up to 100 (`CosyVoice2Model.tts`)."""
    windows = OfficialWindows(chunk=25, n_prompt=12)
    places = [(w.n_seen, w.offset, w.chunk, w.is_final) for w in windows.due(300, last=True)]
    assert places == [
        (41, 0, 25, False),
        (91, 38, 25, False),
        (191, 88, 25, False),
        (291, 188, 25, False),
        (300, 288, None, True),
    ]


def test_vocalnet_windows():
    """One window per push however much has arrived; the last push works off the rest (`tts_direct_update`)."""
    windows = VocalNetWindows()
    pushes = [list(windows.due(n, last)) for n, last in ((14, False), (90, False), (91, False), (150, True))]
    assert [[(w.n_seen, w.offset, w.is_final) for w in push] for push in pushes] == [
        [],
        [(15, 0, False)],
        [(27, 12, False)],
        [(77, 24, False), (127, 74, False), (150, 124, True)],
    ]


@pytest.mark.parametrize("style", ["official", "vocalnet"])
def test_wave_stream_of_golden_mels(token2wav, official, vocalnet, style):
    expected = official if style == "official" else vocalnet
    waves = token2wav.wave_stream(STYLES[style].source_mode, source_noise=0, phase=0)
    n = sum(key.startswith("stream_mel") for key in expected)
    for i in range(n):
        wave = waves.push(expected[f"stream_mel_{i}"], last=i == n - 1)
        assert_sounds_as(wave, expected[f"stream_wave_{i}"])


@pytest.mark.parametrize("n", [1, 30])
def test_exact_equals_one_call(token2wav, inputs, voice, official, n):
    mel, wave = joined(list(token2wav.stream(inputs["token"].split(n, dim=1), voice)))
    assert_close(mel, official["mel_stream_full"], MEL_TOLERANCE)
    assert wave.shape == (1, 480 * 140)


@pytest.mark.parametrize(("chunk", "n_prompt"), [(4, 0), (5, 12), (13, 12)])
def test_exact_with_other_chunks(tiny, chunk, n_prompt):
    """Also with a prompt longer than a chunk, without guidance, and with fewer steps."""
    tokens = torch.arange(40)[None]
    voice = tokens[:, :n_prompt], torch.randn(1, 2 * n_prompt, 80), torch.randn(1, 192)
    options = {"chunk": chunk, "n_steps": 2, "cfg_rate": 0.0}
    mel, _ = joined(list(tiny.stream(tokens.split(6, dim=1), voice, **options)))
    assert_close(mel, tiny.flow(tokens, *voice, **options), MEL_TOLERANCE)


def test_exact_answers_after_a_chunk_and_three_tokens(tiny):
    stream = tiny.token_stream(chunk=5)
    pushes = [list(stream.push([i])) for i in range(8)]
    assert [len(parts) for parts in pushes] == [0] * 7 + [1]
    mel, wave = pushes[-1][0]
    assert mel.shape[2] == 10
    assert wave.shape == (1, 320 * 2)  # ten frames less the eight that the next piece fades over


def test_exact_runs_each_frame_once(tiny, monkeypatch):
    frames: list[int] = []
    sample = type(tiny.flow_model).sample
    monkeypatch.setattr(
        type(tiny.flow_model),
        "sample",
        lambda self, noise, *args, **kwargs: frames.append(noise.shape[2]) or sample(self, noise, *args, **kwargs),
    )
    list(tiny.stream([[1] * 9, [2] * 9, [3] * 9], chunk=5))
    assert sum(frames) == 2 * 27


def test_two_streams_do_not_mix(tiny):
    """Interleaved pushes give what each utterance gives alone."""
    utterances = [[[1, 2, 3, 4, 5, 6, 7]] * 3, [[9, 8, 7, 6, 5, 4, 3]] * 3]
    alone = [joined(list(tiny.stream(chunks, chunk=4))) for chunks in utterances]
    streams = [tiny.token_stream(chunk=4) for _ in utterances]
    parts: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for i in range(3):
        for stream, chunks, out in zip(streams, utterances, parts, strict=True):
            out += stream.push(chunks[i], last=i == 2)
    for out, (mel, wave) in zip(parts, alone, strict=True):
        assert torch.equal(joined(out)[0], mel)
        assert torch.equal(joined(out)[1], wave)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_gives_every_frame(tiny: Token2Wav, style):
    mel, wave = joined(list(tiny.stream([[1] * 15, [2] * 15, [3] * 30, [4] * 1], style=style)))
    assert mel.shape == (1, 80, 122)
    assert wave.shape == (1, 320 * 122)
    assert list(tiny.stream([], style=style)) == []
    assert list(tiny.stream([[]], style=style)) == []


def test_push_after_nothing_left_flushes(tiny):
    """The end may arrive without tokens."""
    mel, wave = joined(list(tiny.stream([[1] * 9, []], chunk=4)))
    assert_close(mel, tiny.flow([1] * 9, chunk=4), MEL_TOLERANCE)
    assert wave.shape == (1, 320 * 18)


@pytest.mark.parametrize("sizes", [[1] * 20, [3, 5, 8, 4], [20], [9, 0, 11], [19, 1]])
def test_wave_stream_keeps_every_sample(tiny, sizes):
    mels = torch.randn(1, 80, 20, generator=torch.Generator().manual_seed(5)).split(sizes, dim=2)
    waves = tiny.wave_stream(fade="zero")
    total = sum(waves.push(mel, last=i == len(mels) - 1).shape[1] for i, mel in enumerate(mels))
    assert total == 320 * 20


def test_given_noise_follows_the_utterance(tiny):
    """The second piece's noise starts where its repeated frames stand."""
    noise = torch.randn(1, 320 * 24, 9, generator=torch.Generator().manual_seed(6))
    mel = torch.randn(1, 80, 24, generator=torch.Generator().manual_seed(7))
    waves = tiny.wave_stream(source_noise=noise)
    waves.push(mel[..., :12])
    assert waves.tail is not None
    repeated = waves.tail[0]
    with torch.no_grad():
        whole = tiny.hift.source(tiny.f0(mel[..., :12]), noise=noise[:, : 320 * 12])
    assert torch.equal(repeated, whole[..., -320 * 8 :])
    waves.push(mel[..., 12:])
    with torch.no_grad():
        second = tiny.hift.source(tiny.f0(mel[..., 4:]), noise=noise[:, 320 * 4 :])
    assert torch.equal(waves.tail[0], second[..., -320 * 8 :])


def test_fades():
    """ "zero" goes from exactly 0 to 1 and keeps the level; the released Hamming halves sum to 1.08."""
    rise, fall = FADES["zero"](50, torch.device("cpu"))
    assert rise[0] == 0
    assert fall[-1] == 0
    assert_close(rise + fall, torch.ones(50), 1e-6)
    rise, fall = FADES["hamming"](50, torch.device("cpu"))
    assert_close(rise + fall, torch.full((50,), 1.08), 2e-2)
    assert rise[0].item() == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"style": "fast"}, "exact, official"), ({"chunk": 0}, "at least 1"), ({"fade": "x"}, "fade")],
)
def test_bad_options(tiny, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.token_stream(**options)


def test_prompt_frames_end_in_zeros():
    prompt = VoicePrompt(torch.ones(1, 2), torch.ones(1, 4, 80), torch.zeros(1, 192))
    assert prompt.frames(2, 6)[0, 0].tolist() == [1, 1, 0, 0]
    assert prompt.frames(6, 8)[0, 0].tolist() == [0, 0]
