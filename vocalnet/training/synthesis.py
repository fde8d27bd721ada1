"""Synthetic speech for nano: voices of flite, espeak-ng and festival, the programs being called as they are.

Whole voices are held out: they are used for testing only. nano's answers are spoken by flite slt (`source_voice`).
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vocalnet.audio import SAMPLE_RATE_HZ, load_audio, write_wav

ENGINES = {"flite": "flite", "espeak": "espeak-ng", "festival": "festival"}
INSTALL = "apt-get install flite espeak-ng festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"


@dataclass(frozen=True)
class Voice:
    """One voice of one engine; `share` is its relative frequency in the training questions."""

    name: str
    engine: str
    share: float
    heldout: bool = False

    @property
    def label(self) -> str:
        """`engine:name`, as in evaluation tables."""
        return f"{self.engine}:{self.name}"


_ESPEAK_LANGUAGES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029")
_ESPEAK_VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m6",
    "f1",
    "f2",
    "f3",
    "f5",
    "klatt",
    "klatt4",
    "Andy",
    "steph3",
    "linda",
    "Alex",
)
_ESPEAK_HELDOUT = ("en-us+m5", "en-gb+f4")
VOICES: tuple[Voice, ...] = (
    Voice("kal", "flite", 3),
    Voice("kal16", "flite", 3),
    Voice("awb", "flite", 8),
    Voice("slt", "flite", 6),
    Voice("rms", "flite", 1, heldout=True),
    Voice("kal_diphone", "festival", 6),
    Voice("cmu_us_slt_arctic_hts", "festival", 4),
    Voice("ked_diphone", "festival", 1, heldout=True),
    *(Voice(f"{lang}+{variant}", "espeak", 0.15) for lang in _ESPEAK_LANGUAGES for variant in _ESPEAK_VARIANTS),
    *(Voice(name, "espeak", 0.5, heldout=True) for name in _ESPEAK_HELDOUT),
)
ANSWER_VOICE = Voice("slt", "flite", 1)


@dataclass(frozen=True)
class Job:
    """One clip to be spoken; speed and pitch are factors around the voice's own."""

    text: str
    voice: Voice
    path: Path
    speed: float = 1.0
    pitch: float = 1.0


def random_job(text: str, path: Path, rng: random.Random, heldout: bool = False) -> Job:
    """Returns a job in a random voice of the training (or held-out) voices with a random speed and pitch."""
    voices = [voice for voice in VOICES if voice.heldout == heldout]
    voice = rng.choices(voices, [voice.share for voice in voices])[0]
    return Job(text, voice, path, round(rng.uniform(0.8, 1.25), 3), round(rng.uniform(0.85, 1.2), 3))


def require_engines(*engines: str) -> None:
    """Raises a ValueError that says what to install when an engine's program is missing."""
    missing = [ENGINES[engine] for engine in engines if shutil.which(ENGINES[engine]) is None]
    if missing:
        raise ValueError(f"Speech synthesis needs {', '.join(missing)}. On Debian or Ubuntu: {INSTALL}")


def phones_path(clip: Path) -> Path:
    """Returns where flite's phones of a clip are kept: "pau:0.224 w:0.296 ...", with the second at which each ends."""
    return clip.with_suffix(".phones")


_FLITE_F0_HZ = {"slt": 170, "awb": 110, "rms": 95, "kal": 105, "kal16": 105}


def _command(job: Job, path: Path) -> list[str]:
    """Returns the command line of flite or espeak-ng for one job."""
    if job.voice.engine == "flite":
        settings = []
        if job.speed != 1.0:
            settings += ["--setf", f"duration_stretch={1 / job.speed:.3f}"]
        if job.pitch != 1.0:
            settings += ["--setf", f"int_f0_target_mean={_FLITE_F0_HZ[job.voice.name] * job.pitch:.0f}"]
        return ["flite", "-psdur", "-voice", job.voice.name, *settings, "-t", job.text, "-o", str(path)]
    speed, pitch = round(165 * job.speed), min(99, round(50 * job.pitch))
    return ["espeak-ng", "-v", job.voice.name, "-s", str(speed), "-p", str(pitch), "-w", str(path), job.text]


def _speak_festival(jobs: Sequence[Job], folder: Path) -> None:
    """Speaks many texts of one festival voice in one process (its start takes longer than a sentence)."""
    lines = [f"(voice_{jobs[0].voice.name})"]
    for i, job in enumerate(jobs):
        text = job.text.replace("\\", "").replace('"', "")
        lines += [
            f"(Parameter.set 'Duration_Stretch {1 / job.speed:.3f})",
            f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{folder / str(i)}.wav")',
        ]
    script = folder / "speak.scm"
    script.write_text("\n".join(lines))
    subprocess.run(["festival", "-b", str(script)], check=True, capture_output=True)


def speak(jobs: Sequence[Job], workers: int = 2, batch: int = 64) -> None:
    """Speaks every job whose file is missing, as 16 kHz mono int16 WAV; each file appears whole or not at all.

    Raises:
        ValueError: an engine is not installed.
    """
    todo = [job for job in jobs if not job.path.exists()]
    require_engines(*{job.voice.engine for job in todo})
    groups: list[list[Job]] = []
    for voice in sorted({job.voice.name for job in todo if job.voice.engine == "festival"}):
        own = [job for job in todo if job.voice.name == voice]
        groups += [own[i : i + batch] for i in range(0, len(own), batch)]
    groups += [[job] for job in todo if job.voice.engine != "festival"]

    def run(group: list[Job]) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if group[0].voice.engine == "festival":
                _speak_festival(group, folder)
            else:
                said = subprocess.run(_command(group[0], folder / "0.wav"), check=True, capture_output=True, text=True)
                if group[0].voice.engine == "flite":
                    phones_path(group[0].path).write_text(said.stdout.strip())
            for i, job in enumerate(group):
                write_wav(job.path, load_audio(folder / f"{i}.wav"), SAMPLE_RATE_HZ)

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(run, groups):
            pass


def source_voice(text: str) -> tuple[np.ndarray, int]:
    """Returns flite slt saying `text`: (float32 samples, sample_rate_hz). The ceiling of nano's own speech."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "source.wav"
        speak([Job(text, ANSWER_VOICE, path)], workers=1)
        return load_audio(path), SAMPLE_RATE_HZ
