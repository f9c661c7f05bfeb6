r"""The inferred posteriors of a batch after each step, and the predictions that follow from them.

A prediction averages over what the labels of a task leave open. `ebmeta.model.conditional.Conditional` holds one
Gaussian for each step, everything else given. A `Mixture` weighs several such posteriors of each task, and says once
what follows for divergences, scores and predictions.

The first kind of mixture is `Inference`, what one model says. Where tasks have noise levels of their own, every
posterior is a mixture over $J$ levels (`ebmeta.parts.levels`),

$$ q(w, z_t = z_{tj}) = \pi_{tj}\, \mathcal N(w; m_{tj}, \Lambda_{tj}^{-1}), \qquad
   \pi_{tj} \propto c_{tj}\, \mathcal N(z_{tj}; 0, 1) \exp \big( \mathbb E_{q_{0,tj}}[\log p(y^s_t \mid w, z_{tj})]
   - \mathrm{KL}(q_{0,tj} \Vert p_\psi) \big), $$

with quadrature masses $c_{tj}$ and the evidence of the support set, which is exact where the likelihood is conjugate
given the level. Tasks and levels share the leading axis (level fastest), so that all else stays batched; elsewhere
$J = 1$. The second kind, over values of the prior's parameters, is `ebmeta.model.members.EnsembleInference`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebmeta.foundation.seeding import stream
from ebmeta.likelihood import Given, Likelihood
from ebmeta.likelihood.quantiles import quantile
from ebmeta.model.conditional import Conditional
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.levels import Levels
from ebmeta.refine.base import Iterate
from ebmeta.refine.state import Setting

CELLS = 2**22  # linear predictors of all draws per pass

__all__ = ["Inference", "Mixture", "choose"]

#: Weights, labels, and the log likelihood of given labels, of every draw.
Drawn = tuple[Tensor, Tensor, Tensor | None]


def choose(log_weight: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw parts of mixtures, shape `(num_draws, T)`, by their log weights, shape `(T, S)`, from a generator."""
    drawn = torch.multinomial(log_weight.exp().cpu(), num_draws, replacement=True, generator=generator)
    return drawn.T.to(log_weight.device)


