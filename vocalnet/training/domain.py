"""nano's question domain: what is asked, what is answered, and which combinations are held out.

A question is (frame, template, slot values). The frame is a polite wrapper ("Can you tell me ..."), so the domain is
combinatorial: a held-out question is a combination that is trained in no voice, while its fact (a capital, an opposite)
is trained in other wordings. The split is a hash of the combination; it never depends on how many items are drawn.

"core" was the domain of nano v0; "full", nano's and its held-out set's, adds clock, spelling, definitions, follow-ups.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

from vocalnet.training import further_topics
from vocalnet.training import vocabulary as v
from vocalnet.training.questions import NEVER_HELDOUT, Question, framed, make, sentence

REFUSAL_KEY = "i only know"

PLUS = (
    "what is {a} plus {b}",
    "how much is {a} plus {b}",
    "what is the sum of {a} and {b}",
    "!add {a} and {b}",
    "!calculate {a} plus {b}",
    "what do you get if you add {a} and {b}",
)
MINUS = (
    "what is {a} minus {b}",
    "how much is {a} minus {b}",
    "what is left if you take {b} from {a}",
    "!subtract {b} from {a}",
    "!calculate {a} minus {b}",
)
TIMES = (
    "what is {a} times {b}",
    "how much is {a} times {b}",
    "what is {a} multiplied by {b}",
    "!multiply {a} by {b}",
    "!calculate {a} times {b}",
)
RESULT = ("the answer is {key}.", "that is {key}.", "it is {key}.")


def arithmetic() -> Iterator[Question]:
    """Sums and differences up to 20, products up to 12 x 12."""
    for a, b in itertools.product(range(21), repeat=2):
        w = {"a": v.number(a), "b": v.number(b)}
        yield from make("arithmetic", "numbers", PLUS, RESULT, v.number(a + b), **w)
        if a >= b:
            yield from make("arithmetic", "numbers", MINUS, RESULT, v.number(a - b), **w)
        if a <= 12 and b <= 12:
            yield from make("arithmetic", "numbers", TIMES, RESULT, v.number(a * b), **w)


def calendar() -> Iterator[Question]:
    """Days and months after and before each other, lengths of months, ordinals."""
    for names, what in ((v.DAYS, "day"), (v.MONTHS, "month")):
        n = len(names)
        for i, name in enumerate(names):
            after = (
                f"which {what} comes after {{x}}",
                f"what {what} is after {{x}}",
                f"what {what} follows {{x}}",
                f"!name the {what} after {{x}}",
            )
            before = (
                f"which {what} comes before {{x}}",
                f"what {what} is before {{x}}",
                f"!name the {what} before {{x}}",
            )
            yield from make(
                "calendar", what + "s", after, ("it is {key}.", "that is {key}."), names[(i + 1) % n], x=name
            )
            yield from make(
                "calendar", what + "s", before, ("it is {key}.", "that is {key}."), names[(i - 1) % n], x=name
            )
    for i, day in enumerate(v.DAYS):
        tomorrow = ("if today is {x}, what day is tomorrow", "today is {x}, what day is it tomorrow")
        yesterday = ("if today is {x}, what day was yesterday", "today is {x}, what day was it yesterday")
        yield from make("calendar", "days", tomorrow, ("tomorrow is {key}.",), v.DAYS[(i + 1) % 7], x=day)
        yield from make("calendar", "days", yesterday, ("yesterday was {key}.",), v.DAYS[(i - 1) % 7], x=day)
    for i, (month, days) in enumerate(zip(v.MONTHS, v.MONTH_DAYS, strict=True)):
        length = ("how many days does {x} have", "how many days are in {x}", "how many days are there in {x}")
        yield from make("calendar", "numbers", length, ("it has {key} days.",), v.number(days), x=month)
        nth = ("what is the {x} month of the year", "which month is the {x} month", "!name the {x} month of the year")
        yield from make("calendar", "months", nth, ("it is {key}.", "that is {key}."), month, x=v.ORDINALS[i])


def capitals() -> Iterator[Question]:
    """Capitals of countries, both directions."""
    city_of = (
        "what is the capital of {x}",
        "which city is the capital of {x}",
        "what is the capital city of {x}",
        "!name the capital of {x}",
        "!tell me the capital of {x}",
    )
    country_of = (
        "{x} is the capital of which country",
        "which country has the capital {x}",
        "what country has {x} as its capital",
        "!name the country whose capital is {x}",
    )
    for country, city in v.CAPITALS.items():
        yield from make("capitals", "cities", city_of, ("the capital is {key}.", "it is {key}."), city, x=country)
        yield from make("capitals", "countries", country_of, ("that is {key}.", "it is {key}."), country, x=city)


def opposites() -> Iterator[Question]:
    """Opposites, both directions."""
    wordings = (
        "what is the opposite of {x}",
        "what is the opposite word of {x}",
        "which word is the opposite of {x}",
        "!tell me the opposite of {x}",
        "!name the opposite of {x}",
        "what word means the opposite of {x}",
    )
    for pair in v.OPPOSITES:
        for x, key in (pair, pair[::-1]):
            yield from make("opposites", "opposites", wordings, ("the opposite is {key}.", "it is {key}."), key, x=x)


def plurals() -> Iterator[Question]:
    """Regular and irregular plurals."""
    wordings = (
        "what is the plural of {x}",
        "what is the plural form of {x}",
        "!tell me the plural of {x}",
        "!name the plural of {x}",
        "how do you say more than one {x}",
    )
    for x, key in v.PLURALS.items():
        yield from make("plurals", "plurals", wordings, ("the plural is {key}.", "it is {key}."), key, x=x)


def counting() -> Iterator[Question]:
    """Counting up and down between two numbers, three to seven steps."""
    wordings = ("!count from {a} to {b}", "!count for me from {a} to {b}")
    for a, b in itertools.product(range(21), repeat=2):
        if 2 <= abs(a - b) <= 6:
            sequence = [v.number(i) for i in (range(a, b + 1) if a < b else range(a, b - 1, -1))]
            slots = {"a": v.number(a), "b": v.number(b), "listed": ", ".join(sequence)}
            yield from make("counting", "", wordings, ("{listed}.",), " ".join(sequence), **slots)


def comparison() -> Iterator[Question]:
    """Which of two numbers is larger or smaller."""
    for a, b in itertools.permutations(range(21), 2):
        w = {"a": v.number(a), "b": v.number(b)}
        larger = ("which is larger, {a} or {b}", "which number is bigger, {a} or {b}", "what is more, {a} or {b}")
        smaller = ("which is smaller, {a} or {b}", "which number is smaller, {a} or {b}", "what is less, {a} or {b}")
        yield from make(
            "comparison",
            "numbers",
            larger,
            ("{key} is larger.", "{key} is bigger.", "{key} is more."),
            v.number(max(a, b)),
            **w,
        )
        yield from make(
            "comparison",
            "numbers",
            smaller,
            ("{key} is smaller.", "{key} is smaller.", "{key} is less."),
            v.number(min(a, b)),
            **w,
        )


def units() -> Iterator[Question]:
    """How many of one unit are in another."""
    wordings = (
        "how many {small} are in {big}",
        "how many {small} are there in {big}",
        "how many {small} does {big} have",
    )
    for small, one, many, count in v.UNITS:
        for n in range(1, 1 + (10 if count <= 12 else 1)):
            big = one if n == 1 else f"{v.number(n)} {many}"
            yield from make(
                "units",
                "numbers",
                wordings,
                ("the answer is {key}.", "that is {key}."),
                v.number(n * count),
                small=small,
                big=big,
            )


def greetings() -> Iterator[Question]:
    """Small talk, and names to be greeted by."""
    for wordings, answer, key in v.SMALL_TALK:
        for wording in wordings:
            for frame in (
                "{q}.",
                "{q}, nano.",
                "{q}, my friend.",
                "oh, {q}.",
                "well, {q}.",
                "okay, {q}.",
                "{q}, computer.",
            ):
                yield Question("greetings", sentence(frame.format(q=wording)), answer, key, "small_talk")
    for name in v.NAMES:
        for frame in (
            "my name is {x}.",
            "hello, my name is {x}.",
            "hi, I am {x}.",
            "hello, I am {x}.",
            "I am called {x}.",
            "good day, I am {x}.",
        ):
            yield Question(
                "greetings", sentence(frame.format(x=name)), f"Nice to meet you, {name}.", name.lower(), "names"
            )


def identity() -> Iterator[Question]:
    """Who nano is."""
    for wordings, answer, key in v.IDENTITY:
        for wording in wordings:
            for text in framed(wording):
                yield Question("identity", text, answer, key, "identity")


def refusal() -> Iterator[Question]:
    """Questions of other topics, politely declined."""
    for text in v.other_topics():
        yield Question("refusal", sentence(text), v.REFUSAL, REFUSAL_KEY, "")


REPEAT_FRAMES = (
    "repeat after me: {x}.",
    "please repeat after me: {x}.",
    "say {x}.",
    "please say {x}.",
    "repeat: {x}.",
    "can you say {x}?",
)


def repeat(rng: random.Random) -> Question:
    """Returns one random "repeat after me" of one to four common words (the only topic that is drawn, not listed)."""
    words = " ".join(rng.sample(v.COMMON_WORDS, rng.choice((1, 2, 2, 3, 3, 4))))
    return Question("repeat", sentence(rng.choice(REPEAT_FRAMES).format(x=words)), sentence(words) + ".", words, "")


# The words that questions differ in; `drill` strings them together.
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *(word for pair in v.CAPITALS.items() for word in pair),
            *(word for pair in v.OPPOSITES for word in pair),
            *(word for pair in v.PLURALS.items() for word in pair),
            *(word for unit in v.UNITS for word in unit[:3]),
            *(word for meaning in v.DEFINITIONS.items() for word in meaning),
            *further_topics.SPANS,
            *(*v.NAMES, *v.DAYS, *v.MONTHS, *v.ORDINALS, *v.COMMON_WORDS),
            *(v.number(n) for n in (*range(21), 30, 40, 50, 60, 70, 80, 90)),
        ]
    )
)
LISTED: dict[str, Callable[[], Iterator[Question]]] = {
    "arithmetic": arithmetic,
    "calendar": calendar,
    "capitals": capitals,
    "opposites": opposites,
    "plurals": plurals,
    "counting": counting,
    "comparison": comparison,
    "units": units,
    "greetings": greetings,
    "identity": identity,
    "refusal": refusal,
    "clock": further_topics.clock,
    "spelling": further_topics.spelling,
    "definitions": further_topics.definitions,
}
GENERATED: dict[str, Callable[[random.Random], Question]] = {
    "repeat": repeat,
    "follow_up": further_topics.follow_up,
}
# Shares of a drawn set by domain; the listed topics are sampled, the others made up.
SHARES = {
    "core": {
        "arithmetic": 0.18,
        "calendar": 0.11,
        "capitals": 0.11,
        "opposites": 0.09,
        "plurals": 0.06,
        "counting": 0.05,
        "comparison": 0.06,
        "units": 0.05,
        "greetings": 0.05,
        "identity": 0.04,
        "refusal": 0.08,
        "repeat": 0.12,
    },
    "full": {
        "arithmetic": 0.15,
        "calendar": 0.09,
        "clock": 0.06,
        "capitals": 0.09,
        "opposites": 0.07,
        "plurals": 0.05,
        "spelling": 0.06,
        "counting": 0.04,
        "comparison": 0.04,
        "units": 0.04,
        "definitions": 0.06,
        "greetings": 0.04,
        "identity": 0.03,
        "refusal": 0.08,
        "repeat": 0.10,
        "follow_up": 0.06,
    },
    "words": {  # what one misheard word spoils, for the practice of hearing
        "repeat": 0.40,
        "spelling": 0.15,
        "definitions": 0.10,
        "opposites": 0.08,
        "arithmetic": 0.06,
        "capitals": 0.05,
        "calendar": 0.04,
        "clock": 0.04,
        "counting": 0.04,
        "comparison": 0.04,
        "greetings": 0.04,
    },
}


def shares(domain: str, split: str, is_single: bool) -> dict[str, float]:
    """Returns the shares of a draw by topic, before they are scaled to one; arguments and errors as for `draw`."""
    if domain not in SHARES:
        raise ValueError(f"There is no domain {domain!r}. Available: {', '.join(SHARES)}")
    dropped = (NEVER_HELDOUT if split != "train" else frozenset()) | ({"follow_up"} if is_single else frozenset())
    return {topic: share for topic, share in SHARES[domain].items() if topic not in dropped}


def draw(split: str, n: int, seed: int, domain: str = "core", is_single: bool = True) -> list[Question]:
    """Returns `n` questions of one split in the proportions of SHARES, without repetition while a topic lasts.

    Args:
        split: "train", "dev" or "heldout".
        n: how many.
        seed: of the draw.
        domain: a key of SHARES.
        is_single: leave out what follows up an earlier question, which a clip alone does not ask.

    Raises:
        ValueError: there is no such domain.
    """
    rng = random.Random(f"{seed}-{split}")
    parts = shares(domain, split, is_single)
    drawn: list[Question] = []
    for topic, share in parts.items():
        count = round(n * share / sum(parts.values()))
        if topic in GENERATED:
            made = (GENERATED[topic](rng) for _ in itertools.count())
            drawn += itertools.islice((q for q in made if q.split == split), count)
            continue
        pool = [q for q in LISTED[topic]() if q.split == split]
        rng.shuffle(pool)
        drawn += itertools.islice(itertools.cycle(pool), count)
    rng.shuffle(drawn)
    return drawn


def drill(rng: random.Random) -> str:
    """Returns three to six random words of the domain: what a recogniser hears too seldom in questions."""
    return sentence(" ".join(rng.sample(WORDS, rng.randint(3, 6)))) + "."


def candidates(name: str) -> list[str]:
    """Returns the answers that compete in one row of CANDIDATES (normalised text); none for an open topic."""
    return v.CANDIDATES.get(name, [])
