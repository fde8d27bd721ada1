"""Synthetic speech: real engines, whole files, held-out voices apart."""

import random

import numpy as np
import pytest

from vocalnet.audio import load_audio
from vocalnet.training import synthesis
from vocalnet.training.augment import augment
from vocalnet.training.corpus import noise
from vocalnet.training.stage_encoder import FRAME_S, IGNORED, PHONES, phone_targets
from vocalnet.training.synthesis import VOICES, Job, Voice, phones_path, random_job, source_voice, speak

VOICE = {(v.engine, v.name): v for v in VOICES}


def test_every_engine_speaks(tmp_path):
    voices = [VOICE["flite", "slt"], VOICE["festival", "ked_diphone"], VOICE["espeak", "en-us+m5"]]
    jobs = [Job("What is two plus two?", voice, tmp_path / f"{i}.wav", 1.1, 1.1) for i, voice in enumerate(voices)]
    speak(jobs)
    for job in jobs:
        samples = load_audio(job.path)
        assert 0.7 < len(samples) / 16000 < 4
        assert np.abs(samples).max() > 0.05
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.phones", "0.wav", "1.wav", "2.wav"]


def test_heldout_voices_are_never_drawn_for_training(tmp_path):
    heldout = {v.label for v in VOICES if v.heldout}
    assert {"flite:rms", "festival:ked_diphone"} < heldout
    rng = random.Random(0)
    drawn = {random_job("x", tmp_path, rng, is_heldout).voice.label for is_heldout in [False] * 400}
    assert not drawn & heldout
    assert {random_job("x", tmp_path, rng, True).voice.label for _ in range(200)} == heldout


def test_a_missing_engine_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis.shutil, "which", lambda program: None)
    with pytest.raises(ValueError, match="needs flite"):
        speak([Job("Hello.", Voice("slt", "flite", 1), tmp_path / "a.wav")])


def test_phones_follow_the_warped_time(tmp_path):
    path = tmp_path / "clip.wav"
    phones_path(path).write_text("pau:0.2 w:0.4 ah:0.8 pau:1.0")
    rng = np.random.default_rng(0)
    clip = np.zeros(16000)
    clip[6400:12800] = 1.0  # the "ah"
    changed, warp = augment(clip, rng, acoustics=0.0)
    targets = phone_targets(path, warp, len(changed) // 320)
    loud = np.abs(changed[: len(targets) * 320].reshape(-1, 320)).mean(1) > 0.5 * np.abs(changed).max()
    is_ah = (targets == PHONES.index("ah")).numpy()
    assert is_ah.sum() * FRAME_S == pytest.approx(0.4 / warp.factor, abs=0.041)
    assert (loud != is_ah).sum() <= 2
    assert (phone_targets(tmp_path / "other.wav", warp, 5) == IGNORED).all()


def test_noise_is_seeded_and_audible():
    a, b = (noise(np.random.default_rng(3), 1.0) for _ in range(2))
    assert np.array_equal(a, b)
    assert 0.04 < np.abs(a).max() <= 0.8


def test_the_source_voice_says_a_text():
    samples, rate_hz = source_voice("The answer is four.")
    assert rate_hz == 16000
    assert 0.5 < len(samples) / rate_hz < 4
