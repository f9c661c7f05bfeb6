"""What training does after its last step, where the refiner fits the temperature of tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.trees import evaluating
from ebmeta.refine.state import QueryState
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSource

__all__ = ["fit_task_temperature", "unseen"]

TASKS = 1024  # of each source, and as many of other sizes


def unseen(sources: Sequence[TaskSource], num_iterations: int, batch_size: int) -> Iterator[TaskBatch]:
    """Yield batches that training has not drawn: of each source, and of other sizes where it can draw them.

    Args:
        sources: of training tasks, and of validation tasks where there are any.
        num_iterations: batches that training has drawn of the first; a quarter as many are drawn at most.
        batch_size: tasks of a batch.
    """
    number = min(math.ceil(TASKS / batch_size), math.ceil(num_iterations / 4))
    for source in sources:
        for tasks in filter(None, (source, source.with_random_sizes())):
            for n in range(num_iterations, num_iterations + number):
                yield tasks.sample(batch_size, n)


def fit_task_temperature(
    model: EmpiricalBayes, batches: Iterable[TaskBatch], device: torch.device | str = "cpu"
) -> None:
    """Fit the temperature of every task to labelled tasks that training has not drawn; nothing else changes.

    Models without such a temperature (`ebmeta.refine.temperature`) are left as they are.

    Args:
        model: a trained model.
        batches: labelled tasks.
        device: of the model.

    Source: theory "Refinement as a mixture model".
    """

    def states() -> Iterator[tuple[list[QueryState], Tensor]]:
        for batch in (b.to(device) for b in batches):
            assert batch.query_y is not None  # for the type checker
            inferred = model.infer(batch, as_new=True)
            yield [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates[1:]], batch.query_y

    with evaluating(model):
        model.refiner.finish(states())
