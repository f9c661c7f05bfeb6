r"""Is a posterior right? Importance ratios of every task and refinement step, against the exact joint.

$$ \log r(w) = \log p_\psi(w) + \sum_{i \in \text{labelled}} \log p(y_i \mid x_i, w) - \log q_k(w), \quad w \sim q_k. $$

The target is $p_\psi(w \mid d^s)$, the posterior of the conditional model, in which unlabelled queries say nothing of
$w$; or, with the query labels, $p_\psi(w \mid d^s, y^q)$. Ratios are taken in the span of the labelled rows
(`ebmeta.diagnostics.span`), where they say

- $\hat k$, the Pareto shape of their tail: below 0.5 the draws stand for the target, up to 0.7 the weights correct
  them, above it neither;
- $\log p_\psi(y) \ge \log \frac1S \sum_s r(w_s)$, a bound that draws close, and with it the amortization gap
  $\mathrm{KL}(q_k \Vert p_\psi(\cdot \mid d^s)) = \log p_\psi(y) - \mathbb E_{q_k}[\log r]$;
- predictions with weights proportional to Pareto-smoothed $r(w_s)$.

For $q_0$, and for refined posteriors of tasks whose inputs do not depend on their weights, distance from the target is
error. Where inputs do tell of the weights, as those of classes do, $q_K$ rightly leaves the target, and these numbers
say how far (theory: "What k-hat means for a transductive posterior"). Sources: Vehtari, Simpson, Gelman, Yao and Gabry
2024, Pareto smoothed importance sampling; Cremer, Li and Duvenaud 2018, Inference suboptimality.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.diagnostics.span import Frame, Projected, covariance_of, frame, project
from ebmeta.gaussian import Gaussian
from ebmeta.inference import Inference, repeat
from ebmeta.interop import psis
from ebmeta.likelihood import Given, ScalarLikelihood
from ebmeta.model import EmpiricalBayes
from ebmeta.predict import _match, evaluating
from ebmeta.tasks import TaskBatch

__all__ = ["GOOD", "USABLE", "check_posteriors", "correct"]

GOOD, USABLE = 0.5, 0.7  # of k-hat: draws stand for the target; weights still correct them
LEAST_DRAWS = 25
NEARLY_EVEN, ENOUGH = 0.95, 0.9  # effective share of draws, and share of tasks, at which there is nothing to mend
EVEN = 0.01  # nats by which ratios may differ and have no tail
CHUNK = 16  # tasks per pass: bounds the memory of the draws

Observe = Literal["support", "both"]


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
    r"""Hold $q_0, \dots, q_K$ of every task against the exact joint, all tasks at once.

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

    Raises:
        ValueError: if `observe` is unknown, there are fewer than 25 draws, `seed` is negative, query labels are needed
            and absent, the tasks do not fit the model, or its prior has several values (`ebmeta.propagate`).

    Examples:
        >>> from ebmeta.simulate import LinearGaussianTasks
        >>> batch = LinearGaussianTasks(np.zeros(2), np.eye(2)).sample(5)
        >>> checks = check_posteriors(EmpiricalBayes.regressor(1, num_steps=0), batch)  # q_0 is exact
        >>> float(checks["khat"].max()), float(abs(checks["gap"]).max()) < 1e-3
        (0.0, True)
    """
    if observe not in ("support", "both"):
        raise ValueError(f"observe: expected 'support' or 'both', got {observe!r}")
    data: dict[str, list[Tensor]] = {}
    for part in _passes(model, batch, observe, num_steps, num_draws, seed):
        for name, value in _judge(part, observe).items():
            data.setdefault(name, []).append(value)
    values = {name: torch.cat(parts, -1).cpu().numpy() for name, parts in data.items()}
    out = xr.Dataset({name: (("step", "task")[2 - v.ndim :], v) for name, v in values.items()})
    out = out.assign_coords({str(d): np.arange(n) for d, n in out.sizes.items()})
    for name in ("gap", "gap_unseen", "log_evidence"):
        out[name].attrs["units"] = "nats"
    for name in ("nll", "nll_corrected"):
        if name in out:
            out[name].attrs["units"] = "nats per query"
    out = out.assign_attrs(observe=observe, num_draws=num_draws)
    return out.assign_attrs(verdict=_verdict(out, model))


@torch.no_grad()
def correct(
    model: EmpiricalBayes,
    batch: TaskBatch,
    *,
    num_steps: int | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    r"""Predict query labels under $p_\psi(w \mid d^s)$ by importance weights, where they can be trusted.

    Outside the span of the labelled rows the posterior is the prior given $u$, from which linear predictors of queries
    are drawn. Where $\hat k \ge 0.7$ the predictions of $q_K$ stay as they are. Not for refined posteriors of tasks
    whose inputs tell of their weights: the correction takes back what refinement has learned from the queries.

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
    for part in _passes(model, batch.unlabelled(), "support", num_steps, num_draws, seed):
        drawn = part.draw(-1)
        weight, khat = _smooth(drawn.log_ratio)
        plain, mended = part.inferred.predict(-1), part.predict(drawn, weight)
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


