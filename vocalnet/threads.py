"""How many threads share an operation: a small one is over before a second thread has woken up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

ONE_THREAD_UP_TO = 1 << 19  # weights of the largest layer; measured with torch 2.13 on two cores of an AMD EPYC


class _Usual:
    """The number of threads to return to, and how many callers will."""

    lock = threading.Lock()
    n_callers = 0
    n_threads = 0


class _Here(threading.local):
    depth = 0  # how often the calling thread is inside


_here = _Here()


@contextmanager
def few_threads(n_weights: int) -> Iterator[None]:
    """Lets what is called run on one thread if its largest layer has so few weights that a second one only costs.

    torch keeps the number per thread, but a new thread begins with the latest that any thread has set. So what to
    return to is remembered for all callers together: else a thread that began meanwhile would stay at one.
    """
    if n_weights > ONE_THREAD_UP_TO:
        yield
        return
    if _here.depth == 0:
        with _Usual.lock:
            if _Usual.n_callers == 0:
                _Usual.n_threads = torch.get_num_threads()
            _Usual.n_callers += 1
            torch.set_num_threads(1)
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1
        if _here.depth == 0:
            with _Usual.lock:
                _Usual.n_callers -= 1
                torch.set_num_threads(_Usual.n_threads)
