"""Sound in and out: every recording becomes float32 mono at 16 kHz, or one sentence that says why it cannot.

wav, flac, mp3 and ogg are read by libsndfile; containers it does not know (webm, m4a, aac) by the ffmpeg program, if
there is one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from vocalnet.files import atomic_path

SAMPLE_RATE_HZ = 16_000  # what Whisper hears
HOP_SAMPLES = 160  # one mel frame: 160 / 16000 = 10 ms
FRAMES_PER_S = SAMPLE_RATE_HZ // HOP_SAMPLES  # 100 mel frames a second
ENCODER_STRIDE = 2  # Whisper's second convolution
ENCODER_FRAMES_PER_S = FRAMES_PER_S // ENCODER_STRIDE  # 50 encoder frames a second

MIN_AUDIO_S = 0.1
MAX_AUDIO_S = 300.0
SILENCE_PEAK = 0.001  # digital silence: a peak below -60 dB of full scale
MAX_PEAK = 100.0  # no float recording is this loud: these are integers that were cast, not scaled
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 384_000
MAX_CHANNELS = 8

FULL_SCALE = {"int16": 2**15, "int32": 2**31}  # integer types that mean sound
# (offset of the mark, the mark, ffmpeg's demuxer): naming it keeps ffmpeg from guessing a playlist in a text file
CONTAINERS = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (4, b"ftyp", "mov"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
)
FFMPEG_LIMIT_S = 120

AudioInput = str | os.PathLike[str] | tuple[Any, float]


class AudioError(ValueError):
    """A recording that cannot be used; the message says what to do."""


def load_audio(source: AudioInput, max_s: float = MAX_AUDIO_S) -> np.ndarray:
    """Returns a recording as float32 mono at 16 kHz, (n,), full scale 1.

    Args:
        source: a path, or (samples, sample_rate_hz) with samples (n,), (n, channels) or (channels, n), as floats of
            full scale 1 or as int16 / int32. Channels are averaged.
        max_s: longest recording accepted, in seconds.

    Raises:
        AudioError: the recording is missing, no audio, empty, too short or long, silent, or holds NaN.
    """
    if isinstance(source, str | os.PathLike):
        samples, rate_hz = _read(Path(source), max_s)
    elif isinstance(source, tuple) and len(source) == 2:
        samples, rate_hz = source[0], _sample_rate(source[1])
    else:
        raise AudioError("Audio must be a path or a pair (samples, sample_rate_hz).")
    mono = _mono(samples)
    validate_audio(mono, rate_hz, max_s)
    return resample(mono, rate_hz, SAMPLE_RATE_HZ)


def resample(samples: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """Returns samples (n,) at another rate, float32; at the same rate they are returned as they are."""
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    return samples if from_hz == to_hz else soxr.resample(samples, from_hz, to_hz)


def validate_audio(samples: np.ndarray, sample_rate_hz: float, max_s: float = MAX_AUDIO_S) -> None:
    """Checks mono samples (n,) of full scale 1.

    Raises:
        AudioError: the sentence for the user, with the measured value.
    """
    if samples.size == 0:
        raise AudioError("The recording is empty (0 samples). Record again or choose another file.")
    duration_s = samples.size / sample_rate_hz
    if duration_s < MIN_AUDIO_S:
        raise AudioError(f"The recording is too short ({duration_s:.3f} s). Speak for at least {MIN_AUDIO_S} s.")
    _check_length(duration_s, max_s)
    n_bad = int(np.count_nonzero(~np.isfinite(samples)))
    if n_bad:
        raise AudioError(
            f"The recording holds {n_bad} samples that are not numbers (NaN or infinite). Export it again."
        )
    peak = float(np.abs(samples).max())
    if peak < SILENCE_PEAK:
        raise AudioError(f"The recording is silent (peak {peak:.4f}). Check the microphone and try again.")
    if peak > MAX_PEAK:
        raise AudioError(f"The samples are out of range (peak {peak:.0f}). Scale floats to [-1, 1] or pass int16.")


def windows(samples: np.ndarray, window_s: float, sample_rate_hz: int = SAMPLE_RATE_HZ) -> list[np.ndarray]:
    """Cuts (n,) into pieces of `window_s` seconds; the last one is shorter.

    A tail under 0.1 s after a full window is dropped: no word fits into it, and the encoder needs a few frames.
    """
    assert window_s >= MIN_AUDIO_S
    size = round(window_s * sample_rate_hz)
    pieces = [samples[start : start + size] for start in range(0, len(samples), size)]
    if len(pieces) > 1 and len(pieces[-1]) < MIN_AUDIO_S * sample_rate_hz:
        pieces.pop()
    return pieces


def write_wav(path: str | Path, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Writes (n,) floats in [-1, 1] as an int16 WAV that appears whole or not at all; louder samples are clipped.

    Raises:
        ValueError: the file cannot be written.
    """
    assert samples.ndim == 1
    assert np.isfinite(samples).all()
    pcm = np.round(np.clip(samples, -1.0, 1.0) * (FULL_SCALE["int16"] - 1)).astype(np.int16)
    with atomic_path(path) as temporary:
        try:
            soundfile.write(temporary, pcm, sample_rate_hz, format="WAV", subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise ValueError(f"Cannot write {path}: {error.error_string} Choose another folder.") from error


def _read(path: Path, max_s: float) -> tuple[np.ndarray, float]:
    """Reads a file: samples (n, channels) and their rate."""
    if not path.exists():
        raise AudioError(f"There is no file {path}. Check the name.")
    if not path.is_file():
        raise AudioError(f"{path} is not a file. Choose an audio file (wav, flac, mp3 or ogg).")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise AudioError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    if not head:
        raise AudioError(f"{path} is empty (0 bytes). Record again or choose another file.")
    for offset, mark, demuxer in CONTAINERS:
        if head.startswith(mark, offset):
            return _read_with_ffmpeg(path, demuxer, max_s), SAMPLE_RATE_HZ
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz = _sample_rate(file.samplerate)
            _check_length(file.frames / rate_hz, max_s)
            return file.read(dtype="float32", always_2d=True), rate_hz
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} is not a readable audio file. Use wav, flac, mp3 or ogg.") from error


