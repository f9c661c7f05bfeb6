"""Figures of fitted curves with the prediction of a task over a grid of inputs, its interval and its rows."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ebmeta.foundation.checks import array, between, checked
from ebmeta.model.base import PredictiveModel
from ebmeta.plots.axes import axes_or_new
from ebmeta.prediction.trees import predict
from ebmeta.tasks.batch import TaskBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["fitted_curve"]


@checked(support_x=array(ndim=2), support_y=array(ndim=1), x=array(ndim=2), truth=array(ndim=1), level=between(0, 1))
def fitted_curve(
    model: PredictiveModel,
    support_x: Any,
    support_y: Any,
    x: Any,
    *,
    truth: Any = None,
    level: float = 0.9,
    column: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Plot the predictive mean and interval of one task along a path of inputs, with its support rows.

    Args:
        model: a model of real labels.
        support_x: support inputs, shape `(S, D)`.
        support_y: support labels, shape `(S,)`.
        x: inputs to predict at, in the order in which the curve visits them, shape `(N, D)`.
        truth: true curve at `x`, shape `(N,)`, where it is known.
        level: coverage of the interval of a new label, noise included, by a normal approximation.
        column: column of the inputs on the horizontal axis.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if the model is one of classes, `level` is not between 0 and 1, or the rows do not fit the model.
    """
    import seaborn as sns

    if model.likelihood.categorical:
        raise ValueError("fitted_curve: expected a model of real labels, got one of classes")
    rows, labels, path = (torch.as_tensor(v) for v in (support_x, support_y, x))
    if truth is not None and len(truth) != len(path):
        raise ValueError(f"truth: expected {len(path)} values, one per row of x, got {len(truth)}")
    if not -path.shape[1] <= column < path.shape[1]:
        raise ValueError(f"column: expected one of the {path.shape[1]} columns of x, got {column}")
    batch = TaskBatch(rows.unsqueeze(0), labels.unsqueeze(0), path.unsqueeze(0))
    predictive = predict(model, batch, num_draws=0)["predictive"].to_dataset().isel(step=-1, task=0)
    mean, std = predictive["mean"].values, predictive["std"].values
    half = NormalDist().inv_cdf((1 + level) / 2) * std
    ax, color, across = axes_or_new(ax), sns.color_palette("deep")[0], path[:, column].numpy()
    ax.fill_between(
        across, mean - half, mean + half, alpha=0.25, color=color, linewidth=0, label=f"{level:.0%} interval"
    )
    ax.plot(across, mean, color=color, label="mean")
    if truth is not None:
        ax.plot(across, np.asarray(truth), color="0.3", linewidth=1, linestyle="--", label="truth")
    ax.scatter(rows[:, column].numpy(), labels.numpy(), color="0.1", s=18, zorder=3, label="support")
    ax.set(xlabel="x", ylabel="y")
    sns.despine(ax=ax)
    return ax
