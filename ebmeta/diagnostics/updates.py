r"""A check whether posteriors move as far as they say when the labels of the queries become known.

With the query labels the posterior $q$ becomes $q^*$. If both are exact, what moves is what was uncertain,

$$ \mathbb E[m^* - m] = 0, \qquad \mathrm{Var}[m^* - m] = \mathbb E[v - v^*], $$

for mean $m$ and variance $v$ of a weight under $q$, and $m^*$ and $v^*$ under $q^*$ (the law of total variance). Unlike
simulation this needs no truth about the weights: the labels of real tasks will do, so that it asks about prior and
likelihood too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.class_passes import told
from ebmeta.diagnostics.common import labelled
from ebmeta.diagnostics.span import frame
from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.conditional import Conditional, repeat
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.parts.gaussian import Gaussian
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.trees import evaluating
from ebmeta.refine.base import Iterate
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.rows import Rows
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
        tasks (delta method). NaN where labels are said to widen posteriors on average. Over `(step, task)`: `moved`
        and `expected`, the two means of each task. $q^*$ is $q_0$ given support and query labels.

        Of a joint model, weights are class means, and `spread_rows`, `moved_rows`, `expected_rows` are the same in the
        directions that the rows of a task span, where predictions look: those of the support set for $q_0$, and of
        all rows for refined posteriors, each of them known to its posterior. A power of the likelihood below 1
        ($\kappa$) counts correlated features as fewer. Posteriors are then wider than need be in most directions, by
        up to $1 / \sqrt\kappa$, and may be right in these.

    Raises:
        ValueError: if tasks are unlabelled, fewer than two, or do not fit the model.
    """
    found: dict[str, list[Tensor]] = {}
    with evaluating(model):
        for batch, y in labelled(model, tasks, num_tasks, "posterior_updates"):
            before, ways = model.infer(batch, num_steps), batch.way_mask
            if model.joint:
                after = replace(before, iterates=[Iterate(told(before.path[0], before.setting, y))])
            else:
                after = model.infer(batch.pooled(), 0)
            steps = range(before.num_steps + 1)
            every = [_units(before.prior, model.joint)] * len(steps)
            for name, value in _compare(before, after, every, ways, _own(before.prior, model.joint)).items():
                found.setdefault(name, []).append(value)
            if model.joint:
                for name, value in _compare(before, after, _rows(before), ways).items():
                    found.setdefault(f"{name}_rows", []).append(value)
    data = xr.Dataset(
        {name: (("step", "task"), torch.cat(parts, 1).double().cpu().numpy()) for name, parts in found.items()}
    )
    if data.sizes["task"] < 2:
        raise ValueError(f"tasks: expected at least 2, got {data.sizes['task']}")
    for end in ("", "_rows") if model.joint else ("",):
        data = data.assign(_spread(data[f"moved{end}"], data[f"expected{end}"], end))
    return data.assign_coords(step=np.arange(data.sizes["step"]), task=np.arange(data.sizes["task"]))


def _spread(moved: xr.DataArray, expected: xr.DataArray, end: str) -> dict[str, xr.DataArray]:
    """Return the spread and its half width, under names with an ending."""
    top, bottom = moved.mean("task"), expected.mean("task")
    ratio = top / bottom.where(bottom > 0)
    error = (moved - ratio * expected).std("task", ddof=1) / (bottom * math.sqrt(moved.sizes["task"]))
    spread = ratio**0.5
    return {f"spread{end}": spread, f"spread{end}_half_width": Z95 * error / (2 * spread)}


def _compare(
    before: Inference, after: Inference, directions: Sequence[Tensor], ways: Tensor, unit: Tensor | float = 1.0
) -> dict[str, Tensor]:
    """Return how far means move in directions `(T, R, P)` of each step, and are said to, both `(steps, T)`.

    Args:
        before: the posteriors of all steps.
        after: the one that knows the query labels.
        directions: of each step.
        ways: True where a class exists, shape `(T, C)`.
        unit: variance to divide by, shape `(T, 1, C)`.
    """
    moved, expected = [], []
    for k, x in enumerate(directions):
        (m, v), (loc, var) = _moments(before, k, x), _moments(after, 0, x)
        real = (x != 0).any(-1, keepdim=True) & ways.unsqueeze(1)
        moved.append(torch.where(real, (loc - m).square() / unit, 0.0).sum((1, 2)) / real.sum((1, 2)))
        expected.append(torch.where(real, (v - var) / unit, 0.0).sum((1, 2)) / real.sum((1, 2)))
    return {"moved": torch.stack(moved), "expected": torch.stack(expected)}


def _moments(inferred: Inference, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the weights in directions, over noise levels, both of shape `(T, R, C)`."""

    def moments(part: Conditional) -> tuple[Tensor, Tensor]:
        q = part.path[k].means
        return q.marginal(repeat(x.expand(len(inferred.log_weight), -1, -1), inferred.num_levels))

    return inferred.blend(*inferred.each(moments))


def _units(prior: Gaussian, joint: bool) -> Tensor:
    """Return the directions of single weights, shape `(1, P, P)`.

    They are in units of the prior, 0 of those without spread, where tasks and classes share its covariance.
    """
    one = prior[:1].means
    eye = torch.eye(one.loc.shape[-1], dtype=one.loc.dtype, device=one.loc.device).unsqueeze(0)
    if joint:
        return eye
    _, variance = one.marginal(eye)
    return torch.where(variance[:, :, :1] > 0, eye / variance[:, :, :1].sqrt(), 0.0)


def _own(prior: Gaussian, joint: bool) -> Tensor | float:
    """Return the prior variance of a coordinate of a class mean of a joint model, shape `(T, 1, C)`, else 1."""
    return 1 / prior.precision[..., :1].mT if joint else 1.0


def _rows(inferred: Inference) -> list[Tensor]:
    """Return the directions of the rows that each step knows, zero where a task has fewer, shape `(T, R, D)`."""
    rows = cast(Rows, inferred.setting.support)  # of a joint model, also where features depend on the whole task
    support = (rows.x * rows.mask.unsqueeze(-1))[..., :-1]
    span = frame(support, inferred.setting.real_x[..., :-1])
    every = span.basis.mT
    return [every[:, : span.num_labelled], *[every] * inferred.num_steps]
