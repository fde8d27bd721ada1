"""Every kind of recording a user may bring, good and bad."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from vocalnet import audio
from vocalnet.audio import SAMPLE_RATE_HZ, AudioError, load_audio, windows, write_wav


def tone(
    duration_s: float = 1.0, rate_hz: int = SAMPLE_RATE_HZ, peak: float = 0.5, frequency_hz: float = 440.0
) -> np.ndarray:
    t = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (peak * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)


def frequency_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE_HZ / len(samples)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS")],
)
def test_file_formats_give_the_same_sound(tmp_path, rate_hz, suffix, subtype):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(rate_hz=rate_hz), rate_hz, subtype=subtype)
    samples = load_audio(path)
    assert samples.dtype == np.float32
    assert samples.shape == (SAMPLE_RATE_HZ,)
    assert frequency_hz(samples) == pytest.approx(440, abs=2)
    assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.5, abs=0.03)


def test_mp3(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(), SAMPLE_RATE_HZ, format="MP3")
    assert frequency_hz(load_audio(path)) == pytest.approx(440, abs=3)


def test_stereo_is_averaged_in_files_and_arrays(tmp_path):
    left, right = tone(peak=0.8), tone(peak=0.2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), SAMPLE_RATE_HZ, subtype="FLOAT")
    for source in (tmp_path / "a.wav", (np.stack([left, right], 1), 16000), (np.stack([left, right]), 16000)):
        np.testing.assert_allclose(load_audio(source), tone(peak=0.5), atol=1e-6)


def test_integer_arrays_have_full_scale_one():
    x = tone()
    for dtype, scale in ((np.int16, 2**15), (np.int32, 2**31)):
        np.testing.assert_allclose(load_audio(((x * scale).astype(dtype), 16000)), x, atol=1e-4)


def test_same_rate_samples_are_untouched():
    np.testing.assert_array_equal(load_audio((tone(), 16000)), tone())


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("suffix", ["webm", "m4a"])
def test_containers_by_ffmpeg(tmp_path, suffix):
    soundfile.write(tmp_path / "a.wav", tone(), SAMPLE_RATE_HZ)
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), str(tmp_path / f"a.{suffix}")]
    subprocess.run(command, check=True)
    assert frequency_hz(load_audio(tmp_path / f"a.{suffix}")) == pytest.approx(440, abs=3)


def test_container_without_ffmpeg_says_so(tmp_path, monkeypatch):
    (tmp_path / "a.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(100))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AudioError, match="needs the program ffmpeg"):
        load_audio(tmp_path / "a.webm")


def with_nan() -> np.ndarray:
    x = tone()
    x[7] = np.nan
    return x


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((np.zeros(0, np.float32), 16000), r"empty \(0 samples\)"),
        ((tone(0.05), 16000), r"too short \(0\.050 s\)"),
        ((tone(1.0, peak=0.0002), 16000), r"silent \(peak 0\.0002\)"),
        ((np.zeros(16000, np.int16), 16000), "silent"),
        ((with_nan(), 16000), "1 samples that are not numbers"),
        ((tone(600), 16000), r"too long \(600\.0 s\)"),
        ((tone() * 20000, 16000), "out of range"),
        ((np.array(["a", "b"]), 16000), "not audio"),
        (([[1.0], [1.0, 2.0]], 16000), "not an array"),
        ((np.zeros((100, 100), np.float32), 16000), "shape"),
        ((np.float32(1), 16000), "shape"),
        ((tone(), 0), "sample rate of 0 Hz"),
        ((tone(), float("nan")), "sample rate of nan"),
        ((tone(), "x"), "must be a number"),
        ((16000, tone()), "in this order"),
        (None, "path or a pair"),
    ],
)
def test_bad_samples_are_one_sentence(source, message):
    with pytest.raises(AudioError, match=message):
        load_audio(source)


def test_bad_files_are_one_sentence(tmp_path):
    (tmp_path / "text.wav").write_text("this is not audio\n" * 20)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "broken.webm").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(100))
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "long.flac", np.zeros(301 * 8000, np.int16), 8000)
    for name, message in {
        "missing.wav": "no file",
        "text.wav": "not a readable audio file",
        "empty.wav": "0 bytes",
        "none.wav": "0 samples",
        "broken.webm": "not a readable audio file|needs the program ffmpeg",
        "long.flac": r"too long \(301\.0 s\)",
        ".": "not a file",
    }.items():
        with pytest.raises(AudioError, match=message) as caught:
            load_audio(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_playlist_is_not_followed(tmp_path):
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
    with pytest.raises(AudioError, match="not a readable"):
        load_audio(tmp_path / "a.m3u8")


def test_longest_recording_is_an_argument():
    assert len(load_audio((tone(2), 16000), max_s=2)) == 32000
    with pytest.raises(AudioError, match="at most 1 s"):
        load_audio((tone(2), 16000), max_s=1)


def test_windows_cover_the_recording():
    x = tone(2.5)
    pieces = windows(x, 1.0)
    assert [len(p) for p in pieces] == [16000, 16000, 8000]
    np.testing.assert_array_equal(np.concatenate(pieces), x)
    assert [len(p) for p in windows(tone(1.05), 1.0)] == [16000]
    assert [len(p) for p in windows(tone(0.05), 1.0)] == [800]


def test_write_wav_is_int16_and_clips(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([0.0, 0.5, 2.0, -2.0], np.float32), 24000)
    pcm, rate_hz = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate_hz == 24000
    assert pcm.tolist() == [0, 16384, 32767, -32767]
    assert os.listdir(tmp_path) == ["a.wav"]


def test_write_wav_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    write_wav(tmp_path / "a.wav", tone(), 16000)
    before = (tmp_path / "a.wav").read_bytes()

    def disk_full(path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audio.soundfile, "write", disk_full)
    with pytest.raises(ValueError, match="No space left"):
        write_wav(tmp_path / "a.wav", tone(), 16000)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("name", ["missing/a.wav", "."])
def test_unwritable_output_is_one_sentence(tmp_path, name):
    with pytest.raises(ValueError, match="Cannot write"):
        write_wav(tmp_path / name, tone(), 16000)
