"""The same work on many files, in several processes, results in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")
Done = TypeVar("Done")
CHUNK = 16  # jobs handed to a process at a time


def each(work: Callable[[Job], Done], jobs: Sequence[Job], n_workers: int | None, label: str) -> Iterator[Done]:
    """Yields `work(job)` for every job, with a progress bar on stderr.

    Args:
        work: a function of a module, or a `functools.partial` of one: other processes must find it too.
        n_workers: processes of one thread each; 1: this process does it; None: one a core.

    Raises:
        ValueError: a process was killed.
    """
    n_workers = min(n_workers or os.cpu_count() or 1, max(1, len(jobs) // CHUNK))
    bar = tqdm(total=len(jobs), desc=label, disable=None)
    with bar:
        for result in map(work, jobs) if n_workers == 1 else _in_processes(work, jobs, n_workers):
            bar.update()
            yield result


def _in_processes(work: Callable[[Job], Done], jobs: Sequence[Job], n_workers: int) -> Iterator[Done]:
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks
    pool = ProcessPoolExecutor(n_workers, context, initializer=_start)
    try:
        yield from pool.map(work, jobs, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise ValueError("A process ended early: is memory short? Run it again with --workers 1.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """Prepares a process: one thread for torch, if it comes to that, and an end when its parent is gone or killed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
