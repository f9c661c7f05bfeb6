r"""The training objective, an expected or predictive negative log likelihood of the queries plus a divergence.

$$ \mathcal L_{\text{Gibbs}} = \sum_t \Big( \sum_i \mathbb E_{q_K}[-\log p(y_{ti} \mid x_{ti}, w)]
   + \beta\, \mathrm{KL}(q_K \Vert p_\psi) \Big), $$

$$ \mathcal L_{\text{predictive}} = \sum_t \Big( \sum_i -\log \mathbb E_{q_K}[p(y_{ti} \mid x_{ti}, w)]
   + \beta\, \mathrm{KL}(q_K \Vert p_\psi) \Big). $$

The Gibbs form is the negative ELBO of the Pyro program, with its KL weighted by beta (and with
`anytime=0`: training adds the earlier steps). The predictive form is a proper score of the probabilities
that users get, and the default for training. Both use the closed-form KL and draws in the
space of the linear predictor, which has a few numbers per query where `w` has hundreds per class.
"evidence" is the Gibbs form with $q_0$ given *all* labels, which is exact for normal noise: type-II maximum likelihood
of the prior. Elsewhere draws from $q_0$ correct what its Gaussian form leaves short,

$$ \log p_\psi(y_t) \ge \mathbb E \log \frac1S \sum_s \frac{p(y_t \mid w_s)\, p_\psi(w_s)}{q_0(w_s)},
   \qquad w_s \sim q_0, $$

a bound that draws close (Burda, Grosse and Salakhutdinov 2016, Importance weighted autoencoders).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import torch_item
from torch import Tensor

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.seeding import stream
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.model.programs import Program, register
from ebmeta.parts.gaussian import Gaussian
from ebmeta.tasks.batch import TaskBatch

__all__ = ["Objective", "Terms", "importance_bound"]

Kind = Literal["predictive", "gibbs", "evidence"]


@dataclass(frozen=True, eq=False)
class Terms:
    r"""The objective of each task, term by term, in nats.

    Args:
        nll: negative log likelihood of a task's queries, after each step, shape `(steps, T)`.
        kl: $\mathrm{KL}(q_k \Vert p_\psi)$ after each step, shape `(steps, T)`.
        num_queries: $Q_t$, shape `(T,)`.
        beta: $\beta$.
    """

    nll: Tensor
    kl: Tensor
    num_queries: Tensor
    beta: float

    @property
    def loss(self) -> Tensor:
        r"""Negative log likelihood $+ \beta\,\mathrm{KL}$, shape `(steps, T)`."""
        return self.nll + self.beta * self.kl

    @staticmethod
    def join(parts: Sequence[Terms]) -> Terms:
        """Return the terms of all tasks of some batches."""
        nll, kl = (torch.cat(values, 1) for values in ([p.nll for p in parts], [p.kl for p in parts]))
        return Terms(nll, kl, torch.cat([p.num_queries for p in parts]), parts[0].beta)

    def cpu(self) -> Terms:
        """Return the same terms on the CPU."""
        return Terms(self.nll.cpu(), self.kl.cpu(), self.num_queries.cpu(), self.beta)

    def means(self) -> dict[str, NDArray[Any]]:
        """Return `nll` in nats per query and `kl` in nats per task, after each step."""
        nll = self.nll.detach().sum(1) / self.num_queries.sum()
        return {"nll": nll.cpu().numpy(), "kl": self.kl.detach().mean(1).cpu().numpy()}


@checked(num_draws=at_least(1), anytime=at_least(0))
class Objective(ELBO):  # type: ignore[misc]  # Pyro ships no types
    r"""The objective as a Pyro ELBO: give it to `SVI`, or call it as `Objective()(model.model, model.guide)`.

    Args:
        kind: "predictive", "gibbs" or "evidence" (see the module).
        num_draws: draws of the linear predictor per query, where no closed form exists; for "evidence" of
            likelihoods that are not normal, draws of the weights per task.
        anytime: weight of the mean loss of the earlier steps, added to that of the last step. Above zero,
            every step learns to help; at zero with "gibbs", the loss is Pyro's own negative ELBO.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, kind: Kind = "predictive", num_draws: int = 4, anytime: float = 0.5) -> None:
        super().__init__()
        if kind not in ("predictive", "gibbs", "evidence"):
            raise ValueError(f"objective: expected 'predictive', 'gibbs' or 'evidence', got {kind!r}")
        self.kind, self.num_draws, self.anytime = kind, num_draws, anytime

    @checked(num_steps=at_least(0))
    def terms(
        self,
        model: EmpiricalBayes,
        batch: TaskBatch,
        num_steps: int | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Terms:
        """Return each term of each task after each refinement step, in nats.

        Args:
            model: the model.
            batch: $T$ labelled tasks.
            num_steps: $K$; that of training by default.
            generator: source of the draws, on the CPU; that of seed 0 by default.
            noise: the draws where they are known, those of these tasks from `noise`.

        Raises:
            ValueError: if the tasks are unlabelled or do not fit the model.
        """
        noise = self.noise(model, batch, generator) if noise is None else noise
        batch, num_steps = (batch.pooled(), 0) if self.kind == "evidence" else (batch, num_steps)
        y = batch.query_y
        assert y is not None  # for the type checker: drawing has looked
        inferred = model.infer(batch, num_steps)
        drawn = noise.to(inferred.x)
        of_predictor = drawn[:, :, : y.shape[1]] if model.likelihood.categorical else drawn[:0]
        nll = []
        for k in range(len(inferred.path)):
            logp = inferred.log_prob(k, y, of_predictor, predictive=self.kind == "predictive")
            nll.append(-torch.where(batch.query_mask, logp, 0.0).sum(1))
        terms = Terms(torch.stack(nll), inferred.kl(), batch.num_queries, model.beta)
        if self.kind != "evidence":
            return terms
        terms = replace(terms, beta=1.0)
        if model.likelihood.conjugate or model.likelihood.categorical:
            return terms
        bound = importance_bound(inferred, batch, drawn)
        return replace(terms, nll=-bound.unsqueeze(0) - terms.kl)

    @checked()
    def noise(self, model: EmpiricalBayes, batch: TaskBatch, generator: torch.Generator | None = None) -> Tensor:
        """Draw the standard normal numbers that `terms` takes of tasks, shape `(num_draws, T, ...)`.

        They are drawn on the CPU and for all tasks together, so that a GPU, or one of several processes, sees the same
        numbers. Where there is a closed form there are no draws.

        Args:
            model: the model.
            batch: $T$ labelled tasks.
            generator: source of the draws, on the CPU; that of seed 0 by default.

        Raises:
            ValueError: if the tasks are unlabelled.
        """
        if batch.query_y is None:
            raise ValueError("objective: expected query labels, got unlabelled tasks")
        (tasks, rows), ways, likelihood = batch.query_y.shape, batch.way_mask.shape[1], model.likelihood
        if self.kind == "evidence":
            rows += batch.support_y.shape[1]
        if likelihood.categorical:
            draws = 0 if model.joint and self.kind == "predictive" else self.num_draws
            shape = draws, tasks, rows, ways
        else:
            draws = self.num_draws if self.kind == "evidence" and not likelihood.conjugate else 0
            shape = draws, tasks, ways, model.predictor.num_weights
        return torch.randn(shape, generator=generator or stream(0), dtype=next(model.parameters()).dtype)

    def num_rows(self, batch: TaskBatch) -> Tensor:
        """Return the number of rows that are scored in all tasks: queries, or all rows for "evidence"."""
        queries = batch.num_queries.sum()
        return queries + batch.support.count.sum() if self.kind == "evidence" else queries

    def total(self, terms: Terms) -> Tensor:
        """Return the scalar that training minimises: last step plus weighted earlier steps, summed over tasks."""
        loss = terms.loss.sum(1)
        return loss[-1] + (self.anytime * loss[:-1].mean() if len(loss) > 1 else 0.0)

    @checked()
    def differentiable_loss(self, model: Program, guide: Program, batch: TaskBatch, **kwargs: Any) -> Tensor:
        """Return the loss in nats, summed over tasks, with torch's global generator as in Pyro's ELBO classes."""
        if guide.owner is not model.owner:
            raise ValueError("objective: expected model and guide of one EmpiricalBayes, got two owners")
        register(model.owner)
        owner = cast(EmpiricalBayes, model.owner)  # the only class with programs
        return self.total(self.terms(owner, batch, **{"generator": torch.default_generator, **kwargs}))

    def loss(self, model: Program, guide: Program, batch: TaskBatch, **kwargs: Any) -> float:
        """Return the loss as a float, without gradients."""
        with torch.no_grad():
            return float(torch_item(self.differentiable_loss(model, guide, batch, **kwargs)))

    def loss_and_grads(self, model: Program, guide: Program, batch: TaskBatch, **kwargs: Any) -> float:
        """Return the loss as a float and leave gradients on the parameters."""
        loss = self.differentiable_loss(model, guide, batch, **kwargs)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(torch_item(loss))

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


def importance_bound(inferred: Inference, batch: TaskBatch, noise: Tensor, others: Sequence[Gaussian] = ()) -> Tensor:
    r"""Return the importance-weighted bound of the evidence of all labels of each task in nats, shape `(T,)`.

    Args:
        inferred: inference from tasks whose support and query are all labelled rows.
        batch: those tasks.
        noise: standard normal numbers that make the draws of the weights, shape `(S, T, C, P)`.
        others: Gaussians that share the draws equally with $q_0$; each draw is then weighted by the density of
            their mixture.
    """
    setting = inferred.setting
    prior, likelihood = setting.prior, setting.likelihood
    w, of_draws = _draw((inferred.path[-1], *others), noise)
    eta = torch.einsum("tnp,stcp->stnc", setting.x, w).double()
    y = batch.query_y
    assert y is not None  # for the type checker: pooling keeps labels
    logp = torch.where(batch.query_mask, likelihood.log_prob(y, eta, setting.way_mask, setting.given), 0.0).sum(-1)
    ratio = logp + prior.log_prob(prior.latents(w)) - of_draws
    return torch.logsumexp(ratio, 0) - math.log(len(noise))


def _draw(proposals: Sequence[Gaussian], noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return draws of Gaussians, as many of each, and the log density of their mixture at each draw."""
    parts = torch.tensor_split(noise, len(proposals))
    w = torch.cat([q.loc + q.color(part) for q, part in zip(proposals, parts, strict=True)])
    shares = [math.log(len(part) / len(noise)) if len(part) else -math.inf for part in parts]
    density = [q.log_prob(q.latents(w)) + share for q, share in zip(proposals, shares, strict=True)]
    return w, torch.logsumexp(torch.stack(density), 0)
