r"""Empirical Bayes in the statistician's sense: the prior that makes all labels of all groups likeliest.

$$ \hat\psi = \arg\max_\psi \sum_t \log p_\psi(y_t) + \sum_p (\log s_p - 0.1 s_p), \qquad s_p = \sqrt{\Sigma_{pp}}, $$

over all groups at once, by L-BFGS. The second sum, where asked for, is a Gamma(2, 0.1) hyperprior on every standard
deviation of the prior, in units of the training labels. Without it the maximum can sit at $s_p = 0$ when groups are
few, and every group is then predicted as if it were the average one. Source: Chung, Rabe-Hesketh, Dorie, Gelman and
Liu 2013, A nondegenerate penalized likelihood estimator for variance parameters in multilevel models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from ebmeta.buckets import split
from ebmeta.checks import at_least, checked
from ebmeta.group_sampling import GroupSampler
from ebmeta.members import Members, chunk_size
from ebmeta.model import EmpiricalBayes
from ebmeta.objective import Objective
from ebmeta.preparation import check_columns, check_groups, measure
from ebmeta.prior import FullPrior, Prior
from ebmeta.sampling import generator
from ebmeta.tasks import TaskBatch

__all__ = ["Evidence", "EvidenceFit", "Hyperprior", "boundary_threshold", "fit_evidence", "log_hyperprior"]

Hyperprior = Callable[[EmpiricalBayes], Tensor]

ROWS = 8192  # of a part: some hundred megabytes for a likelihood that takes sixteen steps of quadrature
LEVEL = 0.05  # of the test by which a scale is told from 0
RATE = 0.1  # of the hyperprior: its mean is 20 standard deviations of the labels
FAR = 1e15  # stands for a loss that cannot be computed
NEARLY_ZERO = 1e-3  # of the fitted scale: stands for 0 where the evidence at the boundary is asked for
ENOUGH = 1e-5  # relative change at which the fit at the boundary may stop: hundredths of a nat
SMALLEST = 1e-6  # scale below which a fitted one stands for 0 itself


@checked()
@dataclass(frozen=True, eq=False)
class EvidenceFit:
    r"""What `fit_evidence` found.

    Args:
        model: the fitted model.
        log_evidence: $\sum_t \log p_\psi(y_t)$ in nats, without the hyperprior.
        scales: standard deviation $s_p$ of every weight over groups, shape `(P,)`, in units of the model.
        gain: log evidence lost in nats, where $s_p$ is held at 0 and all else is fitted anew, shape `(P,)`; None where
            that was not asked for.
        converged: whether the optimiser says that it has.
        hyperprior: whether the fit had one.
    """

    model: EmpiricalBayes
    log_evidence: float
    scales: Tensor
    gain: Tensor | None
    converged: bool
    hyperprior: bool = False

    @property
    def at_boundary(self) -> list[int]:
        """Weights whose standard deviation over groups the data cannot tell from 0; see `boundary_threshold`.

        Raises:
            ValueError: if the fit was made with `boundary=False`.
        """
        if self.gain is None:
            raise ValueError("at_boundary: expected a fit with boundary=True, got one that did not look")
        return [int(p) for p in (self.gain < boundary_threshold(len(self.gain))).nonzero().flatten()]

    def __str__(self) -> str:
        """Return the finding in words."""
        head = f"log evidence {self.log_evidence:.2f} nats"
        if self.gain is None:
            return head
        found = self.at_boundary
        if not found:
            return f"{head}; every weight differs between groups beyond doubt"
        last = len(self.scales) - 1
        names = ", ".join("intercept" if p == last else f"weight {p}" for p in found)
        gains = ", ".join(f"{max(float(self.gain[p]), 0.0):.2f}" for p in found)
        advice = "intervals that take it for 0 would be too narrow, so fit with hyperprior=True"
        if self.hyperprior:
            advice = "the hyperprior keeps it above 0; ebmeta.propagate averages over what is left open"
        return (
            f"{head}; the data cannot tell the spread over groups from 0 for: {names} "
            f"(holding it at 0 costs {gains} nats); {advice}"
        )


@checked(num_draws=at_least(1), max_iterations=at_least(1))
def fit_evidence(
    model: EmpiricalBayes,
    tasks: GroupSampler | TaskBatch,
    *,
    hyperprior: bool | Hyperprior = False,
    boundary: bool = True,
    num_draws: int = 16,
    max_iterations: int = 500,
    seed: int = 0,
) -> EvidenceFit:
    r"""Fit the prior and the likelihood's parameters to all labels of all groups, in place.

    The refiner is not trained: it needs unlabelled rows and `ebmeta.fit`. Computes in 64 bits; the model comes back in
    its own type.

    Args:
        model: a model for numbers, `EmpiricalBayes.regressor`.
        tasks: groups; every row counts as labelled.
        hyperprior: True to keep every standard deviation of the prior off 0 (see above), or a function of the model
            that returns a log density of its parameters as they are (scales and noise by their logarithm).
        boundary: find out which spreads the data cannot tell from 0, by another fit for each weight.
        num_draws: draws of the importance-weighted bound, for likelihoods that are not normal.
        max_iterations: of the optimiser.
        seed: seed of those draws.

    Returns:
        The fit, with what it says of the boundary.

    Raises:
        ValueError: if the model is a classifier, or tasks are unlabelled or do not fit the model.

    Examples:
        >>> X, groups = np.ones((6, 1)), np.repeat([0, 1, 2], 2)
        >>> tasks = GroupSampler(X, np.array([1.0, 1.2, 3.0, 3.1, 5.2, 5.0]), groups, n_support=1)
        >>> fit_evidence(EmpiricalBayes.regressor(1, num_steps=0), tasks, hyperprior=True).converged
        True
    """
    if model.likelihood.categorical:
        raise ValueError("fit_evidence: expected a model for numbers, got a classifier")
    dtype = next(model.parameters()).dtype
    evidence = Evidence(model.double(), tasks, hyperprior=hyperprior, num_draws=num_draws, seed=seed)

    if model.likelihood.has_level:  # else a spread of noise may take the place of all structure
        evidence.maximise(max_iterations, evidence.mask(model.likelihood.log_ratio), ENOUGH)
    converged = evidence.maximise(max_iterations)
    with torch.no_grad():
        reached, scales = evidence.log_evidence().item(), _scales(model.prior)
    gain = None
    if boundary:
        without = [evidence.without(p, max_iterations) for p in range(len(scales))]
        gain = reached - torch.tensor(without, dtype=scales.dtype)
    model.to(dtype)
    return EvidenceFit(model, reached, scales, gain, converged, hyperprior is not False)


class Evidence:
    """The log evidence of all groups as a function of the parameters of prior, likelihood and predictor.

    Groups of like size are looked at together, some thousand rows at a time, and their terms and gradients add up:
    memory follows the number of rows and not the largest group. A group has the same draws whatever its part.

    Args:
        model: a model in 64 bits; its parameters are written to.
        tasks: groups; every row counts as labelled.
        hyperprior: add the log hyperprior; see `fit_evidence`.
        num_draws: draws of the importance-weighted bound.
        seed: seed of those draws.
    """

    def __init__(
        self,
        model: EmpiricalBayes,
        tasks: GroupSampler | TaskBatch,
        *,
        hyperprior: bool | Hyperprior,
        num_draws: int = 16,
        seed: int = 0,
    ) -> None:
        if isinstance(tasks, GroupSampler):
            check_groups(model, tasks)
        check_columns(model, tasks)
        least = model.predictor.num_weights
        if isinstance(tasks, GroupSampler):
            self.parts = list(tasks.parts(ROWS, least))
        else:
            model.check(tasks)
            lengths = (tasks.support_mask.sum(1) + tasks.query_mask.sum(1)).clamp(min=least)
            self.parts = [tasks[torch.from_numpy(part)].trimmed() for part in split(lengths.cpu().numpy(), ROWS)]
        self.model, self.hyperprior, self.seed = model.eval(), hyperprior, seed
        self.objective = Objective("evidence", num_draws=num_draws)
        for part in self.parts:
            model.check(part)
        measure(model, self.parts, tasks)
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

    def log_evidence(self) -> Tensor:
        """Return the log evidence at the present parameters in nats."""
        return -torch.stack([loss(self.model) for loss in self._losses()]).sum()

    def _losses(self) -> Iterator[Callable[[EmpiricalBayes], Tensor]]:
        """Yield minus the log evidence of each part as a function of the model, which adds up to that of all groups."""
        rng = generator(self.seed, 0)
        for part in self.parts:
            shape = (len(part), self.objective.num_draws, 1, self.model.predictor.num_weights)
            # One stream for all groups, one group after the other: how they are parted does not matter.
            noise = torch.from_numpy(rng.standard_normal(shape)).transpose(0, 1)

            def loss(model: EmpiricalBayes, part: TaskBatch = part, noise: Tensor = noise) -> Tensor:
                return self.objective.terms(model, part, noise=noise).loss.sum()

            yield loss

    def _terms(self) -> Iterator[Callable[[EmpiricalBayes], Tensor]]:
        """Yield what is minimised, term by term."""
        yield from self._losses()
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

    def _both(self, flat: Tensor) -> tuple[float, Tensor]:
        value, gradient = 0.0, torch.zeros_like(flat)
        try:
            self.write(flat)
            for term in self._terms():  # the graph of one part at a time
                loss = term(self.model)
                found = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
                value, gradient = value + loss.item(), gradient + torch.cat([g.flatten() for g in found])
        except (ValueError, RuntimeError):  # no Cholesky factor
            return math.inf, torch.full_like(flat, torch.nan)
        return value, gradient

    def maximise(self, max_iterations: int, held: Tensor | None = None, tolerance: float = 2e-9) -> bool:
        """Go to the maximum by L-BFGS; return whether the optimiser says that it is there.

        Args:
            max_iterations: of the optimiser.
            held: True where a parameter stays as it is, of the shape of `read`; none by default.
            tolerance: relative change of the objective at which to stop.
        """
        at = self.read()
        free = torch.ones_like(at, dtype=torch.bool) if held is None else ~held

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            at[free] = torch.from_numpy(values)
            value, gradient = self._both(at)
            # A step too far for positive definite precisions: the line search takes a shorter one.
            good = np.isfinite(value) and bool(gradient.isfinite().all())
            return (value, gradient[free].numpy()) if good else (FAR, np.zeros_like(values))

        options = {"maxiter": max_iterations, "maxls": 50, "ftol": tolerance}
        found = optimize.minimize(loss, at[free].numpy(), jac=True, method="L-BFGS-B", options=options)
        at[free] = torch.from_numpy(found.x)
        self.write(at)
        return bool(found.success)

    def mask(self, parameter: Tensor | nn.Module) -> Tensor:
        """Return True where a parameter is, of the shape of `read`."""
        return torch.cat([torch.full((p.numel(),), p is parameter) for p in self.parameters])

    def without(self, weight: int, max_iterations: int) -> float:
        """Return the largest log evidence in nats with one weight (nearly) the same in all groups; change nothing."""
        kept, hyperprior, prior = self.read(), self.hyperprior, self.model.prior
        held = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in self.parameters}
        held[id(prior.log_scale)][weight] = True
        log_scale = float(prior.log_scale.data[weight])
        prior.log_scale.data[weight] = min(log_scale, max(log_scale + math.log(NEARLY_ZERO), math.log(SMALLEST)))
        if isinstance(prior, FullPrior) and id(prior.lower) in held:  # its row of the factor would bring the scale back
            held[id(prior.lower)][weight] = True
            prior.lower.data[weight] = 0.0
        self.hyperprior = False
        try:
            self.maximise(max_iterations, torch.cat([held[id(p)].flatten() for p in self.parameters]), ENOUGH)
            with torch.no_grad():
                return self.log_evidence().item()
        finally:
            self.hyperprior = hyperprior
            self.write(kept)


@cache
def boundary_threshold(num_weights: int) -> float:
    r"""Return the nats that the spread of one weight among $P$ has to gain to be told from 0 at the 5% level.

    Without it there is one variance less, at its boundary, and $P - 1$ covariances: twice the gain is then distributed
    as an even mixture of $\chi^2_{P-1}$ and $\chi^2_P$ when groups are many.

    Source: Stram and Lee 1994, Variance components testing in the longitudinal mixed effects model.

    Args:
        num_weights: $P$.

    Examples:
        >>> round(boundary_threshold(1), 3), round(boundary_threshold(2), 3)
        (1.353, 2.569)
    """

    def excess(twice: float) -> float:
        below = stats.chi2.sf(twice, num_weights - 1) if num_weights > 1 else 0.0
        return float((below + stats.chi2.sf(twice, num_weights)) / 2 - LEVEL)

    return float(optimize.brentq(excess, 1e-9, 100.0 + 10 * num_weights)) / 2


def log_hyperprior(model: EmpiricalBayes) -> Tensor:
    r"""Return $\sum_p (\log s_p - 0.1 s_p)$, the log of a Gamma(2, 0.1) density of each scale up to a constant."""
    scales = _scales(model.prior)
    return (scales.log() - RATE * scales).sum()


def _scales(prior: Prior) -> Tensor:
    return prior.gaussian().expand(1, 1).scale[0, 0]
