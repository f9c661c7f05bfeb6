r"""What inference says of a batch: the path of posteriors, and what predictions follow from it.

Where tasks have noise levels of their own, every posterior is a mixture over $J$ levels (`ebmeta.parts.levels`),

$$ q(w, z_t = z_{tj}) = \pi_{tj}\, \mathcal N(w; m_{tj}, \Lambda_{tj}^{-1}), \qquad
   \pi_{tj} \propto c_{tj}\, \mathcal N(z_{tj}; 0, 1) \exp \big( \mathbb E_{q_{0,tj}}[\log p(y^s_t \mid w, z_{tj})]
   - \mathrm{KL}(q_{0,tj} \Vert p_\psi) \big), $$

with quadrature masses $c_{tj}$ and the evidence of the support set, which is exact where the likelihood is conjugate
given the level. Tasks and levels share the leading axis (level fastest), so that all else stays batched; with one
level this changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmeta.foundation.seeding import stream
from ebmeta.likelihood import Given, Likelihood
from ebmeta.model.members import Members, chunk_size, unpack
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.levels import Levels
from ebmeta.refine.base import Iterate, Setting

CELLS = 2**22  # linear predictors of all draws per pass

__all__ = ["Inference", "MixtureInference", "invert", "repeat"]


def repeat(value: Tensor, times: int) -> Tensor:
    """Repeat every task of a tensor `times` times, one after the other."""
    return value if times == 1 else value.repeat_interleave(times, 0)


def choose(log_weight: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw parts of mixtures, shape `(num_draws, T)`, by their log weights, shape `(T, J)`, from a generator."""
    drawn = torch.multinomial(log_weight.exp().cpu(), num_draws, replacement=True, generator=generator)
    return drawn.T.to(log_weight.device)


