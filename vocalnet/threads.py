"""How many threads share an operation: a small one is over before a second thread has woken up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

ONE_THREAD_UP_TO = 1 << 19  # weights of the largest layer; measured over few rows, torch 2.13, two cores of an AMD EPYC
_lock = threading.Lock()
_usual = {"n_threads": 0, "n_inside": 0}  # the number to return to, and the threads that will


class _Here(threading.local):
    depth = 0  # how often the calling thread is inside
    is_known = False  # it was inside before: the number that torch says is its own


_here = _Here()


@contextmanager
def few_threads(n_weights: int) -> Iterator[None]:
    """Lets what is called run on one thread if its largest layer has so few weights that a second one only costs.

    torch keeps the number per thread, but a new thread begins with the latest that any thread has set, which is one
    while another is inside. So what to return to is remembered for all: such a thread has one until it was inside, too.
    """
    if n_weights > ONE_THREAD_UP_TO:
        yield
        return
    if _here.depth == 0:
        with _lock:
            n_threads = torch.get_num_threads()
            is_own = _here.is_known or n_threads > 1 or not _usual["n_threads"]
            if is_own and not _usual["n_inside"]:
                _usual["n_threads"] = n_threads
            _usual["n_inside"] += 1
            torch.set_num_threads(1)
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1
        if _here.depth == 0:
            with _lock:
                _usual["n_inside"] -= 1
                torch.set_num_threads(_usual["n_threads"])
            _here.is_known = True
