"""Rows of training tasks side by side, on which the parts of a model are measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ebmeta.tasks.batch import TaskBatch

__all__ = ["Measures", "TrainingRows"]

MANY_WAYS = 10**6  # more than the classes of any task


def _no_classes() -> tuple[Tensor, Tensor]:
    raise ValueError("profile: expected rows of training classes, got none")


def _no_features() -> Tensor:
    raise ValueError("rows: expected those that a head has measured, got none of its features")


@dataclass(frozen=True, eq=False)
class TrainingRows:
    r"""Rows of training tasks. Every part that is measured hands them on as the next one sees them.

    Args:
        x: inputs, shape `(N, ...)`.
        y: labels as real numbers, shape `(N,)`.
        cluster: number of each row's class in its task, which no other class and task has, shape `(N,)`.
        size: how much each row counts, shape `(N,)`; 1 where None.
        task_x: covariates of the tasks, shape `(T, G)`, where there are any.
        columns: names of the columns of inputs, for messages.
        covariates: names of the covariates, for messages.
        classes: returns inputs, shape `(M, ...)`, and classes from 0 on, shape `(M,)`, of rows of the training classes.
        features: returns $\phi(x)$, shape `(N, P)`; set by the head.
        standardize: whether prior and likelihood take their units of these rows too; what the head decides.
        raw: whether features are inputs as they come, so that a prior keeps the moments that it was built with.
        intercept: linear predictor of the mean label, where the likelihood has found it.
    """

    x: Tensor
    y: Tensor
    cluster: Tensor
    size: Tensor | None = None
    task_x: Tensor | None = None
    columns: Sequence[str] = ()
    covariates: Sequence[str] = ()
    classes: Callable[[], tuple[Tensor, Tensor]] = _no_classes
    features: Callable[[], Tensor] = _no_features
    standardize: bool = False
    raw: bool = False
    intercept: float | None = None

    @classmethod
    def of(cls, batches: Iterable[TaskBatch], device: torch.device, wanted: float = math.inf) -> TrainingRows:
        """Return the labelled rows of as many batches as it takes.

        Args:
            batches: tasks.
            device: where to.
            wanted: number of rows; those of all batches by default.
        """
        x: list[Tensor] = []
        y: list[Tensor] = []
        size: list[Tensor] = []
        cluster: list[Tensor] = []
        task_x: list[Tensor] = []
        for index, drawn in enumerate(batches):
            batch = drawn.to(device)
            rows = batch.labelled()
            x.append(rows.x)
            y.append(rows.y if rows.y.is_floating_point() else rows.y.double())
            size.append(rows.size)
            cluster.append((index * len(batch) + rows.task) * MANY_WAYS + rows.y.long())
            wanted -= len(rows.x)
            if batch.task_x is not None:
                task_x.append(batch.task_x)
            if wanted <= 0:
                break
        covariates = torch.cat(task_x) if task_x else None
        return cls(torch.cat(x), torch.cat(y), torch.cat(cluster), torch.cat(size), covariates)

    @cached_property
    def variances(self) -> tuple[Tensor, Tensor]:
        """Variances of each feature within and between classes, both of shape `(P,)`."""
        phi = self.features()
        _, index, count = torch.unique(self.cluster, return_inverse=True, return_counts=True)
        mean = phi.new_zeros(len(count), phi.shape[1]).index_add_(0, index, phi) / count.unsqueeze(-1)
        within = (phi - mean[index]).square().sum(0) / max(int((count - 1).sum()), 1)
        return within, mean.var(0) - within * (1 / count.to(phi.dtype)).mean()


class Measures(Protocol):
    """A part of a model that can take its measure of training rows."""

    def measure(self, rows: TrainingRows) -> TrainingRows:
        """Take what the part needs of training rows; return them as the next part sees them."""
