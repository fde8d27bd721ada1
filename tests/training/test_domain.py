"""nano's questions: splits that share no wording, right answers, and shares."""

from collections import Counter

import pytest

from vocalnet.evaluation import is_right
from vocalnet.training.domain import NEVER_HELDOUT, SHARES, TOPICS, Question, candidates, draw
from vocalnet.training.vocabulary import number


@pytest.fixture(scope="module")
def listed() -> dict[str, list[Question]]:
    return {topic: list(make()) for topic, make in TOPICS.items()}


def test_no_wording_is_asked_twice_with_two_answers(listed):
    answers: dict[str, str] = {}
    for question in (q for questions in listed.values() for q in questions):
        assert answers.setdefault(question.text.lower(), question.answer) == question.answer


def test_every_answer_is_right_and_none_is_right_for_another_key(listed):
    for topic, questions in listed.items():
        sample = questions[:: max(1, len(questions) // 150)]
        assert all(is_right(q.answer, q.key, candidates(q.candidates)) for q in sample), topic
        wrong = [
            (q, r) for q in sample for r in sample if q.key != r.key and q.candidates == r.candidates and q.candidates
        ]
        assert not any(is_right(r.answer, q.key, candidates(q.candidates)) for q, r in wrong[:500]), topic


def test_splits_share_no_wording_and_every_heldout_fact_is_trained(listed):
    facts = {topic: {q.key for q in questions if q.split == "train"} for topic, questions in listed.items()}
    for split in ("dev", "heldout"):
        drawn = draw(split, 400, seed=5)
        assert {q.split for q in drawn} == {split}
        assert all(q.key in facts[q.topic] for q in drawn if q.topic not in ("repeat", "counting", "arithmetic"))
    assert not {q.text for q in draw("train", 3000, 5)} & {q.text for q in draw("heldout", 400, 5)}


def test_the_heldout_set_has_eight_topics_and_none_over_a_quarter():
    counts = Counter(q.topic for q in draw("heldout", 330, seed=7))
    assert len(counts) >= 8
    assert max(counts.values()) <= 330 / 4
    assert sum(counts.values()) >= 300
    assert set(counts) == set(SHARES) - NEVER_HELDOUT


def test_draws_are_seeded():
    assert draw("train", 200, 1) == draw("train", 200, 1) != draw("train", 200, 2)


@pytest.mark.parametrize(
    ("n", "words"), [(0, "zero"), (44, "forty four"), (144, "one hundred forty four"), (1000, "one thousand")]
)
def test_numbers_in_words(n, words):
    assert number(n) == words
