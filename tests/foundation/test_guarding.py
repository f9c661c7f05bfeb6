"""Objects that answer one thread at a time, and distributions that check nothing for a while."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

from ebmeta.foundation.guarding import Guarded, guarded, once, undisturbed, unvalidated

Checks = torch.distributions.Distribution


class Counter(Guarded):
    """Counts in two steps, between which another thread could step in."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.asked = 0, 0

    @guarded
    def add(self, more: int = 1) -> int:
        """Add something."""
        seen = self.count
        threading.Event().wait(0.001)
        self.count = seen + more
        return self.count

    @once
    def first(self) -> int:
        """Worked out once."""
        self.asked += 1
        return self.add()


def in_threads(work, number: int = 8) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_wait_for_each_other():
    counter = Counter()
    in_threads(lambda: counter.add(more=2))
    assert counter.count == 16
    in_threads(lambda: counter.first)
    assert (counter.asked, counter.first, counter.count) == (1, 17, 17)
    assert Counter.add.__doc__ == "Add something."
    assert Counter.first.__doc__ == "Worked out once."
    with pytest.raises(AttributeError, match="^first: expected to be read, got 3"):
        counter.first = 3


def test_copies_have_locks_of_their_own():
    counter = Counter()
    counter.add()
    for other in (copy.deepcopy(counter), pickle.loads(pickle.dumps(counter))):
        assert (other.count, other.add()) == (1, 2)
        assert other._lock is not counter._lock


def test_the_last_thread_out_restores_the_checks():
    """Threads leave in the order in which they came, which restores the wrong ones where each keeps its own."""
    before, inside = Checks._validate_args, []
    came, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    def work(index: int) -> None:
        with unvalidated():
            came[index].set()
            leave[index].wait()
            inside.append(Checks._validate_args)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for i in range(2):
        threads[i].start()
        came[i].wait()
    for i in range(2):
        leave[i].set()
        threads[i].join()
    assert inside == [False, False]
    assert Checks._validate_args == before
    with unvalidated():
        assert Checks._validate_args is False
    assert Checks._validate_args == before


def test_the_rounding_of_a_caller_is_left_and_taken_up_again():
    one = torch.full((1, 1), 1.001)
    kinds = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kinds.append((one @ one).dtype)
        with undisturbed(), undisturbed():
            kinds.append((one @ one).dtype)
        kinds.append((one @ one).dtype)
    assert kinds == [torch.bfloat16, torch.float32, torch.bfloat16]
