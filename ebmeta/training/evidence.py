r"""The evidence, the log density of all labels of all groups as a function of the parameters.

$$ \sum_t \log p_\psi(y_t) + \sum_p (\log s_p - 0.1 s_p), \qquad s_p = \sqrt{\Sigma_{pp}}. $$

The second sum, where asked for, is a Gamma(2, 0.1) hyperprior on every standard deviation of the prior, in units of the
training labels. Without it the maximum can sit at $s_p = 0$ when groups are few, and every group is then predicted as
if it were the average one. Source: Chung, Rabe-Hesketh, Dorie, Gelman and Liu 2013, A nondegenerate penalized
likelihood estimator for variance parameters in multilevel models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from ebmeta.foundation.checks import found
from ebmeta.foundation.maximum import ENOUGH, climb
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.members import Members, chunk_size
from ebmeta.parts.prior import Prior
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.source import TaskSource, as_source
from ebmeta.training.group_evidence import OF_FITS, OF_RESULTS, even_noise, fitting_bound, group_evidence
from ebmeta.training.objective import Objective
from ebmeta.training.preparation import check_columns, check_groups, measure

__all__ = ["Evidence", "Hyperprior", "log_hyperprior", "scales_of"]

Hyperprior = Callable[[EmpiricalBayes], Tensor]
Bound = Callable[[EmpiricalBayes, TaskBatch, Tensor], Tensor]

RATE = 0.1  # of the hyperprior: its mean is 20 standard deviations of the labels
SMALL_NOISE = 2e-7  # in standard deviations of the labels: less is none
NO_NOISE = "the noise goes to 0, and the evidence has no maximum: the weights of groups explain every label"
SMALLEST = 1e-6  # scale below which a fitted one stands for 0 itself
ROWS = 8192  # of a part: some hundred megabytes for a likelihood that takes sixteen steps of quadrature
NEARLY_ZERO = 1e-3  # of the fitted scale: stands for 0 in the evidence at the boundary
FIRST = 100  # iterations with the noise alike in all groups, before it may differ
FARTHEST = 50.0  # bound of a diverging spread, or mean weight of a feature
MORE = 8  # times the draws of a fit, by which its result is measured in each round
ROUNDS = 4, 8, 16, 32  # of draws, as many as it takes
SURE = 0.1  # nats of a standard error that is good enough
ABOUT = 0.05  # nats that a fit at the boundary may leave


def _check_hyperprior(model: EmpiricalBayes, hyperprior: Hyperprior) -> None:
    with torch.no_grad():
        value = hyperprior(model)
    if not isinstance(value, Tensor) or value.numel() != 1 or not bool(value.isfinite().all()):
        raise ValueError(f"hyperprior: expected a function of the model that returns one number, got {found(value)}")


class Evidence:
    """The log evidence of all groups as a function of the parameters of prior, likelihood and predictor.

    Groups of like size are looked at together, some thousand rows at a time, and their terms and gradients add up:
    memory follows the number of rows and not the largest group. A group has the same draws whatever its part.

    Args:
        model: a model in 64 bits; its parameters are written to.
        tasks: groups; every row counts as labelled.
        hyperprior: add the log hyperprior; see `fit_evidence`.
        num_draws: draws of the weights of each group, for likelihoods that are not normal.
        seed: seed of those draws.
    """

    def __init__(
        self,
        model: EmpiricalBayes,
        tasks: TaskSource | TaskBatch,
        *,
        hyperprior: bool | Hyperprior,
        num_draws: int = 16,
        seed: int = 0,
    ) -> None:
        source = as_source(tasks)
        check_groups(model, source)
        check_columns(model, source)
        for batch in source.batches(1):  # tasks that are there already: errors name them by their own numbers
            model.check(batch)
        self.parts = [part.to("cpu") for part in source.parts(ROWS, model.predictor.num_weights)]
        if not isinstance(hyperprior, bool):
            _check_hyperprior(model, hyperprior)
        self.model, self.hyperprior, self.seed = model.eval(), hyperprior, seed
        self.num_draws, self.rounds = num_draws, ROUNDS[0]
        for part in self.parts:
            model.check(part)
        measure(model, self.parts)
        found = [
            (f"{part}.{name}", p)
            for part in ("prior", "likelihood", "predictor")
            for name, p in getattr(model, part).named_parameters()
            if p.requires_grad
        ]
        self.names, self.parameters = tuple(name for name, _ in found), [p for _, p in found]

    def read(self) -> Tensor:
        """Return the parameters as one vector."""
        return torch.cat([p.detach().flatten() for p in self.parameters])

    def write(self, flat: Tensor) -> None:
        """Set the parameters from one vector."""
        for p, values in zip(self.parameters, torch.split(flat, [p.numel() for p in self.parameters]), strict=True):
            p.data = values.clone().view(p.shape)

    def log_evidence(self, seed: int | None = None) -> Tensor:
        """Return the log evidence at the present parameters in nats, by more draws than a fit takes.

        Args:
            seed: seed of other draws than those of the fit.
        """
        number = 1 if self.model.likelihood.conjugate else self.rounds
        each = self._rounds(self.seed if seed is None else seed, 0, number)
        return (torch.logsumexp(each, 0) - math.log(len(each))).sum()

    @torch.no_grad()
    def reached(self) -> tuple[float, float]:
        """Return the log evidence and its standard error, both in nats, by as many draws as it takes.

        `log_evidence` takes as many from then on. The squared error is the sum over groups of those of the mean of
        rounds, relative to that mean; in closed form there is none.
        """
        if self.model.likelihood.conjugate:
            return self.log_evidence().item(), 0.0
        each, error = self._rounds(self.seed, 0, 1), math.inf
        for self.rounds in ROUNDS:
            each = torch.cat([each, self._rounds(self.seed, len(each), self.rounds)])
            mean = torch.logsumexp(each, 0) - math.log(len(each))
            error = ((each - mean).exp().var(0) / len(each)).sum().sqrt().nan_to_num(math.inf).item()
            if error < SURE:
                break
        return mean.sum().item(), error

    def _rounds(self, seed: int, first: int, end: int) -> Tensor:
        """Return the log evidence of each group by each of some rounds of draws, shape `(R, T)`."""
        return torch.stack([self._round(generator(seed, n)) for n in range(first, end)])

    def _round(self, rng: np.random.Generator) -> Tensor:
        terms = self._losses(group_evidence, OF_RESULTS, MORE * self.num_draws, rng)
        return -torch.cat([loss(self.model) for loss in terms])

    def _losses(
        self, bound: Bound, num_parts: int, num_draws: int, rng: np.random.Generator
    ) -> Iterator[Callable[[EmpiricalBayes], Tensor]]:
        """Yield minus the log evidence of each group of each part as a function of the model."""
        exact = Objective("evidence")
        for part in self.parts:
            if self.model.likelihood.conjugate:
                yield lambda model, part=part: exact.terms(model, part).loss.sum(0)  # type: ignore[misc]
                continue
            # One stream for all groups, one group after the other: how they are parted does not matter.
            shift = torch.from_numpy(rng.random((len(part), num_parts, self.model.predictor.num_weights)))
            noise = even_noise(num_draws, shift)
            yield lambda model, part=part, noise=noise: -bound(model, part, noise)  # type: ignore[misc]

    def _terms(self) -> Iterator[Callable[[EmpiricalBayes], Tensor]]:
        """Yield what is minimised, term by term: that of a part of the groups adds up to that of all."""
        for loss in self._losses(fitting_bound, OF_FITS, self.num_draws, generator(self.seed, 0)):
            yield lambda model, loss=loss: loss(model).sum()  # type: ignore[misc]
        if self.hyperprior is not False:
            log_density = log_hyperprior if self.hyperprior is True else self.hyperprior
            yield lambda model: -log_density(model)

    def value(self, flat: Tensor) -> float:
        """Return minus the log evidence (and hyperprior) in nats; infinite where it cannot be computed."""
        try:
            self.write(flat)
            with torch.no_grad():
                return sum(term(self.model).item() for term in self._terms())
        except (ValueError, RuntimeError):  # no Cholesky factor
            return float("inf")

    def values(self, flats: Tensor) -> Tensor:
        """Return `value` at each row of `(N, D)`, shape `(N,)`; change nothing."""
        members = Members(self.model, self.names, flats)
        try:
            with torch.no_grad():
                chunk = chunk_size(max(part.query_mask.numel() for part in self.parts))
                found: Tensor = sum((members.map(term, chunk=chunk) for term in self._terms()), torch.zeros(()))
        except (ValueError, RuntimeError):  # one without a Cholesky factor, or a hyperprior that asks for numbers
            kept = self.read()
            found = torch.tensor([self.value(flat) for flat in flats], dtype=flats.dtype)
            self.write(kept)
        return found

    def gradient(self, flat: Tensor) -> Tensor:
        """Return the gradient of `value`; NaN where it cannot be computed."""
        return self._both(flat)[1]

    @torch.enable_grad()
    def _both(self, flat: Tensor) -> tuple[float, Tensor]:
        value, gradient = 0.0, torch.zeros_like(flat)
        try:
            self.write(flat)
            for term in self._terms():  # the graph of one part at a time
                loss = term(self.model)
                found = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
                value, gradient = value + loss.item(), gradient + torch.cat([g.detach().flatten() for g in found])
        except (ValueError, RuntimeError):  # no Cholesky factor
            return math.inf, torch.full_like(flat, torch.nan)
        return value, gradient

    def maximise(self, max_iterations: int, held: Tensor | None = None, enough: float = ENOUGH) -> float:
        """Go to the maximum; return the nats that are still left to gain, at least.

        Args:
            max_iterations: of the optimiser.
            held: True where a parameter stays as it is, of the shape of `read`; none by default.
            enough: nats that may be left.
        """
        at = self.read()
        free = torch.ones_like(at, dtype=torch.bool) if held is None else ~held
        low, high = (bound.to(at)[free] for bound in self._bounds())
        at[free] = at[free].clamp(low, high)

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            at[free] = torch.from_numpy(values)
            value, gradient = self._both(at)
            return value, gradient[free].numpy()

        between = optimize.Bounds(low.numpy(), high.numpy())
        found = climb(loss, at[free].numpy(), max_iterations, between, enough)
        at[free] = torch.from_numpy(found.at)
        self.write(at)
        return found.left

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Return the least and the largest values of the parameters, both of the shape of `read`."""
        low, high = torch.full_like(self.read(), -math.inf), torch.full_like(self.read(), math.inf)
        scales, prior = self.mask(self.model.prior.log_scale), self.model.prior
        # A spread of next to nothing is as good as a smaller one, whose precision would leave no digits to the rest.
        low[scales] = math.log(SMALLEST)
        if (log_noise := self.model.likelihood.log_sigma) is not None:
            low[self.mask(log_noise)] = self._no_noise()
        if not self.model.likelihood.located:
            features = self.mask(prior.loc) & (torch.cumsum(self.mask(prior.loc), 0) < len(prior.loc))
            low[features], high[features], high[scales] = -FARTHEST, FARTHEST, math.log(FARTHEST)
        return low, high

    def fit(self, max_iterations: int) -> float:
        """Go to the maximum from the present parameters; return the nats that are still left to gain, at least."""
        if self.model.likelihood.has_level:  # else a spread of noise may take the place of all structure
            self.maximise(min(FIRST, max_iterations), self.mask(self.model.likelihood.log_ratio), 1.0)
        return self.maximise(max_iterations)

    def notes(self) -> list[str]:
        """Return notes on the maximum."""
        log_noise = self.model.likelihood.log_sigma
        if log_noise is None or self.model.likelihood.known:
            return []
        return [NO_NOISE] if float(log_noise.detach()) <= self._no_noise() else []

    def _no_noise(self) -> float:
        """Return the logarithm of noise that is none."""
        sizes = [s[m] for part in self.parts for s, m in _sizes(part) if s is not None]
        typical = float(torch.cat(sizes).double().log().mean()) if sizes else 0.0
        return math.log(SMALL_NOISE) + typical / 2

    def boundary(self, max_iterations: int) -> tuple[float, list[float], list[float]]:
        """Return the largest log evidence, those without the spread of each that varies, and what each of these left.

        None has the hyperprior, so that they can be compared. Changes nothing.
        """
        kept, hyperprior = self.read(), self.hyperprior
        self.hyperprior = False
        try:
            if hyperprior is not False:
                self.maximise(max_iterations, enough=ABOUT)
            with torch.no_grad():
                free = self.log_evidence().item()
            without = [self.without(p, max_iterations) for p in range(len(self.model.prior.log_scale))]
        finally:
            self.hyperprior = hyperprior
            self.write(kept)
        return free, [value for value, _ in without], [left for _, left in without]

    def mask(self, parameter: Tensor | nn.Module) -> Tensor:
        """Return True where a parameter is, of the shape of `read`."""
        return torch.cat([torch.full((p.numel(),), p is parameter) for p in self.parameters])

    def without(self, weight: int, max_iterations: int) -> tuple[float, float]:
        """Return the largest log evidence with one that varies (nearly) alike in all groups, and what is left to gain.

        Both in nats. Changes nothing.
        """
        kept, model, prior = self.read(), self.model, self.model.prior
        held = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in self.parameters}
        held[id(prior.log_scale)][weight] = True
        log_scale = float(prior.log_scale.data[weight])
        unit = log_scale if model.likelihood.located else 0.0  # elsewhere the linear predictor has a unit of its own
        low = max(min(unit, log_scale) + math.log(NEARLY_ZERO), math.log(SMALLEST))
        prior.log_scale.data[weight] = min(log_scale, low)
        lower = prior.correlations
        if lower is not None and id(lower) in held:  # its row of the factor would bring the scale back
            held[id(lower)][weight] = True
            lower.data[weight] = 0.0
        try:
            left = self.maximise(max_iterations, torch.cat([held[id(p)].flatten() for p in self.parameters]), ABOUT)
            with torch.no_grad():
                return self.log_evidence().item(), left
        finally:
            self.write(kept)


def log_hyperprior(model: EmpiricalBayes) -> Tensor:
    r"""Return $\sum_p (\log s_p - 0.1 s_p)$ of weights that vary: the log of a Gamma(2, 0.1) density of each."""
    scales = scales_of(model.prior)[list(model.prior.varying)]
    return (scales.log() - RATE * scales).sum()


def _sizes(part: TaskBatch) -> tuple[tuple[Tensor | None, Tensor], ...]:
    return (part.support_size, part.support_mask), (part.query_size, part.query_mask)


def scales_of(prior: Prior) -> Tensor:
    """Return the standard deviation $s_p$ of every weight over tasks, 0 of a common one, shape `(P,)`."""
    return prior.gaussian().expand(1, 1).scale[0, 0]
