"""What a mixed model asks of the engine that fits it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ebmeta.likelihood.base import Likelihood
from ebmeta.mixed.covariance import Factor
from ebmeta.mixed.rows import Rows

__all__ = ["Effects", "Engine", "Estimate", "Optimum", "orthonormal"]

Array = NDArray[np.float64]

STEP = 1e-4  # of the differences of gradients that give curvatures
INSIDE = 0.1  # where an ascent starts again that ended with a spread of 0
SMALL = 1e-4  # a relative spread below it stands for 0
ENOUGH = 1e-6  # nats that are next to nothing
CLOSE = 1e-3  # nats that a maximum may leave
ROUNDING, TINY = 1e-12, 1e-300  # make positive definite what is singular but for rounding
ROUNDS = 10  # of an optimiser, at most
POLISH = 20  # Newton steps, and halvings of one, at most
SINGULAR = 1e-10  # of the largest curvature: a direction that nothing is known of
DEPENDENT = 1e-9  # of a term's length: less is left of one that is a combination of others


class Optimum(NamedTuple):
    """Where an ascent ended.

    Args:
        at: the parameters, shape `(D,)`.
        value: minus the log criterion in nats.
        converged: whether Newton's step would gain next to nothing.
        evaluations: of the criterion.
    """

    at: Array
    value: float
    converged: bool
    evaluations: int


class Estimate(NamedTuple):
    r"""The parameters in the units of the labels.

    Args:
        beta: coefficients of the common terms, shape `(P,)`.
        theta: entries of the relative factors of all grouping factors, one after the other.
        sigma: unit of the relative factors, the noise of a row of typical size; 1 for likelihoods without noise.
        learned: other parameters of the likelihood by name.
        log_likelihood: in nats; of the residuals for REML.
    """

    beta: Array
    theta: Array
    sigma: float
    learned: dict[str, float]
    log_likelihood: float


class Effects(NamedTuple):
    r"""What is known of the effects of groups, in the units of the labels.

    Args:
        mean: shape `(G, K)`.
        covariance: shape `(G, K, K)`, the parameters known.
        slope: change of the mean with the coefficients of the common terms, shape `(G, K, P)`.
    """

    mean: Array
    covariance: Array
    slope: Array


class Engine(ABC):
    """The criterion of a mixed model as a function of its parameters, and all that follows from these.

    Args:
        rows: labelled rows.
        factors: the covariance of each grouping factor.
    """

    #: What the summary says of the criterion.
    method: str
    #: Whether the criterion has a hyperprior.
    hyperprior: bool
    #: Number of parameters.
    num_parameters: int

    def __init__(self, rows: Rows, factors: list[Factor]) -> None:
        self.rows, self.factors = rows, factors
        self._curved: tuple[Array, Array] | None = None
        self.num_theta = sum(f.size for f in factors)
        self.diagonal = np.concatenate([f.diagonal for f in factors])

    @abstractmethod
    def start(self) -> Array:
        """Return parameters to start from, those of the factors first."""

    @abstractmethod
    def loss(self, at: Array) -> tuple[float, Array]:
        """Return minus the log criterion in nats, and its gradient."""

    @abstractmethod
    def scales(self, at: Array) -> tuple[float, dict[str, float]]:
        """Return the unit of the relative factors, and the parameters of the likelihood by name."""

    @abstractmethod
    def estimate(self, at: Array) -> Estimate:
        """Return the parameters in the units of the labels."""

    @abstractmethod
    def common_covariance(self, at: Array) -> Array:
        """Return the covariance of the coefficients of the common terms, shape `(P, P)`."""

    @abstractmethod
    def common_given(self, at: Array) -> Array:
        """Return the covariance of the same, the parameters of the criterion known, shape `(P, P)`."""

    def log_posterior(self, at: Array) -> float:
        """Return the log density of the parameters given all labels, up to a constant; see `propagation`."""
        return -self.loss(at)[0]

    @abstractmethod
    def effects(self, at: Array, rows: Rows | None = None) -> list[Effects]:
        """Return the effects of the groups of each factor, of the fitted rows by default."""

    @abstractmethod
    def rebuild(self, rows: Rows, factors: list[Factor]) -> Engine:
        """Return the criterion of rows with other random terms, without a hyperprior."""

    @abstractmethod
    def likelihood(self, at: Array) -> Likelihood:
        """Return the likelihood of labels given the linear predictor, in 64 bits."""

    @abstractmethod
    def check(self, at: Array) -> None:
        """Raise `ValueError` where a parameter of the maximum is without end, naming its term."""

    def precisions(self, rows: Rows) -> Array | None:
        """Return the sizes of rows as the likelihood takes them, shape `(N,)`; None where all are 1."""
        return rows.size

    def linear(self, at: Array, effects: list[Effects], rows: Rows, common: bool = False) -> tuple[Array, Array]:
        """Return location and variance of the linear predictor of new rows, each of shape `(N,)`.

        Args:
            at: the parameters.
            effects: of the known groups at these.
            rows: rows whose new groups are numbered after the known ones.
            common: add the variance that the coefficients of common terms have.
        """
        estimate = self.estimate(at)
        loc, var, slope = rows.x @ estimate.beta + rows.offset, np.zeros(len(rows)), rows.x.copy()
        for place, (factor, theta) in enumerate(zip(self.factors, self.thetas(at), strict=True)):
            prior = factor.covariance(theta, estimate.sigma)
            means, covariances, slopes = self._all_groups(at, effects[place], place, rows, prior)
            z, g = rows.groupings[place].z, rows.groupings[place].codes
            loc += np.einsum("nk,nk->n", z, means[g])
            var += np.einsum("nk,nkl,nl->n", z, covariances[g], z)
            slope += np.einsum("nk,nkp->np", z, slopes[g])
        if common:
            var += np.einsum("np,pq,nq->n", slope, self.common_given(at), slope)
        return loc, var

    def _all_groups(self, at: Array, known: Effects, place: int, rows: Rows, prior: Array) -> Effects:
        """Return the effects of known and new groups of one factor; labelled rows say something of new ones."""
        grouping = rows.groupings[place]
        num_new = len(grouping.labels) - len(known.mean)
        means = np.concatenate([known.mean, np.zeros((num_new, len(prior)))])
        covariances = np.concatenate([known.covariance, np.broadcast_to(prior, (num_new, *prior.shape))])
        slopes = np.concatenate([known.slope, np.zeros((num_new, *known.slope.shape[1:]))])
        told = np.isfinite(rows.y) & (grouping.codes >= len(known.mean))
        if len(self.factors) == 1 and told.any():
            numbers, codes = np.unique(grouping.codes[told], return_inverse=True)
            found = self.effects(at, rows.take(told).regrouped(place, codes, grouping.labels[numbers]))[place]
            means[numbers], covariances[numbers], slopes[numbers] = found.mean, found.covariance, found.slope
        return Effects(means, covariances, slopes)

    def draw_effects(self, at: Array, effects: list[Effects], shift: Array, rng: np.random.Generator) -> list[Array]:
        """Return draws of the effects of all groups, `(G, K)` for each factor.

        Args:
            at: the parameters.
            effects: at these.
            shift: of the coefficients of the common terms from their estimates, shape `(P,)`.
            rng: of the draws.
        """
        out = []
        for found in effects:
            size = np.einsum("gkk->g", found.covariance) * ROUNDING + TINY
            root = np.linalg.cholesky(found.covariance + size[:, None, None] * np.eye(found.mean.shape[1]))
            own = np.einsum("gkl,gl->gk", root, rng.standard_normal(found.mean.shape))
            out.append(found.mean + found.slope @ shift + own)
        return out

    def lower_bounds(self) -> Array:
        """Return the least values of the parameters."""
        out = np.full(self.num_parameters, -math.inf)
        out[: self.num_theta][self.diagonal] = 0.0
        return out

    def upper_bounds(self) -> Array:
        """Return the largest values of the parameters."""
        return np.full(self.num_parameters, math.inf)

    def maximise(self, start: Array | None = None, held: NDArray[np.bool_] | None = None) -> Optimum:
        """Go to the maximum; where a spread ends at 0, try again from inside, since the slope there says nothing.

        Args:
            start: the parameters to start from.
            held: True where a parameter stays 0.
        """
        begin = self.start() if start is None else start.copy()
        held = np.zeros(len(begin), dtype=bool) if held is None else held
        begin[held] = 0.0
        best = self._descend(begin, held)
        small = np.zeros(len(begin), dtype=bool)
        small[: self.num_theta] = self.diagonal & (best.at[: self.num_theta] < SMALL)
        small &= ~held
        if small.any():
            again = best.at.copy()
            again[small] = INSIDE
            other = self._descend(again, held)
            evaluations = best.evaluations + other.evaluations
            best = (other if other.value < best.value - ENOUGH else best)._replace(evaluations=evaluations)
        return self._polished(best, held)

    def _polished(self, found: Optimum, held: NDArray[np.bool_]) -> Optimum:
        """Go on by Newton's steps until one would gain next to nothing."""
        at, value, evaluations, gain = found.at, found.value, found.evaluations, math.inf
        low, high = self.lower_bounds(), self.upper_bounds()
        for _ in range(POLISH):
            gradient, hessian = self.loss(at)[1], self.curvature(at)
            evaluations += 2 * len(at) + 1
            free = ~held & ((at > low) | (gradient < 0)) & ((at < high) | (gradient > 0))
            step = np.zeros(len(at))
            values, vectors = np.linalg.eigh(hessian[np.ix_(free, free)])
            bend = np.abs(values).clip(SINGULAR * np.abs(values).max(initial=0.0))  # down from a saddle too
            step[free] = -vectors @ (vectors.T @ gradient[free] / bend)
            gain = -float(gradient @ step) / 2
            if not ENOUGH < gain < math.inf:
                break
            for share in 0.5 ** np.arange(POLISH):
                new = np.clip(at + share * step, low, high)
                evaluations += 1
                if (other := self.loss(new)[0]) < value:
                    break
            else:
                break
            at, value = new, other
        return Optimum(at, value, abs(gain) < CLOSE, evaluations)

    def _descend(self, begin: Array, held: NDArray[np.bool_]) -> Optimum:
        at, low, high = begin.copy(), self.lower_bounds()[~held], self.upper_bounds()[~held]
        if held.all():
            return Optimum(at, self.loss(at)[0], True, 1)

        def loss(values: Array) -> tuple[float, Array]:
            at[~held] = values
            value, gradient = self.loss(at)
            return value, gradient[~held]

        options = {"maxiter": 500, "maxls": 50, "ftol": 1e-13, "gtol": 1e-5, "maxcor": 30}
        value, where, evaluations = math.inf, begin[~held], 0
        for _ in range(ROUNDS):  # a step far too long may end a round; the next one has an empty memory
            found = optimize.minimize(
                loss, where, jac=True, method="L-BFGS-B", bounds=optimize.Bounds(low, high), options=options
            )
            gain, value, where = value - float(found.fun), float(found.fun), found.x
            evaluations += int(found.nfev)
            if gain < ENOUGH or (
                found.success and np.abs(found.jac[(where > low) & (where < high)]).max(initial=0) < 1
            ):
                break
        at[~held] = where
        return Optimum(at, value, False, evaluations)

    def curvature(self, at: Array) -> Array:
        """Return the Hessian of the loss, from differences of gradients, shape `(D, D)`."""
        if self._curved is not None and np.array_equal(self._curved[0], at):
            return self._curved[1]
        columns = []
        for i in range(len(at)):
            step = STEP * max(abs(at[i]), 1.0)
            ends = [self.loss(at + sign * step * np.eye(len(at))[i])[1] for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * step))
        both: Array = np.stack(columns)
        self._curved = at.copy(), (both + both.T) / 2
        return self._curved[1]

    def thetas(self, at: Array) -> list[Array]:
        """Return the parameters of each factor."""
        return list(np.split(at[: self.num_theta], np.cumsum([f.size for f in self.factors])[:-1]))


def orthonormal(x: Array, names: list[str]) -> tuple[Array, Array]:
    """Return orthonormal columns that span those of `x`, and the triangular factor that gives `x` back.

    Raises:
        ValueError: if a column is a combination of those before it.
    """
    q, r = np.linalg.qr(x)
    bad = np.abs(np.diag(r)) <= DEPENDENT * np.sqrt((r**2).sum(0))
    if len(r) < x.shape[1] or bad.any():
        name = names[int(np.argmax(bad)) if bad.any() else len(r)]
        raise ValueError(
            f"term {name!r}: expected one that is no combination of the terms before it, got values that these "
            "determine (leave it out)"
        )
    return q, r
