r"""A check whether posteriors move as far as they say when the labels of the queries become known.

With the query labels the posterior $q$ becomes $q^*$. If both are exact, what moves is what was uncertain,

$$ \mathbb E[m^* - m] = 0, \qquad \mathrm{Var}[m^* - m] = \mathbb E[v - v^*], $$

for mean $m$ and variance $v$ of a weight under $q$, and $m^*$ and $v^*$ under $q^*$ (the law of total variance). Unlike
simulation this needs no truth about the weights: the labels of real tasks will do, so that it asks about prior and
likelihood too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.common import labelled
from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.conditional import Conditional
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.trees import evaluating
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSampler

__all__ = ["posterior_updates"]


@checked(num_tasks=at_least(2), num_steps=at_least(0))
@torch.no_grad()
def posterior_updates(
    model: EmpiricalBayes, tasks: TaskSampler | TaskBatch, num_tasks: int = 300, *, num_steps: int | None = None
) -> xr.Dataset:
    r"""Measure how far posteriors move when the query labels become known, in units of how far they should.

    Args:
        model: the model.
        tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
        num_tasks: how many tasks to draw from a source.
        num_steps: refinement steps, $K$; those of training by default.

    Returns:
        Over `step`: `spread`, the root of $\overline{(m^* - m)^2} / \overline{v - v^*}$, where means run over tasks,
        classes and weights, each in units of its standard deviation under the prior: 1 where widths are right, above 1
        where the posterior is too narrow, by about this factor; and its `spread_half_width` of a 95% interval over
        tasks (delta method). Over `(step, task)`: `moved` and `expected`, the two means of each task. $q^*$ is $q_0$
        given support and query labels.


    Raises:
        ValueError: if tasks are unlabelled, fewer than two, or do not fit the model.
    """
    moved: list[Tensor] = []
    expected: list[Tensor] = []
    with evaluating(model):
        for batch, _ in labelled(model, tasks, num_tasks, "posterior_updates"):
            before, after = model.infer(batch, num_steps), model.infer(batch.pooled(), 0)
            loc, var = _weights(after, 0)
            real = batch.way_mask.unsqueeze(1).to(loc.dtype).expand_as(loc)
            count = real.sum((1, 2))
            parts = [_weights(before, k) for k in range(len(before.path))]
            moved.append(torch.stack([((loc - m).square() * real).sum((1, 2)) / count for m, _ in parts]))
            expected.append(torch.stack([((v - var) * real).sum((1, 2)) / count for _, v in parts]))
    data = xr.Dataset(
        {
            "moved": (("step", "task"), torch.cat(moved, 1).double().cpu().numpy()),
            "expected": (("step", "task"), torch.cat(expected, 1).double().cpu().numpy()),
        }
    )
    if data.sizes["task"] < 2:
        raise ValueError(f"tasks: expected at least 2, got {data.sizes['task']}")
    top, bottom = data["moved"].mean("task"), data["expected"].mean("task")
    ratio = top / bottom.where(bottom > 0)
    error = (data["moved"] - ratio * data["expected"]).std("task", ddof=1) / (bottom * math.sqrt(data.sizes["task"]))
    data["spread"] = ratio**0.5
    data["spread_half_width"] = Z95 * error / (2 * data["spread"])
    return data.assign_coords(step=np.arange(data.sizes["step"]), task=np.arange(data.sizes["task"]))


def _weights(inferred: Inference, k: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the weights in units of the prior, over noise levels, both of shape `(T, P, C)`."""
    one = inferred.prior[:1]
    eye = torch.eye(one.loc.shape[-1], dtype=one.loc.dtype, device=one.loc.device).unsqueeze(0)
    _, variance = one.marginal(eye)  # of the first task and class: the prior has one covariance
    units = eye / variance[:, :, :1].sqrt()

    def moments(part: Conditional) -> tuple[Tensor, Tensor]:
        q = part.path[k]
        return q.marginal(units.expand(len(q.loc), -1, -1))

    return inferred.blend(*inferred.each(moments))
