r"""The gap between the risk on new rows and on rows that a posterior was given, compared with its bound by information.

Given a task $\tau$ its rows are independent. Let $w \sim q(w \mid d)$, with $d$ the labelled support set and the
unlabelled queries; let $L$ be the expected loss of $w$ on a new row of the task, $L_s$ its mean loss on the $S$ support
rows and $L_q$ on the $Q$ queries. Then (theory: "The information bottleneck")

$$ \mathbb E[L - L_s] \le \sqrt{2\, \mathbb E[v / S]\; I(w; d^s \mid \tau)}, \qquad
   \mathbb E[L - L_q] \le \sqrt{2\, \mathbb E[v / Q]\; I(w; x^q \mid \tau)}, $$

and neither information exceeds $I(w; d) \le \mathbb E\, \mathrm{KL}(q \Vert p_\psi)$. The proxy $v$ is

- $1/4$ for the error of a class, which is 0 or 1 (Hoeffding's lemma);
- $\mathbb E[\ell^2]$ for a loss that is never negative, with $w$ and the row drawn apart. Such a loss may have a heavy
  upper tail, yet its lower tail is sub-Gaussian, and that is the one that counts.

Sources: Xu and Raginsky 2017, Information-theoretic analysis of generalization capability of learning algorithms;
Bu, Zou and Veeravalli 2020, Tightening mutual information-based bounds on generalization error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.common import labelled, mean_of, one_posterior, per_query, refuse_general, summarise
from ebmeta.foundation.checks import at_least, checked
from ebmeta.likelihood import Given, Likelihood
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.prediction.trees import evaluating
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.rows import Rows
from ebmeta.tasks.source import TaskSampler

__all__ = ["generalization_gap"]

Loss = Literal["nll", "error"]
SIDES = ("support", "query")


@checked(num_tasks=at_least(2), information=at_least(0), num_steps=at_least(0), num_draws=at_least(1))
@torch.no_grad()
def generalization_gap(
    model: EmpiricalBayes,
    tasks: TaskSampler | TaskBatch,
    num_tasks: int = 2000,
    *,
    loss: Loss = "nll",
    information: float | Sequence[float] | None = None,
    num_steps: int | None = None,
    num_draws: int = 32,
    seed: int = 0,
) -> xr.Dataset:
    r"""Measure the gap between new rows and given rows after every refinement step, and bound it by information.

    Every second query of a task is hidden from the posterior and serves as a new row. The bound takes for granted that
    these follow the same law as the support rows, that rows are independent given the task, and that the model was not
    trained on these tasks.

    Args:
        model: the model.
        tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
        num_tasks: how many tasks to draw from a source.
        loss: "nll", in nats and, for real labels, above its least value $-\log p(y \mid \eta = y)$; or "error", the
            share of wrong labels (classes, or yes and no).
        information: $I(w; d)$ in nats, after each step or the same for all, where it is known.
        num_steps: refinement steps, $K$; those of training by default.
        num_draws: draws of the linear predictor.
        seed: seed of those draws.

    Returns:
        Over `step`: `risk` on new rows, `rate` in nats. Over `(rows, step)`, rows "support" and "query": `gap`, its
        `gap_half_width` of a 95% interval over tasks, `proxy_per_row` $\mathbb E[v / n]$, `bound_rate` and, with
        `information`, `bound_information`; `tightness_rate` and `tightness_information`, bound over gap, NaN where the
        gap cannot be distinguished from 0. Attributes `verdict` ("holds", "unclear" or "fails": whether the interval of
        each gap ends below `bound_rate`, crosses it, or starts above) and `words`.

    Raises:
        ValueError: if tasks are unlabelled, lack support rows or a second query, or do not fit the model or the loss;
            or features of a row depend on the other rows of its task.
    """
    refuse_general(model, "generalization_gap")
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {"rate": [], "risk": [], "given": [], "proxy": []}
    with evaluating(model):
        for batch, _ in labelled(model, tasks, num_tasks, "generalization_gap"):
            given, new = _split(batch)
            inferred = one_posterior(model, given, num_steps, "generalization_gap")
            risk_of = partial(_risk, model, inferred, loss=loss, num_draws=num_draws, generator=generator)
            sides, ways = (given.support, given.query), batch.way_mask
            risk, second = risk_of(ways, new.query)
            both = [risk_of(ways, rows)[0] for rows in sides]
            counts = torch.stack([rows.count for rows in sides]).unsqueeze(1)
            parts["rate"].append(inferred.kl())
            parts["risk"].append(risk)
            parts["given"].append(torch.stack(both))
            parts["proxy"].append((second if loss == "nll" else torch.full_like(second, 0.25)) / counts)
    joined = {name: torch.cat(values, -1) for name, values in parts.items()}
    unit = "nats per row" if loss == "nll" else "1"
    out = summarise({"risk": joined["risk"]}, unit, "step") | summarise({"rate": joined["rate"]}, "nats", "step")
    gap = joined["risk"] - joined["given"]
    out |= summarise({"gap": gap}, unit, "rows", "step")
    out["proxy_per_row"] = xr.DataArray(mean_of(joined["proxy"])[0], dims=("rows", "step"))
    known = {"rate": out["rate"]}
    if information is not None:
        known["information"] = _nats(information, len(out["rate"]))
    distinct = out["gap"].where(out["gap"] > out["gap_half_width"])
    for name, nats in known.items():
        out[f"bound_{name}"] = (2 * out["proxy_per_row"] * nats) ** 0.5
        out[f"tightness_{name}"] = out[f"bound_{name}"] / distinct
    data = xr.Dataset(out).assign_coords(rows=list(SIDES), step=np.arange(gap.shape[1]))
    return data.assign_attrs(num_tasks=gap.shape[-1], loss=loss, **_verdict(data))


def _nats(information: float | Sequence[float], num_steps: int) -> xr.DataArray:
    values = np.asarray(information, dtype=float)
    if values.shape not in ((), (num_steps,)) or not bool((values >= 0).all()):
        raise ValueError(f"information: expected nats >= 0, one number or {num_steps}, got {information}")
    return xr.DataArray(np.broadcast_to(values, (num_steps,)), dims="step")


def _split(batch: TaskBatch) -> tuple[TaskBatch, TaskBatch]:
    """Return the tasks with the first, third, ... query, and the same tasks with the others."""

    def take(start: int) -> TaskBatch:
        return batch.with_rows(query=batch.query.map(lambda v: v[:, start::2]))

    if not bool(batch.query_mask[:, 1::2].any(1).all()):
        raise ValueError("query: expected at least 2 rows in every task, one of them to be hidden, got fewer")
    if not bool(batch.support_mask.any(1).all()):
        raise ValueError("support: expected at least 1 labelled row in every task, got none")
    return take(0), take(1)


def _risk(
    model: EmpiricalBayes,
    inferred: Inference,
    way_mask: Tensor,
    rows: Rows,
    *,
    loss: Loss,
    num_draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return mean and mean square of the loss over draws and rows, each of shape `(steps, T)`."""
    assert rows.y is not None  # for the type checker
    phi, given = model.predictor.features(rows.x, rows.mask), Given(rows.size)
    shape = (num_draws, *rows.y.shape, way_mask.shape[1])
    noise = torch.randn(shape, generator=generator, dtype=phi.dtype).to(phi.device)
    first, second = [], []
    for q in inferred.path:
        if model.joint:  # linear predictors of class means are not normal
            eta = model.predictor(phi, q.weights(q.draw(num_draws, generator)))
        else:
            loc, var = q.marginal(phi)
            eta = loc + var.clamp(min=0).sqrt() * noise
        eta = eta if inferred.likelihood.categorical else eta.double()
        each = row_loss(inferred.likelihood, rows.y, eta, way_mask, given, loss)
        first.append(per_query(each.mean(0), rows.mask))
        second.append(per_query(each.square().mean(0), rows.mask))
    return torch.stack(first), torch.stack(second)


