r"""Comparison of synthetic gradients with the true ones, which need the labels, step by step.

Step $k$ takes $q_k$ to $q_{k+1}$. With the labels of the queries, the gradient of their expected loss with respect to
the location would be $g_k$; the network stands in for it with $\hat g_k$,

$$ g_k = \sum_i \tfrac1\varphi\, \phi(x_i)\, \big( \mathbb E_{q_k}[A'(\eta_i)] - T(y_i) \big)^\top, \qquad
   \hat g_k = \sum_i \tfrac1\varphi\, \phi(x_i)\, \xi_i^\top . $$

The natural gradient is $\Lambda^{-1} g_k$. It is compared with $\Lambda^{-1} \hat g_k$, and with the move of the
location that the refiner made, in the metric of $\Lambda = \Lambda_{k+1}$,

$$ \mathrm{cosine}(\hat g, g) = \frac{\hat g^\top \Lambda^{-1} g}{\lVert \hat g \rVert\, \lVert g \rVert}, \qquad
   \mathrm{cosine}(\Delta m, g) = \frac{-\Delta m^\top g}{\lVert \Lambda \Delta m \rVert\, \lVert g \rVert}, \qquad
   \lVert g \rVert^2 = g^\top \Lambda^{-1} g , $$

which do not depend on the units of features. A move of positive cosine lowers the true loss to first order. The steps
of a mixture model (`ebmeta.refine.mixture`) are not gradient steps; their moves are judged all the same, by where they
lead. For real labels the move holds the score of the inputs too, which $\hat g$ does not.

In a joint model the location is that of the class means, $\xi = r^* - r$ with $r^*$ what all other rows say of a query,
and the derivative of a linear predictor $(x_i - m_c) / s$ takes the place of $\phi(x_i)$. Its steps count beliefs anew.
The exact step with the labels counts these, and leads to a posterior of mean $m^*$: $m^* - m$ takes the place of
$-\Lambda^{-1} g$ beside the move.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.class_passes import told
from ebmeta.diagnostics.common import labelled, mean_of, per_query, predictive_nll, summarise
from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.conditional import repeat
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.parts.gaussian import Gaussian
from ebmeta.prediction.calibration import Z95, calibration_error
from ebmeta.prediction.trees import evaluating
from ebmeta.refine.base import Refiner
from ebmeta.refine.state import QueryState
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSampler

__all__ = ["synthetic_gradients"]

#: Measures over steps and tasks, and their units.
UNITS = {
    "gradient_cosine": "1",
    "gradient_ratio": "1",
    "gradient_slope": "1",
    "move_cosine": "1",
    "move_ratio": "1",
    "gain": "nats per query",
    "harmed": "share of tasks",
    "belief_brier": "1",
    "belief_nll": "nats per query",
    "belief_accuracy": "1",
    "belief_error": "statistic of the label",
    "belief_z": "standard deviations",
    "belief_z_square": "1",
}


@checked(num_tasks=at_least(2), num_steps=at_least(0))
@torch.no_grad()
def synthetic_gradients(
    model: EmpiricalBayes, tasks: TaskSampler | TaskBatch, num_tasks: int = 600, *, num_steps: int | None = None
) -> xr.Dataset:
    r"""Compare every step of refinement with the step that the query labels would have given.

    Args:
        model: a model with at least one refinement step.
        tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
        num_tasks: how many tasks to draw from a source.
        num_steps: refinement steps, $K$; those of training by default.

    Returns:
        Over `step` (that from $q_k$ to $q_{k+1}$ is step $k + 1$), each a mean over tasks with `<name>_half_width` of
        its 95% interval:

        - `gradient_cosine` and `gradient_ratio`: of $\hat g$ against $g$ (see the module); `move_cosine` and
          `move_ratio`: of the move of the location against $-\Lambda^{-1} g$, in a joint model against the move to the
          posterior that knows the labels. A cosine is NaN where a vector is 0.
        - `gradient_slope`: $\mathbb E[\hat g^\top \Lambda^{-1} g] / \mathbb E[\hat g^\top \Lambda^{-1} \hat g]$, which
          is 1 where $\hat g$ is what can be expected of $g$, and less where it overshoots.
        - `gain`: $\mathrm{NLL}_{k} - \mathrm{NLL}_{k+1}$ of the predictions, in nats per query, and `harmed`, the
          share of tasks where it is negative.
        - the belief $r = \mathbb E[A'(\eta)] - \xi$. For classes: `belief_brier`, and where every $r$ is a
          distribution, `belief_nll`, `belief_accuracy` and `belief_ece`, the calibration error of its top label. For
          other labels: `belief_error`, the mean of $r - T(y)$; `belief_z` and `belief_z_square`, mean and mean square
          of $(T(y) - r) / s$, with $s^2 = \varphi\, \mathbb E[A''] + \mathbb E[A'']^2\, \mathrm{Var}_q[\eta]$ what
          the posterior says of their spread: a square above 1 is a belief more wrong than the posterior thinks.

        Over `(step, task)`: the cosines and the gain of each task, as `<name>_by_task`. Attributes `verdict` ("helps",
        "harms" or "no change", by the gains of all steps) and `words`.

    Raises:
        ValueError: if there is no refinement step, or tasks are unlabelled or do not fit the model.
    """
    if model.num_steps == 0 or num_steps == 0:
        raise ValueError("num_steps: expected at least 1 refinement step to report on, got 0")
    parts: dict[str, list[Tensor]] = {}
    tops: list[tuple[np.ndarray, np.ndarray]] = []
    with evaluating(model):
        for batch, y in labelled(model, tasks, num_tasks, "synthetic_gradients"):
            inferred = model.infer(batch, num_steps)
            refiner = model.refiner
            steps = [_step(refiner, batch.query_mask, y, inferred, k) for k in range(len(inferred.iterates) - 1)]
            values = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
            if model.likelihood.categorical:
                top, right = (values.pop(name).double().cpu().numpy() for name in ("top", "right"))
                tops.append((top.reshape(len(top), -1), right.reshape(len(top), -1)))
            for name, value in values.items():
                parts.setdefault(name, []).append(value)
    joined = {name: torch.cat(value, -1) for name, value in parts.items()}
    both, own = joined.pop("both"), joined.pop("own")
    proper = tops and bool(joined["belief_nll"].isfinite().all())
    if not proper:
        joined = {name: value for name, value in joined.items() if name not in ("belief_nll", "belief_accuracy")}
    out: dict[str, xr.DataArray] = {}
    for name, value in joined.items():
        out |= _with_gaps({name: value}, UNITS[name])
        if name in ("gradient_cosine", "move_cosine", "gain"):
            out[f"{name}_by_task"] = xr.DataArray(value.double().cpu().numpy(), dims=("step", "task"))
    slope = both.mean(1) / own.mean(1)
    half = mean_of((both - slope.unsqueeze(1) * own) / own.mean(1, keepdim=True))[1]  # the delta method
    for name, array in (("gradient_slope", slope.double().cpu().numpy()), ("gradient_slope_half_width", half)):
        out[name] = xr.DataArray(array, dims="step", attrs={"units": UNITS["gradient_slope"]})
    if proper:
        top, right = (np.concatenate(rows, 1) for rows in zip(*tops, strict=True))
        errors = [calibration_error(t, r) for t, r in zip(top, right, strict=True)]
        out["belief_ece"] = xr.DataArray(errors, dims="step", attrs={"units": "1"})
    data = xr.Dataset(out)
    data = data.assign_coords(step=1 + np.arange(data.sizes["step"]), task=np.arange(data.sizes["task"]))
    return data.assign_attrs(num_tasks=data.sizes["task"], **_verdict(data))


def _with_gaps(values: dict[str, Tensor], units: str) -> dict[str, xr.DataArray]:
    """Return means over the tasks where a measure is defined, and half widths."""
    ((name, value),) = values.items()
    if bool(value.isfinite().all()):
        return summarise(values, units, "step")
    rows = [row[row.isfinite()] for row in value]
    means = [summarise({name: row}, units) if len(row) > 1 else {} for row in rows]
    nan = xr.DataArray(np.nan, attrs={"units": units})
    return {key: xr.concat([m.get(key, nan) for m in means], "step") for key in (name, f"{name}_half_width")}


def _step(refiner: Refiner, query_mask: Tensor, y: Tensor, inferred: Inference, k: int) -> dict[str, Tensor]:
    """Return every measure of one step, each of shape `(T,)`, and `top` and `right` of shape `(T, Q)` for classes."""
    setting, levels = inferred.setting, inferred.num_levels
    likelihood, given, mask = setting.likelihood, setting.given, setting.query_mask
    q, after = (iterate.q for iterate in inferred.iterates[k : k + 2])
    labels, real, state = repeat(y, levels), mask.unsqueeze(-1), QueryState(setting, q)
    x, curvature = state.x, state.curvature
    phi = torch.as_tensor(likelihood.dispersion(given)).to(x)
    xi = torch.where(real, refiner.synthetic(state), 0.0)
    if likelihood.categorical:  # the mean of a state is also known where it is not that of a linear predictor
        off = state.mean - likelihood.statistic(labels, state.mean.shape[-1]).to(x)
    else:
        off = likelihood.gradients(labels, state.loc, state.var, setting.way_mask, given)[0].to(x)
    true = torch.where(real, off, 0.0)
    slopes = q.slope(x, true), q.slope(x, xi / phi)
    out = dict(zip(("gradient_cosine", "gradient_ratio"), _compare(after, slopes[1], slopes[0]), strict=True))
    out |= {"both": _inner(after, slopes[1], slopes[0]), "own": _inner(after, slopes[1], slopes[1])}
    move = -after.times(after.loc - q.loc)
    wanted = slopes[0] if not refiner.joint else -after.times(told(setting.q0, setting, labels).loc - q.loc)
    out |= zip(("move_cosine", "move_ratio"), _compare(after, move, wanted), strict=True)

    wrong = torch.where(real, phi * true - xi, 0.0)  # r - T(y): the mean of T cancels
    if likelihood.categorical:
        out |= _class_belief(state.mean - xi, wrong, labels, mask)
    else:
        spread = (phi * curvature + curvature.square() * state.var).sqrt()
        z = torch.where(real, wrong / spread, 0.0).squeeze(-1)
        out["belief_error"] = per_query(wrong.squeeze(-1), mask)
        out["belief_z"], out["belief_z_square"] = per_query(-z, mask), per_query(z.square(), mask)
    out = {name: inferred.average(inferred.by_level(value)) for name, value in out.items()}

    noise = x.new_zeros(1)
    before, later = (per_query(predictive_nll(inferred, j, y, noise), query_mask) for j in (k, k + 1))
    out["gain"] = before - later
    out["harmed"] = (out["gain"] < -rounding(before) * (1 + before.abs())).to(before.dtype)
    return out


def _inner(metric: Gaussian, a: Tensor, b: Tensor) -> Tensor:
    r"""Return $a^\top \Lambda^{-1} b$, shape `(T,)`."""
    return (a * metric.solve(b)).sum((-2, -1))


def _compare(metric: Gaussian, ours: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return cosine and ratio of norms of two gradients in the metric $\Lambda^{-1}$, each of shape `(T,)`."""
    norm, reference = (_inner(metric, g, g).clamp(min=0).sqrt() for g in (ours, true))
    known = norm > rounding(norm) * reference
    cosine = torch.where(known & (reference > 0), _inner(metric, ours, true) / (norm * reference), math.nan)
    return cosine, torch.where(reference > 0, norm / reference, math.nan)


def rounding(values: Tensor) -> float:
    """Return the relative error below which a difference is rounding."""
    return 64 * torch.finfo(values.dtype).eps


def _class_belief(r: Tensor, wrong: Tensor, y: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Score a belief over classes of shape `(T, Q, C)`, whose error is r - T(y)."""
    out = {"belief_brier": per_query(wrong.square().sum(-1), mask)}
    top, best = r.max(-1)
    right = (best == y).to(r.dtype)
    proper = bool((r[mask] >= 0).all())
    nll = -r.gather(-1, y.unsqueeze(-1)).squeeze(-1).clamp(min=torch.finfo(r.dtype).tiny).log()
    for name, value in (("belief_nll", nll), ("belief_accuracy", right)):
        out[name] = per_query(value if proper else torch.full_like(value, math.nan), mask)
    out["top"], out["right"] = (torch.where(mask, v, math.nan) for v in (top, right))
    return out


def _verdict(data: xr.Dataset) -> dict[str, str]:
    total = data["gain_by_task"].sum("step").values
    mean, half = float(total.mean()), Z95 * float(total.std(ddof=1)) / math.sqrt(len(total))
    verdict = "helps" if mean > half else "harms" if mean < -half else "no change"
    cosines = data["move_cosine"].values
    known = cosines[np.isfinite(cosines)]
    towards = f" Moves have a cosine of {known.mean():.2f} with those that labels would give." if len(known) else ""
    words = (
        f"Refinement gains {mean:.4f} ± {half:.4f} nats per query in all and leaves {float((total < 0).mean()):.0%} "
        f"of tasks worse off.{towards}"
    )
    return {"verdict": verdict, "words": words}