@dataclass(frozen=True, eq=False)
class _Draws:
    r"""Draws of $u$ in labelled rows' directions, `(T, C, S, R)`, and log ratios `(S, T)` there and in all."""

    u: Tensor
    log_ratio: Tensor
    log_ratio_rows: Tensor


@dataclass(frozen=True, eq=False)
class _Pass:
    """What is known of a few tasks: inference, the labels of the target, and noise that all steps share."""

    batch: TaskBatch
    inferred: Inference
    labelled: TaskBatch
    x: Tensor
    directions: Frame
    level: Tensor
    noise: Tensor
    query_noise: Tensor

    @cached_property
    def levels(self) -> int:
        return self.inferred.num_levels

    @cached_property
    def _prior(self) -> Gaussian:
        return _double(self.inferred.prior[:: self.levels])

    @cached_property
    def prior(self) -> Projected:
        return project(self._prior, self.directions)

    def _chosen(self, values: Tensor) -> Tensor:
        """Choose each draw's level of noise, `(S, T, ...)`, from `values` of shape `(S, T * J, ...)`."""
        by_level = values.unflatten(1, (-1, self.levels))
        index = self.level.view(*self.level.shape, *[1] * (by_level.dim() - 2)).expand(-1, -1, 1, *by_level.shape[3:])
        return by_level.gather(2, index).squeeze(2)

    def _given(self, size: Tensor | None) -> Given:
        levels = self.inferred.levels
        return Given(size, None if levels is None else self._chosen(levels.z.flatten().expand(len(self.level), -1)))

    def draw(self, k: int | None) -> _Draws:
        """Draw from $q_k$, or from the prior where `k` is None."""
        q = self.prior.repeat(self.levels) if k is None else self._projected(k)
        seen, every, times = self.directions.num_seen, len(self.directions), self.levels
        u = q.draw(self.noise.repeat_interleave(times, 0))
        eta = torch.einsum("tnr,tcsr->stnc", self._rows, u[..., :seen])
        given = Given(_repeat(self.labelled.support_size, times), None)
        if self.inferred.levels is not None:
            given = Given(given.size, self.inferred.levels.z.flatten())
        y, ways = (repeat(v, times) for v in (self.labelled.support_y, self.labelled.way_mask))
        logp = self.inferred.likelihood.log_prob(y, eta, ways, given)
        labels = torch.where(repeat(self.labelled.support_mask, times), logp, 0.0).sum(-1)
        labels = labels + (self.inferred.log_level - self.inferred.log_weight).flatten()
        of_p, of_q = self.prior.repeat(times).log_prob(u, seen, every), q.log_prob(u, seen, every)
        chosen = self._chosen(u[..., :seen].permute(2, 0, 1, 3)).permute(1, 2, 0, 3)
        return _Draws(chosen, *(self._chosen(a - b + labels) for a, b in zip(of_p, of_q, strict=True)))

    @cached_property
    def _rows(self) -> Tensor:
        return repeat(self.x @ self.directions.basis[..., : self.directions.num_seen], self.levels)

    def _projected(self, k: int) -> Projected:
        basis, real = (repeat(v, self.levels) for v in (self.directions.basis, self.directions.real))
        return project(_double(self.inferred.path[k]), Frame(basis, real, self.directions.num_seen))

    def unseen(self, k: int) -> Tensor:
        r"""Return $\mathbb E_q \mathrm{KL}(q_k(w \mid u) \Vert p_\psi(w \mid u))$ in nats, shape `(T,)`."""
        seen = self.directions.num_seen
        whole = _double(self.inferred.path[k]).kl(_double(self.inferred.prior))
        part = self._projected(k).leading(seen).kl(self.prior.leading(seen).repeat(self.levels))
        return ((whole - part).view(-1, self.levels) * self.inferred.log_weight.exp()).sum(1)

    @cached_property
    def _query(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return slope, shift and standard deviation of queries' linear predictors given $u$, under the prior."""
        p, prior = self._prior, self.prior.leading(self.directions.num_seen)
        x = self.inferred.x[:: self.levels].double()
        basis = self.directions.basis[..., : self.directions.num_seen]
        cross = torch.einsum("tqp,tcpr->tcqr", x, covariance_of(p, basis))
        slope = torch.cholesky_solve(cross.mT, prior.scale_tril).mT
        loc, var = p.marginal(x)
        shift = loc - torch.einsum("tcqr,tcr->tqc", slope, prior.loc)
        left = var - (slope * cross).sum(-1).mT
        return slope, shift, left.clamp(min=0).sqrt()

    def queries(self, drawn: _Draws) -> Tensor:
        r"""Return linear predictors of the queries given each draw of $u$, shape `(S, T, Q, C)`."""
        slope, shift, scale = self._query
        return shift + torch.einsum("tcqr,tcsr->stqc", slope, drawn.u) + scale * self.query_noise

    def plain_score(self, k: int, y: Tensor) -> Tensor:
        """Return the log likelihood of query labels under $q_k$ as it is in nats, shape `(T, Q)`."""
        if not self.inferred.likelihood.categorical:
            return self.inferred.log_prob(k, y, self.x.new_zeros(1), predictive=True)
        probs = self.inferred.predict(k)["probs"]
        return probs.gather(-1, y.unsqueeze(-1)).squeeze(-1).clamp(min=torch.finfo(probs.dtype).tiny).log()

    def score(self, drawn: _Draws, weight: Tensor) -> Tensor:
        """Return the log of the weighted mean likelihood of query labels in nats, shape `(T, Q)`."""
        given = self._given(self.batch.query_size)
        each = self.inferred.likelihood.log_prob(
            self.batch.query_y,
            self.queries(drawn),
            self.batch.way_mask,
            given,  # type: ignore[arg-type]
        )
        return torch.logsumexp(each + weight.T.unsqueeze(-1), 0)

    def predict(self, drawn: _Draws, weight: Tensor) -> dict[str, Tensor]:
        """Return weighted summaries of the predictions, each of shape `(T, Q, ...)`."""
        eta, given, likelihood = self.queries(drawn), self._given(self.batch.query_size), self.inferred.likelihood
        share = weight.T.exp().unsqueeze(-1)
        if not isinstance(likelihood, ScalarLikelihood):
            classes = likelihood.distribution(eta, self.batch.way_mask, given)
            probs: Tensor = classes.probs  # type: ignore[attr-defined]
            return {"probs": (share.unsqueeze(-1) * probs).sum(0)}
        of_eta = likelihood.mean(eta.squeeze(-1), given)
        mean = (share * of_eta).sum(0)
        total = (share * (likelihood.variance(eta.squeeze(-1), given) + (of_eta - mean).square())).sum(0)
        return {"mean": mean, "std": total.sqrt()}


def _repeat(value: Tensor | None, times: int) -> Tensor | None:
    return None if value is None else repeat(value, times)


def _double(q: Gaussian) -> Gaussian:
    return q.with_(q.loc.double(), q.precision.double())


def _passes(
    model: EmpiricalBayes, batch: TaskBatch, observe: str, num_steps: int | None, num_draws: int, seed: int
) -> Iterator[_Pass]:
    """Infer a few tasks at a time."""
    if num_draws < LEAST_DRAWS:
        raise ValueError(f"num_draws: expected at least {LEAST_DRAWS}, got {num_draws}")
    if seed < 0:
        raise ValueError(f"seed: expected a non-negative integer, got {seed}")
    labelled = batch.pooled() if observe == "both" else batch
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model):
        for start in range(0, batch.num_tasks, CHUNK):
            part, target = (_match(model, b[start : start + CHUNK]) for b in (batch, labelled))
            inferred = model.infer(part.unlabelled(), num_steps)
            if not isinstance(inferred, Inference):
                raise ValueError(
                    "model: expected one value of the prior's parameters, got several; check model.members one by one"
                )
            mask = target.support_mask
            x = model.predictor.features(target.support_x, mask).double() * mask.unsqueeze(-1)
            others = inferred.x[:: inferred.num_levels].double() * part.query_mask.unsqueeze(-1)
            directions = frame(x, others)
            tasks, ways = part.way_mask.shape
            level = torch.multinomial(inferred.log_weight.exp().cpu(), num_draws, True, generator=generator).T
            shapes = (tasks, ways, num_draws, len(directions)), (num_draws, tasks, part.query_mask.shape[1], ways)
            noise, of_query = (torch.randn(s, generator=generator, dtype=x.dtype).to(x.device) for s in shapes)
            yield _Pass(part, inferred, target, x, directions, level.to(x.device), noise, of_query)


