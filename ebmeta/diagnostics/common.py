"""What several diagnostics share, such as labelled batches, losses per task, and means over tasks with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference, Mixture
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.scores import task_batches
from ebmeta.prediction.trees import match_model
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSampler

__all__ = [
    "labelled",
    "mean_of",
    "one_posterior",
    "per_query",
    "predictive_nll",
    "refuse_general",
    "refuse_outliers",
    "summarise",
]


def refuse_general(model: EmpiricalBayes, name: str) -> None:
    """Raise `ValueError` where features and prior are those of a task as a whole, so that no row stands alone."""
    if model.predictor.by_task:
        raise ValueError(
            f"{name}: expected features that do not depend on other rows, got those of a general classifier"
        )


def refuse_outliers(batch: TaskBatch, name: str) -> None:
    """Raise `ValueError` where queries may be of none of the classes, which no label says."""
    if batch.outliers is not None and bool(batch.outliers.any()):
        raise ValueError(f"{name}: expected tasks without outliers, got some")


def labelled(
    model: EmpiricalBayes, tasks: TaskSampler | TaskBatch, num_tasks: int, name: str
) -> Iterator[tuple[TaskBatch, Tensor]]:
    """Yield batches on the model's device, each with its query labels.

    Raises:
        ValueError: if tasks are unlabelled, or may have outliers.
    """
    for batch in task_batches(tasks, num_tasks, model):
        batch = match_model(model, batch)
        refuse_outliers(batch, name)
        if batch.query_y is None:
            raise ValueError(f"{name}: expected query labels, got unlabelled tasks")
        yield batch, batch.query_y


def one_posterior(model: EmpiricalBayes, batch: TaskBatch, num_steps: int | None, name: str) -> Inference:
    """Return inference that has one Gaussian per task and step.

    Raises:
        ValueError: if tasks have noise levels of their own.
    """
    inferred = model.infer(batch, num_steps)
    if inferred.num_levels > 1:
        raise ValueError(f"{name}: expected one Gaussian posterior per task, got a mixture")
    return inferred


def predictive_nll(inferred: Mixture, k: int, y: Tensor, noise: Tensor) -> Tensor:
    """Return the negative log of the probability that users get, in nats, shape `(T, Q)`."""
    if not inferred.likelihood.categorical:
        return -inferred.log_prob(k, y, noise, predictive=True)
    probs = inferred.predict(k)["probs"]
    return -probs.gather(-1, y.unsqueeze(-1)).squeeze(-1).clamp(min=torch.finfo(probs.dtype).tiny).log()


def per_query(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real rows of each task, shape `(..., T)`."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1)


def mean_of(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over tasks, the last axis, and the half width of its 95% interval.

    Raises:
        ValueError: if there are fewer than two tasks.
    """
    if values.shape[-1] < 2:
        raise ValueError(f"tasks: expected at least 2, got {values.shape[-1]}")
    half = Z95 * values.std(-1) / math.sqrt(values.shape[-1])
    return values.mean(-1).double().cpu().numpy(), half.double().cpu().numpy()


def summarise(values: Mapping[str, Tensor], units: str, *dims: str) -> dict[str, xr.DataArray]:
    """Return the mean over tasks of each array, and `<name>_half_width`."""
    out = {}
    for name, value in values.items():
        for key, array in zip((name, f"{name}_half_width"), mean_of(value), strict=True):
            out[key] = xr.DataArray(array, dims=dims, attrs={"units": units})
    return out
