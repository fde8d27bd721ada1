"""Topics of the full domain that nano v0 lacked: clock, spelling, definitions, questions that follow up others."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from vocalnet.training import vocabulary as v
from vocalnet.training.questions import Question, make, sentence

SPANS = {"a quarter of an hour": 15, "half an hour": 30, "one hour": 60, "two hours": 120, "three hours": 180}


def clock() -> Iterator[Question]:
    """What time it is some quarters of an hour after or before another."""
    after = ("what time is it {n} after {x}", "what time is {n} after {x}", "!tell me the time {n} after {x}")
    before = ("what time is it {n} before {x}", "what time is {n} before {x}", "!tell me the time {n} before {x}")
    answers = ("it is {key}.", "that is {key}.")
    for minutes, (span, size) in itertools.product(range(0, v.HALF_DAY, 15), SPANS.items()):
        slots = {"n": span, "x": v.clock_time(minutes)}
        yield from make("clock", "times", after, answers, v.clock_time(minutes + size), **slots)
        yield from make("clock", "times", before, answers, v.clock_time(minutes - size), **slots)


def spelling() -> Iterator[Question]:
    """How common words are spelled, letter by letter."""
    wordings = (
        "how do you spell {x}",
        "how is {x} spelled",
        "!spell {x}",
        "!spell the word {x}",
        "what are the letters of {x}",
    )
    for x in v.COMMON_WORDS:
        yield from make("spelling", "", wordings, ("{listed}.",), " ".join(x), x=x, listed=", ".join(x.upper()))


def definitions() -> Iterator[Question]:
    """What a word means, and which word has a meaning."""
    meaning = ("what is {x}", "!explain what {x} is", "!define {x}", "what do we mean by {x}")
    word = ("what do you call {x}", "what is the word for {x}", "!name the word for {x}")
    for x, key in v.DEFINITIONS.items():
        yield from make("definitions", "definitions", meaning, (f"{x} is {{key}}.",), key, x=x)
        yield from make("definitions", "defined", word, ("that is {key}.",), x, x=key)


def follow_up(rng: random.Random) -> Question:
    """Returns a random question that only the one before it makes sense of."""
    return rng.choice((_go_on_calculating, _go_on_naming, _ask_of_another))(rng)


def _go_on_calculating(rng: random.Random) -> Question:
    """Goes on from the result of a sum."""
    a, b = rng.randint(0, 12), rng.randint(0, 8)
    first = (f"What is {v.number(a)} plus {v.number(b)}?", f"The answer is {v.number(a + b)}.")
    word, results = rng.choice((("plus", [a + b + c for c in range(21)]), ("minus", list(range(a + b, -1, -1)[:21]))))
    c = rng.randrange(len(results))
    text = rng.choice(("and {w} {c}?", "now {w} {c}.", "and what is that {w} {c}?", "and then {w} {c}?"))
    key = v.number(results[c])
    answer = rng.choice(("The answer is {key}.", "That is {key}.")).format(key=key)
    return Question("follow_up", sentence(text.format(w=word, c=v.number(c))), answer, key, "numbers", (first,))


def _go_on_naming(rng: random.Random) -> Question:
    """Asks for the day or month after the one that was the answer."""
    names, what = rng.choice(((v.DAYS, "day"), (v.MONTHS, "month")))
    i, way = rng.randrange(len(names)), rng.choice((1, -1))
    one, two = names[(i + way) % len(names)], names[(i + 2 * way) % len(names)]
    word = "after" if way == 1 else "before"
    first = (f"Which {what} comes {word} {names[i]}?", f"It is {one}.")
    text = rng.choice(("And {w} that?", "And which one is {w} that?", "And what comes {w} that?")).format(w=word)
    return Question("follow_up", text, f"It is {two}.", two, what + "s", (first,))


def _ask_of_another(rng: random.Random) -> Question:
    """Asks of another thing what was asked of the one before."""
    opposites = {x: key for pair in v.OPPOSITES for x, key in (pair, pair[::-1])}
    what, facts, candidates = rng.choice(
        (("capital", v.CAPITALS, "cities"), ("opposite", opposites, "opposites"), ("plural", v.PLURALS, "plurals"))
    )
    x, y = rng.sample(sorted(facts), 2)
    first = (f"What is the {what} of {x}?", f"The {what} is {facts[x]}.")
    text = rng.choice(("And of {y}?", "And the {w} of {y}?", "And what about {y}?")).format(y=y, w=what)
    return Question("follow_up", text, f"The {what} is {facts[y]}.", facts[y], candidates, (first,))
