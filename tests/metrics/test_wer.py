"""Word error rates against counts made by hand."""

from __future__ import annotations

import pytest

from vocalnet.metrics import extras
from vocalnet.metrics.wer import (
    WordErrors,
    corpus_errors,
    difference,
    difference_interval,
    interval,
    normalise,
    rate,
    word_errors,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is twenty-five.", "the answer is 25"),
        ("It's Paris, isn't it?", "it is paris is not it"),
        ("  Hello,   WORLD! ", "hello world"),
        ("", ""),
        ("  ", ""),
        # ordinals: in words, in figures, of several words
        ("The first of May", "the 1st of may"),
        ("The 1st of May", "the 1st of may"),
        ("the twenty-first", "the 21st"),
        ("the fifty second", "the 52nd"),
        # hyphens part words, but join a number
        ("well-known co-operation", "well known co operation"),
        ("second-hand", "2nd hand"),
        ("two hundred and five", "205"),
        ("a - b", "a b"),
        # special tokens, tags and asides are no words
        ("<|im_start|>Hello<|eot_id|>", "hello"),
        ("Hello <speech> there<|endoftext|>", "hello there"),
        ("[noise] uh, hello (laughs)", "hello"),
        ("<|eot_id|>", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "The cat sat.", WordErrors(0, 0, 0, 3)),
        ("the cat sat", "the dog sat", WordErrors(1, 0, 0, 3)),
        ("the cat sat", "cat sat", WordErrors(0, 1, 0, 3)),
        ("the cat sat", "the big cat sat", WordErrors(0, 0, 1, 3)),
        ("the cat sat", "", WordErrors(0, 3, 0, 3)),
        ("the cat sat", "<|endoftext|>", WordErrors(0, 3, 0, 3)),
        ("", "", WordErrors(0, 0, 0, 0)),
        ("The cat sat.<|eot_id|>", "the cat sat", WordErrors(0, 0, 0, 3)),
        ("It is the twenty-first.", "it's the 21st", WordErrors(0, 0, 0, 4)),
        ("a well-known cat", "a well known cat", WordErrors(0, 0, 0, 4)),
        ("the first", "the second", WordErrors(1, 0, 0, 2)),
        ("", "noise here", WordErrors(0, 0, 2, 0)),
    ],
)
def test_word_errors(reference, hypothesis, expected):
    assert word_errors(reference, hypothesis) == expected


def test_corpus_level_rate_weighs_words_not_utterances():
    total = corpus_errors([WordErrors(1, 0, 0, 1), WordErrors(0, 0, 0, 9)])
    assert total == WordErrors(1, 0, 0, 10)
    assert total.wer == pytest.approx(0.1)


def test_interval_holds_the_rate_and_narrows_with_data():
    few = [WordErrors(substitutions=i % 5, n_words=7 + i) for i in range(10)]
    low, high = interval(few)
    assert low < corpus_errors(few).wer < high
    many_low, many_high = interval(few * 20)
    assert many_high - many_low < (high - low) / 2
    assert interval(few) == interval(few)
    assert interval(few, seed=1) != interval(few)


def test_paired_difference_is_exact_where_systems_differ_by_a_constant():
    baseline = [WordErrors(substitutions=i % 3, n_words=10) for i in range(30)]
    worse = [WordErrors(u.substitutions, insertions=1, n_words=10) for u in baseline]
    low, high = difference_interval(worse, baseline)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)
    with pytest.raises(ValueError, match="30 and 29"):
        difference_interval(worse, baseline[1:])


def test_rate_keeps_the_kinds_of_errors_apart():
    utterances = [WordErrors(1, 2, 0, 10), WordErrors(0, 0, 3, 30)]
    found = rate(utterances, seed=4)
    assert found["wer"] == pytest.approx(6 / 40)
    assert [found[name] for name in ("substitutions", "deletions", "insertions", "n_words")] == [1, 2, 3, 40]
    assert found["ci95"] == interval(utterances, seed=4)


def test_difference_is_paired_and_signed():
    baseline = [WordErrors(substitutions=i % 3, n_words=10) for i in range(30)]
    better = [WordErrors(deletions=u.n_errors // 2, n_words=10) for u in baseline]
    found = difference(better, baseline)
    assert found["wer"] == pytest.approx(corpus_errors(better).wer - corpus_errors(baseline).wer)
    low, high = found["ci95"]
    assert low < found["wer"] < high < 0
    # unpaired, the interval would have to cover both systems' spread
    assert high - low < interval(baseline)[1] - interval(baseline)[0]


def test_no_utterances_is_an_error():
    for measure in (interval, rate):
        with pytest.raises(ValueError, match="at least one"):
            measure([])


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match=r'no_such_package: pip install "vocalnet\[eval\]"'):
        extras.require("no_such_package")