def _smooth(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return log weights, shape `(T, S)`, and $\hat k$, shape `(T,)`, of log ratios of shape `(S, T)`."""
    ratios = log_ratio.T.cpu().numpy()
    weight, khat = np.full(ratios.shape, -math.log(ratios.shape[1])), np.zeros(len(ratios))
    uneven = np.ptp(ratios, 1) > EVEN
    if uneven.any():
        with np.errstate(all="ignore"):  # of ArviZ, where a tail is short
            weight[uneven], khat[uneven] = psis(ratios[uneven])
    return torch.from_numpy(weight).to(log_ratio.device), torch.from_numpy(khat).to(log_ratio.device)


def _judge(part: _Pass, observe: str) -> dict[str, Tensor]:
    """Return what `check_posteriors` says of one pass."""
    steps: dict[str, list[Tensor]] = {}
    y, query, count = part.batch.query_y, part.batch.query_mask, part.batch.num_queries
    num_draws = part.noise.shape[2]
    for k in range(len(part.inferred.path)):
        drawn = part.draw(k)
        weight, khat = _smooth(drawn.log_ratio)
        unseen = part.unseen(k)
        row = {
            "khat": khat,
            "khat_rows": _smooth(drawn.log_ratio_rows)[1],
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
    bound, of_prior = out.pop("bound"), part.draw(None).log_ratio
    size = torch.where(out["effective_size"] > num_draws / 10, out["effective_size"], 0.0)
    best = bound.gather(0, size.argmax(0, keepdim=True))[0]
    out["log_evidence"] = torch.where(size.amax(0) > 0, best, torch.logsumexp(of_prior, 0) - math.log(num_draws))
    out["gap"] = out["log_evidence"] - out.pop("elbo")
    return out


def _verdict(checks: xr.Dataset, model: EmpiricalBayes) -> str:
    target = "the support set" if checks.attrs["observe"] == "support" else "support and query labels"
    last, tasks = checks.sizes["step"] - 1, checks.sizes["task"]
    even = checks["effective_size"] > NEARLY_EVEN * checks.attrs["num_draws"]
    share = ((checks["khat"] < USABLE) | even).mean("task").values
    away, unseen = (checks[name].mean("task").values for name in ("gap", "gap_unseen"))
    words = [
        f"q_{k} is {away[k]:.2f} nats from the exact posterior given {target}, {unseen[k]:.2f} of them where no label "
        f"tells, and stands for it in {share[k]:.0%} of {tasks} tasks, at least with weights"
        for k in sorted({0, last})
    ]
    if share.min() >= ENOUGH:
        words.append("predictions and draws can be trusted as far as the model can")
    elif model.likelihood.categorical:
        words.append("inputs of classes tell of the weights, so that this is distance and not error")
    elif share[0] < ENOUGH:
        words.append("compare q_0 with NUTS where it does not")
    else:
        words.append("refinement leaves it, which is right only where inputs tell of the weights")
    return "; ".join(words) + "."
