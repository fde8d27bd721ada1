"""Who decides whether an answer is right or good: a language model behind any OpenAI-compatible URL, or exact match.

Source: the paper has Qwen-max score AlpacaEval from 1 to 10 and decide on the other sets. Its prompts are
not published; those here are our own, and stand in every results file with the judge's name and the date.
"""

from __future__ import annotations

import datetime
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from vocalnet.evaluation import is_right

RIGHT_PROMPT = (
    "You check the answers of a voice assistant.\n\nQuestion: {question}\nAccepted answers: {references}\n"
    "Answer of the assistant: {answer}\n\nDoes the assistant's answer state one of the accepted answers, in any "
    "wording, and nothing that contradicts it? Reply with a single digit: 1 for yes, 0 for no."
)
RATING_PROMPT = (
    "You rate the answers of a voice assistant.\n\nInstruction: {question}\nAnswer of the assistant: {answer}\n\n"
    "Rate how helpful, relevant, correct and suited to being spoken the answer is, from 1 (useless) to 10 (excellent). "
    "Reply with the number only."
)
RETRIED = (408, 409, 429, 500, 502, 503, 504)  # HTTP states that may pass


class Judge(Protocol):
    """Decides on answers in text."""

    def describe(self) -> dict[str, Any]:
        """Returns name, date and prompts, for the results."""
        ...

    def is_right(self, question: str, references: Sequence[str], answer: str) -> bool:
        """Says whether an answer holds one of the accepted ones."""
        ...

    def rating(self, question: str, answer: str) -> float | None:
        """Returns 1 to 10 for an answer to an open instruction; None if this judge cannot say."""
        ...


class ExactMatch:
    """Right is what holds an accepted answer as whole words, after Whisper's normalisation; this needs no network."""

    def describe(self) -> dict[str, Any]:
        """Returns its name and the date."""
        return {"name": "exact match", "date": _today()}

    def is_right(self, question: str, references: Sequence[str], answer: str) -> bool:
        """Says whether a normalised answer holds a normalised reference."""
        return any(is_right(answer, reference) for reference in references)

    def rating(self, question: str, answer: str) -> None:
        """Open instructions have no accepted answers to match."""
        return None


class ChatJudge:
    """A language model behind an OpenAI-compatible chat endpoint; see `Judge`.

    Args:
        url: up to and without "/chat/completions", such as http://localhost:8000/v1.
        model: the name by which the server knows it.
        key: sent as a bearer token to that server only.
        timeout_s: of one request.
        n_tries: how often a request is sent before the run stops; it can be resumed.
        wait: sleeps between tries.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        timeout_s: float = 120.0,
        n_tries: int = 4,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"The judge's URL {url!r} must begin with http:// or https://, as in http://localhost/v1.")
        self.url, self.model, self.key = url.rstrip("/"), model, key
        self.timeout_s, self.n_tries, self.wait = timeout_s, n_tries, wait
        self.served: set[str] = set()  # names by which the server called the model in its replies

    def describe(self) -> dict[str, Any]:
        """Returns the model's name, what the server calls it, the date and the prompts."""
        prompts = {"right": RIGHT_PROMPT, "rating": RATING_PROMPT}
        return {"name": self.model, "served_as": sorted(self.served), "date": _today(), "prompts": prompts}

    def is_right(self, question: str, references: Sequence[str], answer: str) -> bool:
        """Asks for 0 or 1; an empty answer is wrong without asking.

        Raises:
            ValueError: no usable reply came.
        """
        if not answer.strip():
            return False
        accepted = "; ".join(references)
        return self._number(RIGHT_PROMPT.format(question=question, references=accepted, answer=answer), 0, 1) == 1

    def rating(self, question: str, answer: str) -> float:
        """Asks for 1 to 10; an empty answer gets the lowest without asking.

        Raises:
            ValueError: no usable reply came.
        """
        if not answer.strip():
            return 1.0
        return self._number(RATING_PROMPT.format(question=question, answer=answer), 1, 10)

    def _number(self, prompt: str, low: int, high: int) -> float:
        """Returns the first number of a reply, which must lie in [low, high]."""
        problem = ""
        for attempt in range(self.n_tries):
            if attempt:
                self.wait(2.0**attempt)
            try:
                reply = self._ask(prompt)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code not in RETRIED:
                    break
                continue
            except (OSError, ValueError, LookupError, TypeError) as error:  # no network; no JSON; no such fields
                problem = f"{type(error).__name__}: {error}"
                continue
            found = re.search(r"\d+(?:\.\d+)?", reply)
            if found and low <= float(found[0]) <= high:
                return float(found[0])
            problem = f"it replied {reply[:80]!r} where a number from {low} to {high} was asked for"
        raise ValueError(
            f"The judge {self.model} at {self.url} gave no verdict ({problem}). What is measured so far is kept: run "
            "the same command again."
        )

    def _ask(self, prompt: str) -> str:
        """Returns the text of one reply."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            reply = json.load(response)
        self.served.add(str(reply.get("model", self.model)))
        return str(reply["choices"][0]["message"]["content"])


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