@dataclass(frozen=True, eq=False)
class Mixture(ABC):
    """The abstract mixture of weighted posteriors of the same $T$ tasks, with all averages over them.

    Args:
        log_weight: log weight of each of $S$ parts in each task, shape `(T, S)`.
        log_prior: what it was before the task's labels, as far as `kl` counts it, shape `(T, S)`.
    """

    log_weight: Tensor
    log_prior: Tensor

    @property
    @abstractmethod
    def likelihood(self) -> Likelihood:
        r"""$p(y \mid \eta)$."""

    @property
    @abstractmethod
    def x(self) -> Tensor:
        """Query features, shape `(T, Q, P)`."""

    @property
    @abstractmethod
    def query_mask(self) -> Tensor:
        """True where a query is real, shape `(T, Q)`."""

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Number of refinement steps, $K$."""

    #: Whether it is a part of another mixture, which looks for NaN in what the parts say together.
    inner: bool = field(default=False, kw_only=True)

    def check(self) -> None:
        """Raise `ValueError` where a posterior of the path is not finite."""
        finite = self.finite()
        if not bool(finite.all()):
            k, t = (int(v) for v in (~finite).nonzero()[0])
            part = f"refiner, step {k - 1}, or its synthetic gradient" if k else "initializer or likelihood"
            raise ValueError(f"{part}: expected a posterior of finite numbers, got NaN or infinity at task {t}")

    def finite(self) -> Tensor:
        """Return whether the posterior after each step is finite, shape `(steps, T)`."""
        each: Tensor = self.each(lambda part: part.finite().T)
        return each.all(0).T

    def _known(self, what: str, values: Tensor) -> Tensor:
        """Return what is said of each query, shape `(T, Q, ...)`; NaN of a real one is refused.

        In training, which is told by a gradient, the loss is looked at in its place.
        """
        if not self.inner and not values.requires_grad and bool((lost := values.isnan()).any()):
            lost = lost.flatten(2).any(2) & self.query_mask if lost.dim() > 2 else lost & self.query_mask
            if bool(lost.any()):
                t, i = (int(v) for v in lost.nonzero()[0])
                said = f"{self.likelihood.name} likelihood, {what}"
                raise ValueError(f"{said}: expected a number for every query, got NaN at task {t}, query {i}")
        return values

    @abstractmethod
    def each(self, function: Callable[[Any], Any], *, together: bool = True) -> Any:
        """Return the values of a function of every part, with an axis of parts in front.

        Args:
            function: from a part to tensors whose first axis is that of the tasks.
            together: whether the function may be asked of all parts by one call.
        """

    def input_evidence(self) -> Tensor:
        r"""Return $L$ of unlabelled inputs after each step in nats, shape `(steps, T)`; 0 where inputs are given."""
        return self.average(self.each(lambda part: part.input_evidence().T)).T

    @abstractmethod
    def draw(self, k: int, num_draws: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Drawn:
        """Draw weights and labels from $q_k$; label noise is drawn anew for each.

        Args:
            k: the step.
            num_draws: number of draws.
            y: labels to score under each draw of the weights, shape `(T, Q)`, or None.
            generator: source of the draws, on the CPU; that of seed 0 by default.

        Returns:
            Weights, shape `(num_draws, T, C, P)`, labels, shape `(num_draws, T, Q)`, and the log likelihood of `y` in
            nats, same shape, or None.
        """

    @property
    def weight(self) -> Tensor:
        """Weight of each part in 64 bits, shape `(T, S)`."""
        return torch.softmax(self.log_weight.double(), 1)

    def average(self, each: Tensor) -> Tensor:
        """Return the weighted mean over parts, shape `(T, ...)`, of values of shape `(S, T, ...)`."""
        if len(each) == 1:
            return each[0]
        weight = self.weight.T.view(*self.log_weight.T.shape, *[1] * (each.dim() - 2))
        return torch.where(weight > 0, weight * each, 0.0).sum(0)  # a mean may be infinite

    def blend(self, loc: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance, shape `(T, ...)`, from those of every part, both of shape `(S, T, ...)`."""
        mean = self.average(loc)
        off = torch.where(mean.isinf(), math.inf, loc - mean)  # a mean without end has no variance either
        return mean, self.average(var + off.square())

    def kl(self) -> Tensor:
        r"""Return $\mathrm{KL}(q_k \Vert p_\psi)$ of weights and parts in nats, shape `(steps, T)`."""
        mean = self.average(self.each(lambda part: part.kl().T)).T
        if self.log_weight.shape[1] == 1:
            return mean
        return mean + (self.weight * (self.log_weight - self.log_prior)).sum(1)

    def log_prob(self, k: int, y: Tensor, noise: Tensor, *, predictive: bool) -> Tensor:
        r"""Return the log likelihood of query labels under $q_k$ in nats, shape `(T, Q)`.

        Args:
            k: the step.
            y: query labels, shape `(T, Q)`.
            noise: draws for likelihoods that need them; see `Likelihood.expected_log_prob`.
            predictive: the log of the mean instead of the mean of the log.
        """
        each = self.each(lambda part: part.log_prob(k, y, noise, predictive=predictive))
        if len(each) == 1:
            return self._known("density", each[0])
        log_weight = torch.log_softmax(self.log_weight.double(), 1).T.unsqueeze(-1)
        out: Tensor = torch.logsumexp(each + log_weight, 0) if predictive else (each * log_weight.exp()).sum(0)
        return self._known("density", out)

    def predict(self, k: int) -> dict[str, Tensor]:
        """Return summaries of the prediction under $q_k$, each of shape `(T, Q, ...)`; see `Likelihood.predict`."""
        each = self.each(lambda part: part.predict(k))
        if self.log_weight.shape[1] > 1 and not self.likelihood.categorical:
            mean, variance = self.blend(each["mean"], each["std"].square())
            out = {"mean": mean, "std": variance.sqrt()}
        else:
            out = {name: self.average(value) for name, value in each.items()}
        return {name: self._known(name, value) for name, value in out.items()}

    def probs(self, k: int) -> Tensor:
        """Return the probability of each class or category under $q_k$, shape `(T, Q, C)`.

        Raises:
            ValueError: if labels are no categories.
        """
        return self._known("probabilities", self.average(self.each(lambda part: part.probs(k))))

    def cdf(self, k: int, y: Tensor) -> Tensor:
        """Return the predictive probability of labels up to `y`, shape `(T, Q)`, under $q_k$.

        Raises:
            ValueError: if labels are classes, or the likelihood has no cdf.
        """
        each = self.each(lambda part: part.cdf(k, y), together=False)  # SciPy's of counts is one by one
        return self._known("cdf", self.average(each))

    def quantile(self, k: int, levels: Tensor) -> Tensor:
        r"""Return predictive quantiles under $q_k$, where the cdf has its level, shape `(L, T, Q)`.

        For counts this is the smallest count whose cdf reaches the level.

        Args:
            k: the step.
            levels: probabilities between 0 and 1, shape `(L,)`.

        Raises:
            ValueError: if a level is not between 0 and 1, labels are classes, or the likelihood has no cdf.
        """
        if not bool(((levels > 0) & (levels < 1)).all()):
            raise ValueError(f"levels: expected probabilities between 0 and 1, got {levels.tolist()}")
        if self.likelihood.categorical:
            raise ValueError(f"quantiles: expected labels that are numbers, got a {self.likelihood.name} likelihood")
        if not len(levels):
            raise ValueError("levels: expected at least one probability, got none")
        summary = self.predict(k)
        mean, std = summary["mean"], summary["std"]
        places = mean.flatten().clone()

        def below(y: Tensor, rows: Tensor) -> Tensor:
            places[rows] = y
            return self.cdf(k, places.view_as(mean)).flatten()[rows]

        return torch.stack([quantile(below, level, mean, std, self.likelihood) for level in levels.tolist()])


