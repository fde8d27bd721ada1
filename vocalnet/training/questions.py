"""How a question of nano's domain is worded, and which split a wording belongs to; the topics are in domain.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

HELDOUT_SHARE, DEV_SHARE = 0.08, 0.03


@dataclass(frozen=True)
class Question:
    """One question of the domain with its answer.

    `key` is what a right answer must hold; `candidates` names the row of CANDIDATES that it must hold nothing else of.
    """

    topic: str
    text: str
    answer: str
    key: str
    candidates: str
    history: tuple[tuple[str, str], ...] = ()  # questions and answers before it, if it follows up on them

    @property
    def split(self) -> str:
        """`train`, `dev` or `heldout`, from a hash of the wording with its slot values, and of what came before it."""
        asked = " ".join([*(text for text, _ in self.history), self.text])
        share = int.from_bytes(hashlib.sha256(asked.lower().encode()).digest()[:4], "big") / 2**32
        if self.topic in NEVER_HELDOUT:
            return "train"
        return "heldout" if share < HELDOUT_SHARE else "dev" if share < HELDOUT_SHARE + DEV_SHARE else "train"


NEVER_HELDOUT: frozenset[str] = frozenset({"refusal"})  # its held-out clips are other sentences altogether: heldout.py

# Frames take a question ("what is ...") or a command ("count from ..."), both written without capital and final mark.
QUESTION_FRAMES = (
    "{q}?",
    "please tell me, {q}?",
    "can you tell me, {q}?",
    "I would like to know, {q}?",
    "excuse me, {q}?",
    "hello, {q}?",
    "{q}, please?",
    "tell me, {q}?",
    "okay, {q}?",
    "one more question, {q}?",
)
COMMAND_FRAMES = (
    "{q}.",
    "please {q}.",
    "can you {q}?",
    "could you please {q}?",
    "hello, {q}.",
    "{q}, please.",
    "now {q}.",
)


def sentence(text: str) -> str:
    """Returns the text with a capital first letter."""
    return text[0].upper() + text[1:]


def framed(text: str) -> Iterator[str]:
    """Yields a core wording ("what is ...", or "!count ..." for a command) in every frame."""
    frames = COMMAND_FRAMES if text.startswith("!") else QUESTION_FRAMES
    for frame in frames:
        yield sentence(frame.format(q=text.lstrip("!")))


def make(
    topic: str, candidates: str, wordings: tuple[str, ...], answers: tuple[str, ...], key: str, **slots: object
) -> Iterator[Question]:
    """Yields one question per wording and frame; the wording's index picks the answer's wording."""
    for i, wording in enumerate(wordings):
        answer = sentence(answers[i % len(answers)].format(key=key, **slots))
        for text in framed(wording.format(**slots)):
            yield Question(topic, text, answer, key, candidates)
