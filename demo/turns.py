"""Whose turn it is with the device, and what is under way.

One thing at a time is computed: jobs take turns, an event each, so that several answers sound while they are made. A
job that measures has the device to itself until it ends.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any

from vocalnet import Session

CLOSING = "The server is shutting down. Ask again in a minute."


class Turns:
    """A lock that is given in the order of asking, and a count of the jobs that use it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_asked = self._n_served = 0
        self.n_jobs = 0
        self.is_closing = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for all who asked before, and holds the device meanwhile."""
        with self._changed:
            number = self._n_asked
            self._n_asked += 1
            self._changed.wait_for(lambda: self._n_served == number)
        try:
            yield
        finally:
            with self._changed:
                self._n_served += 1
                self._changed.notify_all()

    @contextmanager
    def job(self) -> Iterator[None]:
        """Counts a job from its start until all of it is closed."""
        with self._changed:
            self.n_jobs += 1
        try:
            yield
        finally:
            with self._changed:
                self.n_jobs -= 1
                self._changed.notify_all()

    def close(self, patience_s: float) -> bool:
        """Tells every job to end at its next event; returns whether all did within `patience_s`."""
        self.is_closing = True
        with self._changed:
            return self._changed.wait_for(lambda: self.n_jobs == 0, patience_s)


TURNS = Turns()  # of this process: it has one model


def live() -> dict[str, int]:
    """Returns how many jobs run, and how many sessions and answers of a model are in memory, let go of or not."""
    gc.collect()
    objects: list[Any] = gc.get_objects()
    answers = (thing for thing in objects if type(thing) is GeneratorType and thing.gi_code.co_name == "_stream")
    return {
        "jobs": TURNS.n_jobs,
        "sessions": sum(type(thing) is Session for thing in objects),
        "answers": sum(answer.gi_frame is not None for answer in answers),
    }
