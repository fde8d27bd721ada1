"""nano's questions: splits that share no wording, right answers, and shares."""

import hashlib
import random
from collections import Counter

import pytest

from vocalnet.evaluation import is_right
from vocalnet.llm import user_content
from vocalnet.training.domain import LISTED, SHARES, candidates, draw
from vocalnet.training.further_topics import follow_up
from vocalnet.training.questions import NEVER_HELDOUT, Question
from vocalnet.training.stage_text import encode_questions, prompt_ids
from vocalnet.training.vocabulary import DAYS, MONTHS, clock_time, number


@pytest.fixture(scope="module")
def listed() -> dict[str, list[Question]]:
    return {topic: list(make()) for topic, make in LISTED.items()}


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
    assert set(counts) == set(SHARES["core"]) - NEVER_HELDOUT


def test_the_core_domain_stays_what_nano_v0_was_measured_on():
    drawn = draw("heldout", 330, seed=7)
    lines = "\n".join(f"{q.topic}|{q.text}|{q.answer}|{q.key}" for q in drawn)
    assert hashlib.sha256(lines.encode()).hexdigest().startswith("4acb83109c0978ce")
    assert not any(q.history for q in drawn)


def test_the_full_domain_has_more_topics():
    heard = {q.topic for q in draw("heldout", 400, seed=7, domain="full")}
    assert heard - {q.topic for q in draw("heldout", 400, seed=7)} == {"clock", "spelling", "definitions"}
    read = Counter(q.topic for q in draw("train", 1000, 1, "full", is_single=False))
    assert set(read) == set(SHARES["full"])
    assert max(read.values()) <= 250
    with pytest.raises(ValueError, match=r"no domain 'all'\. Available: core, full"):
        draw("train", 10, 1, "all")


def _expected(question: Question) -> str:
    """Works out a follow-up's key another way than the generator does."""
    asked, said = question.history[0]
    value = said.rstrip(".").split(" is ")[1]
    words = question.text.rstrip("?.").split()
    if question.candidates == "numbers":
        numbers = {number(n): n for n in range(100)}
        operation = "plus" if "plus" in words else "minus"
        change = numbers[" ".join(words[words.index(operation) + 1 :])]
        return number(numbers[value] + (change if operation == "plus" else -change))
    if question.candidates in ("days", "months"):
        names = DAYS if question.candidates == "days" else MONTHS
        return names[(names.index(value) + (1 if "after" in words else -1)) % len(names)]
    what, thing = asked.split(" ")[3], question.text.rstrip("?").split("about " if "about" in words else "of ", 1)[1]
    topics = {"capital": "capitals", "opposite": "opposites", "plural": "plurals"}
    (key,) = {q.key for q in LISTED[topics[what]]() if q.text == f"What is the {what} of {thing}?"}
    return key


def test_follow_ups_are_answered_from_what_came_before():
    rng = random.Random(0)
    drawn = [follow_up(rng) for _ in range(200)]
    assert {q.split for q in drawn} == {"train", "dev", "heldout"}
    assert {q.candidates for q in drawn} == {"numbers", "days", "months", "cities", "opposites", "plurals"}
    assert all(is_right(q.answer, q.key, candidates(q.candidates)) for q in drawn)
    assert all(q.key == _expected(q) for q in drawn[:60])


def test_a_follow_up_is_read_after_the_question_before_it(tiny_model):
    tokenizer = tiny_model.tokenizer
    first = ("What is two plus two?", "It is four.")
    question = Question("follow_up", "And minus one?", "That is three.", "three", "numbers", (first,))
    text = tokenizer.decode(prompt_ids(tokenizer, question, user_content(), list))
    places = [text.index(part) for part in (first[0], first[1], question.text)]
    assert places == sorted(places)
    alone = Question("arithmetic", "What is two plus two?", "It is four.", "four", "numbers")
    for asked, n_users in ((question, 2), (alone, 1)):
        rows = encode_questions(tokenizer, [asked] * 20, seed=0)
        assert all(tokenizer.decode(ids).count("<|user|>") == n_users for ids in rows.ids)


@pytest.mark.parametrize(
    ("minutes", "time"),
    [
        (0, "twelve o'clock"),
        (60, "one o'clock"),
        (75, "quarter past one"),
        (705, "quarter to twelve"),
        (750, "half past twelve"),
    ],
)
def test_times_in_words(minutes, time):
    assert clock_time(minutes) == time


def test_draws_are_seeded():
    assert draw("train", 200, 1) == draw("train", 200, 1) != draw("train", 200, 2)


@pytest.mark.parametrize(
    ("n", "words"), [(0, "zero"), (44, "forty four"), (144, "one hundred forty four"), (1000, "one thousand")]
)
def test_numbers_in_words(n, words):
    assert number(n) == words
