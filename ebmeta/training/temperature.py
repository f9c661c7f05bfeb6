"""What training does after its last step, where the refiner fits the temperature of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.trees import evaluating
from ebmeta.refine.base import QueryState
from ebmeta.tasks.batch import TaskBatch

__all__ = ["fit_task_temperature"]


def fit_task_temperature(model: EmpiricalBayes, batches: Iterable[TaskBatch]) -> None:
    """Fit the temperature of every task to labelled tasks that training has not drawn; nothing else changes.

    Models without such a temperature (`ebmeta.refine.temperature`) are left as they are.

    Args:
        model: a trained model.
        batches: labelled tasks.

    Source: theory "Refinement as a mixture model".
    """

    def states() -> Iterator[tuple[list[QueryState], Tensor]]:
        for batch in batches:
            assert batch.query_y is not None  # for the type checker
            inferred = model.infer(batch, as_new=True)
            yield [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates[1:]], batch.query_y

    with evaluating(model):
        model.refiner.finish(states())
