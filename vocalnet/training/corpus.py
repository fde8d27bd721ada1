"""nano's data on disk: question clips, answer clips, and JSON lists in the released format.

data/train.json, data/dev.json   [{"id", "speech", "conversations", "units", "topic", "question", "voice"}]
data/practice.json               the same, more questions of the topics that lose words
data/drills.json                 the same without answer: lists of words, for the recogniser
data/questions/ID.wav            16 kHz mono int16
data/answers/HASH.wav            the answer in nano's own voice; equal answers share one clip
data/units/HASH.npy              its speech tokens, written by the tokenizer stage
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vocalnet.audio import SAMPLE_RATE_HZ, write_wav
from vocalnet.files import write_json
from vocalnet.training import vocabulary
from vocalnet.training.domain import draw, drill
from vocalnet.training.questions import Question
from vocalnet.training.synthesis import ANSWER_VOICE, Job, Voice, random_job, speak

FOREIGN_SHARE, NOISE_SHARE = 0.012, 0.012  # of the training clips, beside the refusals of the domain


def answer_name(answer: str) -> str:
    """Returns the file stem shared by all clips of one answer text."""
    return hashlib.sha256(answer.encode()).hexdigest()[:16]


def noise(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Returns coloured noise with a random hum and random gaps: float32 at 16 kHz, peak 0.05 to 0.8."""
    n = round(seconds * SAMPLE_RATE_HZ)
    size = 1 << (n - 1).bit_length()  # FFTs of other lengths take several times as long
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -rng.uniform(0.0, 1.2)
    wave = np.fft.irfft(spectrum, size)[:n]
    wave /= np.abs(wave).max()
    t = np.arange(n) / SAMPLE_RATE_HZ
    for _ in range(rng.integers(0, 4)):
        wave += rng.uniform(0.05, 0.6) * np.sin(2 * np.pi * rng.uniform(50, 2500) * t + rng.uniform(0, 6))
    if rng.random() < 0.5:
        wave *= 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 6) * t) ** 2
    return (wave / np.abs(wave).max() * rng.uniform(0.05, 0.8)).astype(np.float32)


def _entry(item_id: str, topic: str, question: str, answer: str, voice: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "speech": f"questions/{item_id}.wav",
        "conversations": [{"from": "human", "value": "<speech>"}, {"from": "gpt", "value": answer}],
        "units": f"units/{answer_name(answer)}.npy",
        "topic": topic,
        "question": question,
        "voice": voice,
    }


def _asked(
    data: Path, name: str, questions: Sequence[Question], rng: random.Random
) -> tuple[list[Job], list[dict[str, Any]]]:
    """Returns what is to be spoken for questions, in random training voices, and their entries in a list."""
    jobs, entries = [], []
    for i, question in enumerate(questions):
        item_id = f"{name}-{i:06d}"
        job = random_job(question.text, data / "questions" / f"{item_id}.wav", rng)
        jobs.append(job)
        entries.append(_entry(item_id, question.topic, question.text, question.answer, job.voice.label))
    return jobs, entries


def build_corpus(data: Path, n_train: int, n_dev: int, seed: int, workers: int = 2, domain: str = "core") -> None:
    """Speaks and lists the whole corpus of a domain under `data`; clips that exist are kept, so that it resumes.

    Raises:
        ValueError: a synthesis engine is not installed, or there is no such domain.
    """
    for split, n in (("dev", n_dev), ("train", n_train)):
        rng = random.Random(f"{seed}-voices-{split}")
        jobs, entries = _asked(data, split, draw(split, n, seed, domain), rng)
        foreign = [(lang, text) for lang, texts in vocabulary.FOREIGN.items() for text in texts]
        for i in range(round(n * FOREIGN_SHARE)):
            item_id, (lang, text) = f"{split}-foreign-{i:05d}", rng.choice(foreign)
            voice = Voice(lang, "espeak", 1)
            path = data / "questions" / f"{item_id}.wav"
            jobs.append(Job(text, voice, path, rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.3)))
            entries.append(_entry(item_id, "refusal", "", vocabulary.REFUSAL, voice.label))
        for i in range(round(n * NOISE_SHARE)):
            item_id = f"{split}-noise-{i:05d}"
            generator = np.random.default_rng([seed, i, len(split)])
            path = data / "questions" / f"{item_id}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_wav(path, noise(generator, generator.uniform(0.5, 4.0)), SAMPLE_RATE_HZ)
            entries.append(_entry(item_id, "refusal", "", vocabulary.REFUSAL, "noise"))
        answers = {answer_name(e["conversations"][1]["value"]): e["conversations"][1]["value"] for e in entries}
        spoken = [Job(text, ANSWER_VOICE, data / "answers" / f"{name}.wav") for name, text in answers.items()]
        for folder in ("questions", "answers"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        random.Random(seed).shuffle(entries)
        write_json(data / f"{split}.json", entries)
        speak(spoken + jobs, workers)


def build_practice(data: Path, n: int, seed: int, workers: int = 2) -> None:
    """Speaks and lists `n` more questions, most of them about single words; resumes like `build_corpus`."""
    (data / "questions").mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{seed}-voices-practice")
    jobs, entries = _asked(data, "practice", draw("train", n, seed + 2, "words"), rng)
    speak(jobs, workers)
    write_json(data / "practice.json", entries)


def build_drills(data: Path, n: int, seed: int, workers: int = 2) -> None:
    """Speaks and lists `n` strings of the domain's words in the training voices; resumes like `build_corpus`."""
    rng = random.Random(f"{seed}-drills")
    (data / "drills").mkdir(parents=True, exist_ok=True)
    jobs = [random_job(drill(rng), data / "drills" / f"{i:06d}.wav", rng) for i in range(n)]
    speak(jobs, workers)
    entries = [
        {"id": job.path.stem, "speech": f"drills/{job.path.name}", "question": job.text, "voice": job.voice.label}
        for job in jobs
    ]
    write_json(data / "drills.json", entries)