def row_loss(
    likelihood: Likelihood, y: Tensor, eta: Tensor, way_mask: Tensor, given: Given | None, loss: Loss
) -> Tensor:
    """Return the loss of rows, never negative, shape `(..., T, N)`.

    Args:
        likelihood: $p(y | eta)$.
        y: labels, shape `(T, N)`.
        eta: linear predictors, shape `(..., T, N, C)`.
        way_mask: True where a class exists, shape `(T, C)`.
        given: what else is known of the rows.
        loss: "nll" or "error".

    Raises:
        ValueError: if labels cannot be wrong or right.
    """
    if loss == "error":
        if likelihood.categorical:
            return (eta.masked_fill(~way_mask.unsqueeze(-2), -torch.inf).argmax(-1) != y).to(eta.dtype)
        if likelihood.name != "bernoulli":
            raise ValueError(f"loss: expected 'nll' for a {likelihood.name} likelihood, got 'error'")
        return ((eta.squeeze(-1) > 0) != (y > 0.5)).to(eta.dtype)
    each = -likelihood.log_prob(y.expand(eta.shape[:-1]), eta, way_mask, given)
    if not likelihood.discrete:
        each = each + likelihood.log_prob(y, likelihood.peak(y).unsqueeze(-1), way_mask, given)
    return each


def _verdict(data: xr.Dataset) -> dict[str, str]:
    low, high = (data["gap"] + sign * data["gap_half_width"] for sign in (-1, 1))
    bound = data["bound_rate"]
    verdict = "fails" if bool((low > bound).any()) else "holds" if bool((high <= bound).all()) else "unclear"
    last = data.isel(step=-1)
    cost = {
        rows: f"{float(last['gap'].sel(rows=rows)):.3g} (at most {float(last['bound_rate'].sel(rows=rows)):.3g})"
        for rows in SIDES
    }
    words = (
        f"New rows cost {cost['support']} more than the labelled rows that the posterior has seen, and "
        f"{cost['query']} more than the unlabelled ones. The bound by information {verdict}."
    )
    return {"verdict": verdict, "words": words if verdict != "unclear" else f"{words} More tasks would tell."}
