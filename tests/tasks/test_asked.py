"""Sources draw what they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from builders import real_tasks, regressor

import ebmeta
from ebmeta.tasks import TaskSource
from ebmeta.tasks.asked import same_tasks
from ebmeta.tasks.source import as_source


class Stubborn(TaskSource):
    """Draws something else than it is asked for."""

    def __init__(self, drawn):
        self.drawn = drawn

    def sample(self, num_tasks, index=0):
        return self.drawn(num_tasks, index)


class Foreign:
    """The same, known by its method alone."""

    def __init__(self, drawn):
        self.drawn = drawn

    def sample(self, num_tasks, index=0):
        return self.drawn(num_tasks, index)


def tasks(num_tasks, index):
    return real_tasks((3,) * num_tasks, (4,) * num_tasks, seed=index)


@pytest.mark.parametrize("kind", [Stubborn, Foreign])
def test_as_many_tasks_as_asked_for(kind):
    """A source with tasks of its own number was evaluated as if there were as many as asked for."""
    for drawn, wanted in (
        (lambda number, index: tasks(2, index), "5 tasks, got 2"),
        (lambda number, index: (1, 2), "a TaskBatch, got tuple"),
    ):
        with pytest.raises(ValueError, match=f"sample of {kind.__name__}: expected {wanted}"):
            ebmeta.evaluate(regressor(), kind(drawn), num_tasks=5)


@pytest.mark.parametrize("kind", [Stubborn, Foreign])
def test_training_takes_the_tasks_that_there_are(kind):
    """All groups at every iteration, however many are asked for: a finite set, whose loss is that of all."""
    found = ebmeta.fit(
        regressor(), kind(lambda number, index: tasks(3, 0)), 2, 16, objective="evidence", device="cpu", progress=False
    )
    assert np.isfinite(found.history["loss"].values).all()


@pytest.mark.parametrize("kind", [Stubborn, Foreign])
def test_other_tasks_for_another_index(kind):
    """Copies of the same tasks were scored as so many more."""
    fixed = kind(lambda number, index: tasks(number, 0))
    assert len(as_source(fixed).batches(64)) == 1
    with pytest.raises(ValueError, match=f"other tasks for another index from {kind.__name__}, got the same for 0 and"):
        ebmeta.evaluate(regressor(), fixed, num_tasks=70)
    assert [len(batch) for batch in as_source(kind(tasks)).batches(70)] == [64, 6]


def test_tasks_are_the_same_by_all_their_rows():
    batch, other = tasks(4, 0), tasks(4, 1)
    assert same_tasks(batch, batch[:2])
    assert same_tasks(batch, batch.unlabelled())
    assert not same_tasks(batch, batch.with_rows(query=other.query))
    assert not same_tasks(batch, batch.with_rows(support=other.support))