@dataclass(frozen=True, eq=False)
class Inference(Mixture):
    r"""Posterior path of a batch of $T$ tasks and $J$ noise levels ($J = 1$ for most likelihoods) under one model.

    Args:
        log_weight: $\log \pi$, shape `(T, J)`.
        log_prior: log quadrature mass of each level under the prior, shape `(T, J)`.
        iterates: $q_0, \dots, q_K$, each of shape `(T * J, C, P)`.
        setting: the facts that the path follows from, of `T * J` tasks.
        log_evidence: $\log p_\psi(y^s_t)$ in nats as far as $q_0$ knows it, shape `(T,)`; for classes 0, and in a joint
            model $\log p_\psi(x^s_t \mid y^s_t)$.
        levels: the levels, where tasks have some.
    """

    iterates: list[Iterate]
    setting: Setting
    log_evidence: Tensor
    levels: Levels | None = None

    @property
    def path(self) -> list[Gaussian]:
        """The posteriors that predictions use, each of shape `(T * J, C, P)`."""
        return [iterate.posterior for iterate in self.iterates]

    @property
    def likelihood(self) -> Likelihood:
        return self.setting.likelihood

    @cached_property
    def prior(self) -> Gaussian:
        r"""$p_\psi(w_t)$, shape `(T, C, P)`."""
        return self.setting.prior[self._first]

    @cached_property
    def x(self) -> Tensor:
        return self.setting.x[self._first]

    @cached_property
    def query_mask(self) -> Tensor:
        return self.setting.query_mask[self._first]

    @property
    def num_steps(self) -> int:
        return len(self.iterates) - 1

    @property
    def num_levels(self) -> int:
        """Number of noise levels, $J$."""
        return self.log_weight.shape[1]

    @property
    def _first(self) -> slice:
        """Choose the first level of every task: for what its levels share."""
        return slice(None, None, self.num_levels)

    def with_likelihood(self, likelihood: Likelihood) -> Inference:
        """Return the same with another likelihood."""
        return replace(self, setting=replace(self.setting, likelihood=likelihood))

    def by_level(self, values: Tensor) -> Tensor:
        """Return values of shape `(T * J, ...)` as `(J, T, ...)`."""
        return values.reshape(*self.log_weight.shape, *values.shape[1:]).movedim(1, 0)

    def each(self, function: Callable[[Any], Any], *, together: bool = True) -> Any:
        return pytree.tree_map(self.by_level, function(Conditional(self.iterates, self.setting)))

    def marginal(self, k: int) -> tuple[Tensor, Tensor]:
        """Return location and variance of the linear predictor, `(T * J, Q, C)`; see `Conditional.marginal`."""
        return Conditional(self.iterates, self.setting).marginal(k)

    def draw(self, k: int, num_draws: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Drawn:
        source = generator or stream(0)
        part, q = Conditional(self.iterates, self.setting), self.path[k]
        log_probs, ways = part.of_classes(k), part.way_mask
        w = q.weights(q.draw(num_draws, source))[..., : ways.shape[1], :]
        x, way_mask, given = self.x, ways[self._first], self.setting.given
        if self.levels is not None and self.num_levels > 1:
            level = choose(self.log_weight, num_draws, source)
            tasks = torch.arange(len(self.log_weight), device=w.device)
            rows = torch.arange(num_draws, device=w.device)[:, None]
            w = w.view(num_draws, *self.log_weight.shape, *w.shape[2:])[rows, tasks, level]
            given = Given(None if given.size is None else given.size[self._first], self.levels.z[tasks, level])
        labels, scores = [], []
        for some in torch.split(torch.arange(num_draws), max(1, CELLS // (x.shape[:2].numel() * w.shape[2]))):
            eta = torch.einsum("tnp,stcp->stnc", x, w[some])
            eta = eta if self.likelihood.categorical else eta.double()
            of_some = given if given.level is None else Given(given.size, given.level[some])
            believed = eta if log_probs is None else log_probs.expand_as(eta)
            labels.append(self.likelihood.sample(believed, way_mask, of_some, generator=source))
            if y is not None:
                scores.append(self.likelihood.log_prob(y, eta, way_mask, of_some))
        drawn = torch.cat(labels)
        self._known("draws", drawn.movedim(0, -1))
        return w, drawn, torch.cat(scores) if scores else None