def _read_with_ffmpeg(path: Path, demuxer: str, max_s: float) -> np.ndarray:
    """Decodes what libsndfile does not know to 16 kHz mono, (n,); one second over `max_s` at most."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(f"Reading {path} needs the program ffmpeg, which is not installed. Use wav, flac, mp3 or ogg.")
    options = ["-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-f", demuxer, "-i", f"file:{path}"]
    target = ["-vn", "-ac", "1", "-ar", str(SAMPLE_RATE_HZ), "-t", str(max_s + 1), "-f", "f32le", "pipe:1"]
    try:
        done = subprocess.run([program, *options, *target], capture_output=True, timeout=FFMPEG_LIMIT_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise AudioError(f"{path} is not a readable audio file. Use wav, flac, mp3 or ogg.") from error
    return np.frombuffer(done.stdout, dtype="<f4")


def _mono(samples: Any) -> np.ndarray:
    """Averages the channels: float32 (n,) of full scale 1."""
    try:
        array = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(
            "The samples are not an array of numbers. Pass a one-dimensional float or int16 array."
        ) from error
    if array.dtype.name not in FULL_SCALE and not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"Samples of type {array.dtype} are not audio. Pass floats in [-1, 1], int16 or int32.")
    scale = FULL_SCALE.get(array.dtype.name, 1)
    if array.ndim == 2:
        axis = 1 if array.shape[1] <= MAX_CHANNELS else 0
        if 1 <= array.shape[axis] <= MAX_CHANNELS:
            array = array.mean(axis=axis, dtype=np.float64)  # (n,)
    if array.ndim != 1:
        raise AudioError(
            f"Samples of shape {array.shape} are not audio. Pass (n,) or (n, channels), 8 channels at most."
        )
    return np.ascontiguousarray(array / scale, dtype=np.float32)


def _sample_rate(value: Any) -> float:
    """Checks a sample rate in Hz."""
    try:
        rate_hz = float(value)
    except (TypeError, ValueError) as error:
        raise AudioError("The sample rate must be a number: pass (samples, sample_rate_hz), in this order.") from error
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(f"A sample rate of {rate_hz:g} Hz is not usable. Record at 8000 to 48000 Hz.")
    return rate_hz


def _check_length(duration_s: float, max_s: float) -> None:
    if duration_s > max_s:
        raise AudioError(f"The recording is too long ({duration_s:.1f} s). Cut it to at most {max_s:g} s.")
