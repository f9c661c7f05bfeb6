r"""What the corrections of a joint model cost, in nats of its own evidence, beside what they buy.

A belief $r$ about the queries has a bound $L(r)$ of the evidence of their inputs (`Gaussian.input_evidence`). The model
itself arrives at $r^*$, the belief that leads to itself when steps correct nothing. Where the model is right, no other
belief should predict better. A trained network corrects, and a temperature changes what is predicted, because the model
is wrong. By how much says

$$ L(r^*) - L(r) $$

in nats per task, and the score of the query labels says what this has bought. The cost can be a little below zero:
$r^*$ leaves each query out for itself, and the belief with the largest $L$ does not (theory: "One model of inputs and
labels").
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.common import labelled, per_query, predictive_nll, summarise
from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.prediction.trees import evaluating
from ebmeta.refine.belief import self_consistent
from ebmeta.refine.state import Setting
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSampler

__all__ = ["belief_cost"]


@checked(num_tasks=at_least(2), num_steps=at_least(0), num_iterations=at_least(1))
@torch.no_grad()
def belief_cost(
    model: EmpiricalBayes,
    tasks: TaskSampler | TaskBatch,
    num_tasks: int = 300,
    *,
    num_steps: int | None = None,
    num_iterations: int = 50,
) -> xr.Dataset:
    r"""Measure how much evidence the corrections of a joint model cost, and what they buy.

    Args:
        model: a joint model.
        tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
        num_tasks: how many tasks to draw from a source.
        num_steps: refinement steps, $K$; those of training by default.
        num_iterations: steps without correction that lead to $r^*$.

    Returns:
        Over `step`, in nats per task: `evidence`, $L$ of the belief that $q_k$ has counted (NaN for $q_0$, which has
        counted none), `cost`, $L(r^*)$ less this, and `cost_of_predictions`, $L(r^*)$ less $L$ of the probabilities
        that are predicted after the step, by their temperature; `nll` of the query labels in nats per query. Of $r^*$
        the same without steps: `own_evidence`, `own_nll`, and `own_change`, the largest change of a probability at its
        last iteration, a mean over tasks. Each has a `<name>_half_width` of a 95% interval over tasks.

    Raises:
        ValueError: if the model is of labels alone, tasks are unlabelled, fewer than two, may have outliers, or do not
            fit the model.
    """
    if not model.joint:
        named = type(model.prior).__name__
        raise ValueError(f"belief_cost: expected a joint model of inputs and labels, got one with {named}")
    parts: dict[str, list[Tensor]] = {}
    with evaluating(model):
        for batch, y in labelled(model, tasks, num_tasks, "belief_cost"):
            inferred, mask = model.infer(batch, num_steps), batch.query_mask
            own, change = self_consistent(inferred.setting, num_iterations)
            best, steps = _evidence(inferred.setting, own), range(inferred.num_steps + 1)
            counted = inferred.input_evidence()
            counted[0] = math.nan
            predicted = [inferred.predict(k)["probs"] * mask.unsqueeze(-1) for k in steps]
            none = inferred.x.new_zeros(1)
            of_truth = own.gather(-1, y.unsqueeze(-1)).squeeze(-1).clamp(min=torch.finfo(own.dtype).tiny)
            for name, value in {
                "evidence": counted,
                "cost": best - counted,
                "cost_of_predictions": best - torch.stack([_evidence(inferred.setting, p) for p in predicted]),
                "nll": torch.stack([per_query(predictive_nll(inferred, k, y, none), mask) for k in steps]),
                "own_evidence": best,
                "own_nll": -per_query(of_truth.log(), mask),
                "own_change": change,
            }.items():
                parts.setdefault(name, []).append(value)
    out: dict[str, xr.DataArray] = {}
    for name, values in parts.items():
        units = "nats per query" if name.endswith("nll") else "1" if name == "own_change" else "nats per task"
        out |= summarise({name: torch.cat(values, -1)}, units, *["step"][: values[0].dim() - 1])
    data = xr.Dataset(out)
    return data.assign_coords(step=np.arange(data.sizes["step"]))


def _evidence(setting: Setting, r: Tensor) -> Tensor:
    """Return $L(r)$ in nats, shape `(T,)`."""
    q0 = cast(ClassGaussian, setting.q0)
    return q0.given_beliefs(setting.real_x[..., :-1], r.to(q0.loc.dtype)).input_evidence(q0, setting.real_x)
