"""The number of threads comes back, whoever asks in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from vocalnet.threads import ONE_THREAD_UP_TO, few_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_a_thread(work) -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(work()))
    thread.start()
    thread.join()
    return seen[0]


def test_small_layers_run_on_one_thread_and_what_follows_on_all():
    with few_threads(ONE_THREAD_UP_TO):
        assert torch.get_num_threads() == 1
        with few_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_large_layers_keep_all_threads():
    with few_threads(ONE_THREAD_UP_TO + 1):
        assert torch.get_num_threads() == 2


def test_a_thread_that_begins_meanwhile_goes_back_to_all_threads():
    def work() -> int:
        torch.zeros(1)  # takes the latest number of threads that anybody has set
        with few_threads(1):
            pass
        return torch.get_num_threads()

    with few_threads(1):
        assert in_a_thread(work) == 2
        assert torch.get_num_threads() == 1
    assert in_a_thread(torch.get_num_threads) == 2


def test_a_thread_that_began_meanwhile_and_comes_later_goes_back_to_all_threads():
    has_begun, may_go_on, seen = threading.Event(), threading.Event(), []

    def work() -> None:
        torch.zeros(1)
        has_begun.set()
        may_go_on.wait()
        with few_threads(1):
            pass
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    with few_threads(1):
        thread.start()
        has_begun.wait()
    may_go_on.set()
    thread.join()
    assert seen == [2]
    assert in_a_thread(torch.get_num_threads) == 2


def test_one_thread_by_choice_stays_one():
    with few_threads(1):
        pass
    torch.set_num_threads(1)
    with few_threads(1):
        pass
    assert torch.get_num_threads() == 1


def test_an_error_inside_leaves_all_threads():
    with pytest.raises(KeyError), few_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2
