r"""Importance ratios of every task and refinement step against the exact joint density.

$$ \log r(w) = \log p_\psi(w) + \sum_{i \in \text{labelled}} \log p(y_i \mid x_i, w) - \log q_k(w), \quad w \sim q_k. $$

The target is $p_\psi(w \mid d^s)$, the posterior of the conditional model, in which unlabelled queries say nothing of
$w$; or, with the query labels, $p_\psi(w \mid d^s, y^q)$. A joint model of inputs and labels is its own target,
$p_\psi(m, \pi \mid d^s, x^q)$ (`ebmeta.diagnostics.class_passes`). Ratios of weights are taken in the span of the
labelled rows (`ebmeta.diagnostics.span`). They say

- $\hat k$, the Pareto shape of their tail: below 0.5 the draws stand for the target, up to 0.7 the weights correct
  them, above it neither;
- $\log p_\psi(y) \ge \log \frac1S \sum_s r(w_s)$, a bound that draws close, and with it the amortization gap
  $\mathrm{KL}(q_k \Vert p_\psi(\cdot \mid d^s)) = \log p_\psi(y) - \mathbb E_{q_k}[\log r]$;
- predictions with weights proportional to Pareto-smoothed $r(w_s)$.

For a joint model, for $q_0$, and for refined posteriors of tasks whose inputs do not depend on their weights, distance
from the target is error. Where inputs do tell of the weights of a conditional model, $q_K$ rightly leaves the target,
and these numbers say how far (theory: "What k-hat means for a transductive posterior"). Sources: Vehtari, Simpson,
Gelman, Yao and Gabry 2024, Pareto smoothed importance sampling; Cremer, Li and Duvenaud 2018, Inference suboptimality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.class_passes import ClassPass, class_passes
from ebmeta.diagnostics.common import per_query
from ebmeta.diagnostics.passes import LEAST_DRAWS, Pass, passes, smooth
from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.arviz import USABLE
from ebmeta.tasks.batch import TaskBatch

__all__ = ["check_posteriors", "correct"]

NEARLY_EVEN, ENOUGH = 0.95, 0.9  # effective share of draws, and share of tasks, at which there is nothing to mend
UNITS = {
    "nats": {"gap", "gap_unseen", "log_evidence", "bound"},
    "nats per query": {"nll", "nll_corrected", "entropy"},
}

Observe = Literal["support", "both"]


@checked(num_steps=at_least(0), num_draws=at_least(LEAST_DRAWS))
@torch.no_grad()
def check_posteriors(
    model: EmpiricalBayes,
    batch: TaskBatch,
    *,
    observe: Observe = "support",
    num_steps: int | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    r"""Compare $q_0, \dots, q_K$ of every task with the exact joint density, all tasks at once.

    Args:
        model: the model.
        batch: $T$ tasks; query labels, where present, score predictions, or join the target.
        observe: labels of the target: of the support set, or of support and queries ("both").
        num_steps: refinement steps, $K$; those of training by default.
        num_draws: draws from each posterior, $S$.
        seed: seed of the draws; the global generator is left alone.

    Returns:
        Over `(step, task)`: `khat` in the span of the labelled rows and `khat_rows` in the span of all rows, both 0
        where weights are even within 1%; `effective_size` of the draws; in nats, `gap`
        $= \mathrm{KL}(q_k \Vert \text{target})$ and `gap_unseen`, its part outside the span of the labelled rows; for
        labelled queries of the target "support", `nll` and `nll_corrected` in nats per query, the latter as `correct`
        predicts. Over `task`: `log_evidence` in nats, from the step of the most even weights, or from draws of the
        prior where no step keeps a tenth of its draws. Attribute `verdict`: what this says of $q_K$, in words.

        Of a joint model, in place of `khat_rows` and `gap_unseen`: `entropy` of the predicted classes in nats per
        query, by which to tell sure tasks from unsure ones, and for the target "support" `bound`, the evidence
        $L(r)$ of the belief that $q_k$ has counted, NaN for $q_0$. `log_evidence` is of the inputs. It is exact with
        the query labels, and else the best bound of all steps; the gap is then understated where weights are uneven.

    Raises:
        ValueError: if `observe` is unknown, there are fewer than 25 draws, `seed` is negative, query labels are needed
            and absent, the tasks do not fit the model, or it is an ensemble (`ebmeta.propagate`).

    Examples:
        >>> from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
        >>> batch = LinearGaussianTasks(np.zeros(2), np.eye(2)).sample(5)
        >>> checks = check_posteriors(EmpiricalBayes.regressor(1, num_steps=0), batch)  # q_0 is exact
        >>> float(checks["khat"].max()), float(abs(checks["gap"]).max()) < 1e-3
        (0.0, True)
    """
    data: dict[str, list[Tensor]] = {}
    for found in _judged(model, batch, observe, num_steps, num_draws, seed):
        for name, value in found.items():
            data.setdefault(name, []).append(value)
    values = {name: torch.cat(parts, -1).cpu().numpy() for name, parts in data.items()}
    out = xr.Dataset({name: (("step", "task")[2 - v.ndim :], v) for name, v in values.items()})
    out = out.assign_coords({str(d): np.arange(n) for d, n in out.sizes.items()})
    for unit, names in UNITS.items():
        for name in names & out.keys():
            out[name].attrs["units"] = unit
    out = out.assign_attrs(observe=observe, num_draws=num_draws)
    return out.assign_attrs(verdict=_verdict(out, model))


@checked(num_steps=at_least(0), num_draws=at_least(LEAST_DRAWS))
@torch.no_grad()
def correct(
    model: EmpiricalBayes,
    batch: TaskBatch,
    *,
    num_steps: int | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    r"""Predict query labels under the exact posterior by importance weights, where they can be trusted.

    That is $p_\psi(m, \pi \mid d^s, x^q)$ of a joint model, and else $p_\psi(w \mid d^s)$. Outside the span of the
    labelled rows the latter is the prior given $u$, from which linear predictors of queries are drawn; it is not for
    refined posteriors of tasks whose inputs tell of their weights: the correction takes back what refinement has
    learned from the queries. Where $\hat k \ge 0.7$ the predictions of $q_K$ stay as they are.

    Args:
        model: the model.
        batch: $T$ tasks; query labels are not looked at.
        num_steps: refinement steps, $K$; those of training by default.
        num_draws: draws from $q_K$, $S$.
        seed: seed of the draws; the global generator is left alone.

    Returns:
        Over `(task, query)`: `probs` (and `way`), or `mean` and `std`; NaN where padded. Over `task`: `khat`, and
        `corrected`, which is False where predictions are those of $q_K$.

    Raises:
        ValueError: as for `check_posteriors`.
    """
    data: dict[str, list[Tensor]] = {}
    find: Callable[..., Iterator[Pass | ClassPass]] = class_passes if model.joint else passes
    for part in find(model, batch.unlabelled(), "support", num_steps, num_draws, seed):
        plain, (mended, khat) = part.inferred.predict(-1), part.corrected()
        trusted, query = khat < USABLE, part.batch.query_mask
        for name, value in mended.items():
            shape = (-1, *[1] * (value.dim() - 1))
            real = query if value.dim() == 2 else query.unsqueeze(-1) & part.batch.way_mask.unsqueeze(1)
            chosen = torch.where(trusted.view(shape), value, plain[name].to(value))
            data.setdefault(name, []).append(torch.where(real, chosen, torch.nan))
        for name, value in (("khat", khat), ("corrected", trusted)):
            data.setdefault(name, []).append(value)
    values = {name: torch.cat(parts).cpu().numpy() for name, parts in data.items()}
    out = xr.Dataset({name: (("task", "query", "way")[: v.ndim], v) for name, v in values.items()})
    return out.assign_coords({str(d): np.arange(n) for d, n in out.sizes.items()})


def _judged(model: EmpiricalBayes, batch: TaskBatch, observe: str, *rest: Any) -> Iterator[dict[str, Tensor]]:
    """Yield what `check_posteriors` says of a few tasks at a time."""
    if model.joint:
        yield from map(_judge_classes, class_passes(model, batch, observe, *rest))
    else:
        yield from (_judge(part, observe) for part in passes(model, batch, observe, *rest))


def _judge_classes(part: ClassPass) -> dict[str, Tensor]:
    """Return what `check_posteriors` says of one pass of a joint model."""
    steps: dict[str, list[Tensor]] = {}
    y, query = part.batch.query_y, part.batch.query_mask
    for k, probs in enumerate(part.predicted):
        drawn = part.draw(k)
        weight, khat = smooth(drawn.log_ratio)
        row = {
            "khat": khat,
            "effective_size": torch.exp(-torch.logsumexp(2 * weight, 1)),
            "elbo": part.elbo(k, drawn),
            "entropy": per_query(torch.special.entr(probs).sum(-1), query),
            "ratio": torch.logsumexp(drawn.log_ratio, 0) - math.log(part.num_draws),
        }
        if y is not None and part.known is None:
            row["nll"] = -per_query(part.plain_score(k, y).double(), query)
            row["nll_corrected"] = torch.where(khat < USABLE, -per_query(part.score(drawn, weight), query), row["nll"])
        for name, value in row.items():
            steps.setdefault(name, []).append(value)
    out = {name: torch.stack(values) for name, values in steps.items()}
    ratio, out["log_evidence"] = out.pop("ratio"), part.log_evidence
    if part.known is None:
        out["bound"] = part.bound
        size = torch.where(out["effective_size"] > part.num_draws / 10, out["effective_size"], 0.0)
        most_even = ratio.gather(0, size.argmax(0, keepdim=True))[0]
        best = torch.cat([ratio, part.bound[1:]]).amax(0)
        # Draws say more than any bound where their weights are even, and no more than e^t too much with chance e^-t.
        out["log_evidence"] = torch.where(size.amax(0) > 0, torch.maximum(most_even, part.bound[1:].amax(0)), best)
    out["gap"] = out["log_evidence"] - out.pop("elbo")
    return out


def _judge(part: Pass, observe: str) -> dict[str, Tensor]:
    """Return what `check_posteriors` says of one pass."""
    steps: dict[str, list[Tensor]] = {}
    y, query, count = part.batch.query_y, part.batch.query_mask, part.batch.num_queries
    num_draws = part.noise.shape[2]
    for k in range(len(part.inferred.path)):
        drawn = part.draw(k)
        weight, khat = smooth(drawn.log_ratio)
        unseen = part.unseen(k)
        row = {
            "khat": khat,
            "khat_rows": smooth(drawn.log_ratio_rows)[1],
            "effective_size": torch.exp(-torch.logsumexp(2 * weight, 1)),
            "elbo": drawn.log_ratio.mean(0) - unseen,
            "gap_unseen": unseen,
            "bound": torch.logsumexp(drawn.log_ratio, 0) - math.log(num_draws),
        }
        if y is not None and observe == "support":
            logp = {"nll": part.plain_score(k, y).to(unseen), "nll_corrected": part.score(drawn, weight)}
            row |= {name: -torch.where(query, v, 0.0).sum(1) / count for name, v in logp.items()}
            row["nll_corrected"] = torch.where(khat < USABLE, row["nll_corrected"], row["nll"])
        for name, value in row.items():
            steps.setdefault(name, []).append(value)
    out = {name: torch.stack(values) for name, values in steps.items()}
    # Weights of draws from the prior are likelihoods: uneven, but without a heavy tail.
    bound, of_prior, size = out.pop("bound"), part.draw(None).log_ratio, out["effective_size"]
    if part.all_labels is not None:
        ratio = part.all_labels.draw(0).log_ratio
        bound = torch.cat([bound, torch.logsumexp(ratio, 0, keepdim=True) - math.log(num_draws)])
        size = torch.cat([size, torch.exp(-torch.logsumexp(2 * smooth(ratio)[0], 1)).unsqueeze(0)])
    size = torch.where(size > num_draws / 10, size, 0.0)
    best = bound.gather(0, size.argmax(0, keepdim=True))[0]
    out["log_evidence"] = torch.where(size.amax(0) > 0, best, torch.logsumexp(of_prior, 0) - math.log(num_draws))
    out["gap"] = out["log_evidence"] - out.pop("elbo")
    return out


def _verdict(checks: xr.Dataset, model: EmpiricalBayes) -> str:
    target = "the support set" if checks.attrs["observe"] == "support" else "support and query labels"
    if model.joint:
        target = f"all inputs and {'the support' if checks.attrs['observe'] == 'support' else 'all'} labels"
    last, tasks = checks.sizes["step"] - 1, checks.sizes["task"]
    even = checks["effective_size"] > NEARLY_EVEN * checks.attrs["num_draws"]
    share = ((checks["khat"] < USABLE) | even).mean("task").values
    away, hidden = checks["gap"].mean("task").values, [""] * (last + 1)
    if "gap_unseen" in checks:
        hidden = [f"{v:.2f} of them where no label tells, " for v in checks["gap_unseen"].mean("task").values]
    words = [
        f"q_{k} is {away[k]:.2f} nats from the exact posterior given {target}, {hidden[k]}and stands for it in "
        f"{share[k]:.0%} of {tasks} tasks, at least with weights"
        for k in sorted({0, last})
    ]
    if share[-1 if model.joint else slice(None)].min() >= ENOUGH:
        words.append("predictions and draws can be trusted as far as the model can")
    elif model.joint:
        words.append("compare with NUTS where it does not")
    elif model.likelihood.categorical:
        words.append("inputs of classes tell of the weights, so that this is distance and not error")
    elif share[0] < ENOUGH:
        words.append("compare q_0 with NUTS where it does not")
    else:
        words.append("refinement leaves it, which is right only where inputs tell of the weights")
    return "; ".join(words) + "."
