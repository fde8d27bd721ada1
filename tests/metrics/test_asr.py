"""The recogniser hears words, hears nothing in silence, and keeps the order over processes."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from vocalnet.audio import load_audio
from vocalnet.metrics.asr import CLIPS_PER_TASK, PocketSphinx, transcribe_all


class Length:
    """A recogniser that hears how many samples there are."""

    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        return str(len(samples))


@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_pocketsphinx_hears_a_sentence_and_no_word_in_silence(tmp_path):
    path = tmp_path / "a.wav"
    subprocess.run(["flite", "-voice", "slt", "-t", "The capital of France is Paris.", "-o", str(path)], check=True)
    speech, silence = load_audio(path), np.zeros(16000, np.float32)
    heard = transcribe_all([(speech, 16000), (silence, 16000)])
    assert "capital of france" in heard[0]
    assert heard[1] == ""
    assert PocketSphinx().transcribe(np.repeat(speech, 2), 32000).split()[-1] == heard[0].split()[-1]


@pytest.mark.parametrize("n_processes", [1, 2])
def test_order_is_kept(n_processes):
    lengths = range(100, 100 + CLIPS_PER_TASK + 3)
    clips = [(np.zeros(n, np.float32), 16000) for n in lengths]
    assert transcribe_all(clips, Length, n_processes) == [str(n) for n in lengths]


def test_no_clips():
    assert transcribe_all([], Length) == []