@dataclass(frozen=True, eq=False)
class Inference:
    r"""Posterior path of a batch of $T$ tasks and $J$ noise levels ($J = 1$ for most likelihoods).

    Args:
        iterates: $q_0, \dots, q_K$, each of shape `(T * J, C, P)`.
        setting: the facts that the path follows from, of `T * J` tasks.
        log_weight: $\log \pi$, shape `(T, J)`.
        log_level: log quadrature mass of each level under the prior, shape `(T, J)`.
        log_evidence: $\log p_\psi(y^s_t)$ in nats as far as $q_0$ knows it, 0 for classes, shape `(T,)`.
        levels: the levels, where tasks have some.
    """

    iterates: list[Iterate]
    setting: Setting
    log_weight: Tensor
    log_level: Tensor
    log_evidence: Tensor
    levels: Levels | None = None

    @property
    def path(self) -> list[Gaussian]:
        r"""The posteriors that predictions are made of, each of shape `(T * J, C, P)`."""
        return [iterate.posterior for iterate in self.iterates]

    @property
    def x(self) -> Tensor:
        """Query features, shape `(T * J, Q, P)`."""
        return self.setting.x

    @property
    def prior(self) -> Gaussian:
        r"""$p_\psi(w_t)$, shape `(T * J, C, P)`."""
        return self.setting.prior

    @property
    def likelihood(self) -> Likelihood:
        r"""$p(y \mid \eta)$."""
        return self.setting.likelihood

    @property
    def way_mask(self) -> Tensor:
        """True where a class exists, shape `(T * J, C)`."""
        return self.setting.way_mask

    @property
    def given(self) -> Given:
        """What else is known of the queries."""
        return self.setting.given

    def with_likelihood(self, likelihood: Likelihood) -> Inference:
        """Return the same with another likelihood."""
        return replace(self, setting=replace(self.setting, likelihood=likelihood))

    @property
    def num_levels(self) -> int:
        """Number of noise levels, $J$."""
        return self.log_weight.shape[1]

    @property
    def weight(self) -> Tensor:
        r"""Weight of each level in 64 bits, $\pi$, shape `(T, J)`."""
        return torch.softmax(self.log_weight.double(), 1)

    def _by_level(self, value: Tensor) -> Tensor:
        return value.view(*self.log_weight.shape, *value.shape[1:])

    def kl(self) -> Tensor:
        r"""Return $\mathrm{KL}(q_k(w, z) \Vert p_\psi(w) p(z))$ in nats, shape `(steps, T)`."""
        of_w = torch.stack([q.kl(self.prior) for q in self.path])
        if self.num_levels == 1:
            return of_w
        weight = self.weight
        of_level = (weight * (self.log_weight - self.log_level)).sum(1)
        return (weight * of_w.view(-1, *self.log_weight.shape)).sum(2) + of_level

    def log_prob(self, k: int, y: Tensor, noise: Tensor, *, predictive: bool) -> Tensor:
        r"""Return the log likelihood of query labels under $q_k$ in nats, shape `(T, Q)`.

        Args:
            k: the step.
            y: query labels, shape `(T, Q)`.
            noise: draws for likelihoods that need them; see `Likelihood.expected_log_prob`.
            predictive: the log of the mean instead of the mean of the log.
        """
        score = self.likelihood.predictive_log_prob if predictive else self.likelihood.expected_log_prob
        each = score(repeat(y, self.num_levels), *self.marginal(k), self.way_mask, noise, self.given)
        if self.num_levels == 1:
            return each
        each, log_weight = self._by_level(each), torch.log_softmax(self.log_weight.double(), 1).unsqueeze(-1)
        return torch.logsumexp(each + log_weight, 1) if predictive else (each * log_weight.exp()).sum(1)

    def marginal(self, k: int) -> tuple[Tensor, Tensor]:
        """Return location and variance of the linear predictor under $q_k$, both of shape `(T * J, Q, C)`.

        In 64 bits where labels are numbers: scores and predictions are then as exact as the labels.
        """
        loc, var = self.path[k].marginal(self.x)
        return (loc, var) if self.likelihood.categorical else (loc.double(), var.double())

    def predict(self, k: int) -> dict[str, Tensor]:
        """Return summaries of the prediction under $q_k$, each of shape `(T, Q, ...)`; see `Likelihood.predict`."""
        out = self.likelihood.predict(*self.marginal(k), self.way_mask, self.given)
        if self.num_levels == 1:
            return out
        weight = self.weight.unsqueeze(-1)
        each, std = self._by_level(out["mean"]), self._by_level(out["std"])
        mean = (weight * each).sum(1)
        total = (weight * (std.square() + (each - mean.unsqueeze(1)).square())).sum(1)
        return {"mean": mean, "std": total.sqrt()}

    def cdf(self, k: int, y: Tensor) -> Tensor:
        """Return the predictive probability of labels up to `y`, shape `(T, Q)`, under $q_k$.

        Raises:
            ValueError: if labels are classes, or the likelihood has no cdf.
        """
        each = self.likelihood.predictive_cdf(repeat(y, self.num_levels), *self.marginal(k), self.given)
        if self.num_levels == 1:
            return each
        return (self._by_level(each) * self.weight.unsqueeze(-1)).sum(1)

    def quantile(self, k: int, levels: Tensor, num_bisections: int = 200) -> Tensor:
        """Return predictive quantiles under $q_k$, shape `(L, T, Q)`; see `invert`."""
        return invert(self, k, levels, num_bisections)

    def draw(
        self, k: int, num_draws: int, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
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
        q, source = self.path[k], generator or stream(0)
        noise = torch.randn(num_draws, *q.loc.shape, generator=source, dtype=q.loc.dtype)
        w = q.loc + q.color(noise.to(q.loc.device))
        x, way_mask, given = self.x, self.way_mask, self.given
        if self.num_levels > 1:
            assert self.levels is not None  # for the type checker: several levels
            level = choose(self.log_weight, num_draws, source)
            tasks = torch.arange(len(self.log_weight), device=w.device)
            rows = torch.arange(num_draws, device=w.device)[:, None]
            w = w.view(num_draws, *self.log_weight.shape, *w.shape[2:])[rows, tasks, level]
            x, way_mask = x[:: self.num_levels], way_mask[:: self.num_levels]
            size = None if given.size is None else given.size[:: self.num_levels]
            given = Given(size, self.levels.z[tasks, level])
        labels, scores = [], []
        for some in torch.split(torch.arange(num_draws), max(1, CELLS // (x.shape[:2].numel() * w.shape[2]))):
            eta = torch.einsum("tnp,stcp->stnc", x, w[some])
            eta = eta if self.likelihood.categorical else eta.double()
            of_some = given if given.level is None else Given(given.size, given.level[some])
            labels.append(self.likelihood.sample(eta, way_mask, of_some, generator=source))
            if y is not None:
                scores.append(self.likelihood.log_prob(y, eta, way_mask, of_some))
        return w, torch.cat(labels), torch.cat(scores) if scores else None


class MixtureInference(NamedTuple):
    r"""Inference under several values of the prior's parameters, weighted for each task.

    Args:
        members: the values, $S$ of them.
        first: inference under the first value.
        packed: the tensors of inference under every value (`pack`), each with a leading axis of length $S$.
        log_weight: log weight of each value in each task, shape `(T, S)`.
    """

    members: Members
    first: Inference
    packed: list[Tensor]
    log_weight: Tensor

    def _under(self, function: Callable[[Inference], Any]) -> Callable[..., Any]:
        return lambda model, *tensors: function(unpack(self.first, tensors).with_likelihood(model.likelihood))

    def each(self, function: Callable[[Inference], Any]) -> Any:
        """Return what a function of inference says under every value, stacked; see `Members.map`."""
        return self.members.map(self._under(function), *self.packed, chunk=chunk_size(self.first.x.shape[:2].numel()))

    def _one_by_one(self, function: Callable[[Inference], Any]) -> list[Any]:
        # Draws of counts, and SciPy's cdf of them, know no batch of parameters.
        return self.members.each(self._under(function), *self.packed)

    @property
    def path(self) -> list[Gaussian]:
        """The path under the first value."""
        return self.first.path

    @property
    def x(self) -> Tensor:
        """Query features, shape `(T, Q, P)`."""
        return self.first.x[:: self.first.num_levels]

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood, whose own parameters are not looked at."""
        return self.first.likelihood

    def _weight(self, value: Tensor) -> Tensor:
        weight = torch.softmax(self.log_weight.double(), 1).T
        return weight.view(*weight.shape, *[1] * (value.dim() - 2))

    def kl(self) -> Tensor:
        r"""Return the weighted mean divergence in nats, an upper bound of the mixture's, shape `(steps, T)`."""
        return torch.einsum("skt,ts->kt", self.each(Inference.kl).double(), self.log_weight.double().exp())

    def log_prob(self, k: int, y: Tensor, noise: Tensor, *, predictive: bool) -> Tensor:
        """Return the log likelihood of query labels in nats, shape `(T, Q)`; see `Inference.log_prob`."""
        each = self.each(lambda part: part.log_prob(k, y, noise, predictive=predictive))
        weight = self._weight(each)
        return torch.logsumexp(each + weight.log(), 0) if predictive else (each * weight).sum(0)

    def predict(self, k: int) -> dict[str, Tensor]:
        """Return `mean` and `std` of the mixture, shape `(T, Q)`."""
        out = self.each(lambda part: part.predict(k))
        each, weight = out["mean"], self._weight(out["mean"])
        mean = (weight * each).sum(0)
        square = out["std"].square() + (each - mean).square()
        return {"mean": mean, "std": (weight * square).sum(0).sqrt()}

    def cdf(self, k: int, y: Tensor) -> Tensor:
        """Return the predictive probability of labels up to `y`, shape `(T, Q)`."""
        each = torch.stack(self._one_by_one(lambda part: part.cdf(k, y)))
        return (self._weight(each) * each).sum(0)

    def quantile(self, k: int, levels: Tensor, num_bisections: int = 200) -> Tensor:
        """Return predictive quantiles under $q_k$, shape `(L, T, Q)`; see `invert`."""
        return invert(self, k, levels, num_bisections)

    def draw(
        self, k: int, num_draws: int, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw weights and labels, each from a part drawn by its weight; see `Inference.draw`."""
        source = generator or stream(0)
        part = choose(self.log_weight, num_draws, source)
        numbers = iter(range(len(self.members.values)))
        out: list[Tensor] = []

        def fill(inferred: Inference) -> None:
            own = part == next(numbers)
            most = int(own.sum(0).max())
            drawn = [v for v in inferred.draw(k, max(most, 1), y, source) if v is not None]
            if not out:
                out.extend(v.new_zeros(num_draws, *v.shape[1:]) for v in drawn)
            draw, task = own.nonzero(as_tuple=True)
            rank = (own.cumsum(0) - 1)[draw, task]
            for whole, some in zip(out, drawn, strict=True):
                whole[draw, task] = some[rank, task]

        self._one_by_one(fill)
        w, labels, *scores = out
        return w, labels, scores[0] if scores else None


def invert(inferred: Inference | MixtureInference, k: int, levels: Tensor, num_bisections: int) -> Tensor:
    r"""Return predictive quantiles under $q_k$ by bisection of the cdf, shape `(L, T, Q)`.

    For counts this is the smallest count whose cdf reaches the level.

    Args:
        inferred: what inference said.
        k: the step.
        levels: probabilities between 0 and 1, shape `(L,)`.
        num_bisections: most halvings of the bracket; it takes many where a mean is far beyond all quantiles.

    Raises:
        ValueError: if a level is not between 0 and 1, labels are classes, or the likelihood has no cdf.
    """
    if not bool(((levels > 0) & (levels < 1)).all()):
        raise ValueError(f"levels: expected probabilities between 0 and 1, got {levels.tolist()}")
    if inferred.likelihood.categorical:
        raise ValueError(f"quantiles: expected labels that are numbers, got a {inferred.likelihood.name} likelihood")
    out, summary = [], inferred.predict(k)
    if not len(levels):
        raise ValueError("levels: expected at least one probability, got none")
    levels = levels.to(summary["mean"])
    eps = torch.finfo(summary["mean"].dtype).eps
    for level in levels:
        low, high = (summary["mean"] + sign * 4 * summary["std"] for sign in (-1, 1))
        if inferred.likelihood.discrete:  # the mean of a count may be astronomic where its quantiles are not
            low, high = -torch.ones_like(low), torch.ones_like(high)
        for _ in range(60):  # widen until the level is inside
            below, above = inferred.cdf(k, low) > level, inferred.cdf(k, high) < level
            if not bool(below.any() | above.any()):
                break
            low = torch.where(below, low - 4 * (high - low), low)
            high = torch.where(above, high + 4 * (high - low), high)
        least = 1e-3 if inferred.likelihood.discrete else 32 * eps * summary["std"]
        for _ in range(num_bisections):
            if bool((high - low <= least + 4 * eps * (low.abs() + high.abs())).all()):
                break
            middle = (low + high) / 2
            reached = inferred.cdf(k, middle) >= level
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        out.append(high.floor().clamp(min=0) if inferred.likelihood.discrete else high)
    return torch.stack(out)
