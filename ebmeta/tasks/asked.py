"""Checks of the tasks that a source draws: as many as were asked for, and others for another index."""

from __future__ import annotations

import torch

from ebmeta.foundation.checks import check
from ebmeta.tasks.batch import TaskBatch

__all__ = ["as_many_as_asked", "same_tasks"]


def as_many_as_asked(drawn: object, num_tasks: int, name: str) -> TaskBatch:
    """Return the tasks that a source has drawn for an evaluation.

    Raises:
        ValueError: if they are others than as many tasks as were asked for, which would count as so many.
    """
    batch: TaskBatch = check(f"sample of {name}", drawn, TaskBatch)
    if len(batch) != num_tasks:
        raise ValueError(f"sample of {name}: expected {num_tasks} tasks, got {len(batch)}")
    return batch


def same_tasks(first: TaskBatch, second: TaskBatch) -> bool:
    """Whether the first tasks of one batch, as many as there are in another, are the tasks of that one."""
    pairs = []
    for a, b in ((first.support, second.support), (first.query, second.query)):
        pairs.append((a.x, b.x))
        if a.y is not None and b.y is not None:
            pairs.append((a.y, b.y))
    return all(torch.equal(a[: len(second)], b) for a, b in pairs)
