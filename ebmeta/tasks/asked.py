"""Checks of the tasks that a source draws: as many as were asked for, and others for another index."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ebmeta.foundation.checks import check
from ebmeta.tasks.batch import TaskBatch

__all__ = ["as_asked", "same_tasks"]


def as_asked(sample: Callable[..., TaskBatch]) -> Callable[..., TaskBatch]:
    """Return a method `sample` that raises `ValueError` where it has not drawn as many tasks as were asked for."""

    @functools.wraps(sample)
    def asked(self: Any, num_tasks: int, *args: Any, **kwargs: Any) -> TaskBatch:
        batch: TaskBatch = check(f"sample of {self.name}", sample(self, num_tasks, *args, **kwargs), TaskBatch)
        if len(batch) != num_tasks:
            raise ValueError(f"sample of {self.name}: expected {num_tasks} tasks, got {len(batch)}")
        return batch

    return asked


def same_tasks(first: TaskBatch, second: TaskBatch) -> bool:
    """Whether the first tasks of one batch, as many as there are in another, are the tasks of that one."""
    pairs = []
    for a, b in ((first.support, second.support), (first.query, second.query)):
        pairs.append((a.x, b.x))
        if a.y is not None and b.y is not None:
            pairs.append((a.y, b.y))
    return all(torch.equal(a[: len(second)], b) for a, b in pairs)
