"""Word error rates: Whisper's English normaliser, corpus level, with bootstrap intervals over utterances.

A rate is errors / reference words, as a fraction; it can exceed 1. As in the paper's ASR-WER, texts are normalised
first. The normaliser's British-to-American spelling table comes with Whisper's tokenizer; without one it is left empty
(a deliberate difference, so that nothing is downloaded).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vocalnet.metrics.bootstrap import draws, percentiles
from vocalnet.metrics.extras import require


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Edit counts of one utterance, or of many when added."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    n_words: int = 0  # of the reference

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.n_words + other.n_words,
        )

    @property
    def n_errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors per reference word."""
        return self.n_errors / max(self.n_words, 1)


@functools.cache
def _normalizer(spelling: Path | None):
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer(json.loads(spelling.read_text(encoding="utf-8")) if spelling else {})


def normalise(text: str, spelling: Path | None = None) -> str:
    """Returns lower-case words without punctuation and special tokens, numbers as digits, contractions spelled out.

    Args:
        text: as written or heard.
        spelling: Whisper's normalizer.json, by which British spellings become American ones.
    """
    return _normalizer(spelling)(text).strip()


def word_errors(reference: str, hypothesis: str, spelling: Path | None = None) -> WordErrors:
    """Counts the edits of one utterance after normalisation; an empty reference has insertions only.

    Raises:
        ValueError: jiwer is not installed.
    """
    reference, hypothesis = normalise(reference, spelling), normalise(hypothesis, spelling)
    if not reference:
        return WordErrors(insertions=len(hypothesis.split()))
    found = require("jiwer").process_words(reference, hypothesis)
    return WordErrors(found.substitutions, found.deletions, found.insertions, len(reference.split()))


def errors_in(rows: Sequence[dict[str, Any]]) -> list[WordErrors]:
    """Returns the counts that each row of a report's answers holds beside other things."""
    names = [count.name for count in fields(WordErrors)]
    return [WordErrors(**{name: row[name] for name in names}) for row in rows]


def corpus_errors(utterances: Sequence[WordErrors]) -> WordErrors:
    """Returns the sum: its `wer` is the corpus-level rate, in which long utterances weigh more."""
    return sum(utterances, WordErrors())


def interval(utterances: Sequence[WordErrors], seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval (low, high) of the corpus-level rate, resampling utterances."""
    return percentiles(_resampled_rates(utterances, draws(len(utterances), seed)))


def difference_interval(
    utterances: Sequence[WordErrors], baseline: Sequence[WordErrors], seed: int = 0
) -> tuple[float, float]:
    """Returns the 95 % interval of WER(utterances) - WER(baseline), paired: both are resampled alike.

    Raises:
        ValueError: the two do not hold the same number of utterances.
    """
    if len(utterances) != len(baseline):
        raise ValueError(f"A paired interval needs the same utterances: got {len(utterances)} and {len(baseline)}.")
    index = draws(len(utterances), seed)
    return percentiles(_resampled_rates(utterances, index) - _resampled_rates(baseline, index))


def rate(utterances: Sequence[WordErrors], seed: int = 0) -> dict[str, Any]:
    """Returns {"wer", "ci95", "substitutions", "deletions", "insertions", "n_words"} of a corpus.

    Raises:
        ValueError: there are no utterances.
    """
    total = corpus_errors(utterances)
    return {"wer": total.wer, "ci95": interval(utterances, seed), **asdict(total)}


def difference(utterances: Sequence[WordErrors], baseline: Sequence[WordErrors], seed: int = 0) -> dict[str, Any]:
    """Returns {"wer", "ci95"} of WER(utterances) - WER(baseline), paired: below 0 is better than the baseline.

    Raises:
        ValueError: the two do not hold the same number of utterances, or none.
    """
    wer = corpus_errors(utterances).wer - corpus_errors(baseline).wer
    return {"wer": wer, "ci95": difference_interval(utterances, baseline, seed)}


def _resampled_rates(utterances: Sequence[WordErrors], index: np.ndarray) -> np.ndarray:
    """Corpus-level rate of every resample, (N_RESAMPLES,)."""
    errors = np.array([u.n_errors for u in utterances])
    words = np.array([u.n_words for u in utterances])
    return errors[index].sum(1) / np.maximum(words[index].sum(1), 1)
