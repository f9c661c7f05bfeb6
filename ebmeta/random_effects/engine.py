"""What a mixed model asks of the engine that fits it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ebmeta.likelihood.base import Likelihood
from ebmeta.random_effects.ascent import ENOUGH, Criterion, Optimum
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.effects import Effects, Estimate
from ebmeta.random_effects.restarts import restarts
from ebmeta.random_effects.rows import Rows

__all__ = ["LITTLE", "Engine", "Mask", "Numbers"]

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]
FOLDS = 20  # parts of a group that are left out, at most

SMALL, LITTLE = 1e-4, 0.01  # a relative spread that stands for 0, and one that is next to nothing
CLEAR = 4.0  # standard errors above 0: no other maximum is looked for at 0
ROUNDING, TINY = 1e-12, 1e-300  # make positive definite what is singular but for rounding
NO_ERROR = 1e-8  # of the largest curvature: a direction of which nothing is known has no error to state


class Engine(Criterion):
    """The criterion of a mixed model as a function of its parameters, and all that follows from these.

    Args:
        rows: labelled rows.
        factors: the covariance of each grouping factor.
    """

    #: What the summary says of the criterion.
    method: str
    #: Whether the criterion has a hyperprior.
    hyperprior: bool
    #: Whether the criterion is that of the residuals.
    reml: bool = False
    #: Nats that a finer rule changes the log likelihood by, where there is one.
    error: float = 0.0

    def __init__(self, rows: Rows, factors: list[Factor]) -> None:
        super().__init__()
        self.rows, self.factors = rows, factors
        self.num_theta = sum(f.size for f in factors)
        self.diagonal = np.concatenate([f.diagonal for f in factors])

    @abstractmethod
    def start(self) -> Array:
        """Return parameters to start from, those of the factors first."""

    @abstractmethod
    def scales(self, at: Array) -> tuple[float, dict[str, float]]:
        """Return the unit of the relative factors, and the parameters of the likelihood by name."""

    def estimate(self, at: Array) -> Estimate:
        """Return the parameters in the units of the labels."""
        return Estimate(self.coefficients(at), at[: self.num_theta], *self.scales(at), self.log_likelihood(at))

    @abstractmethod
    def log_likelihood(self, at: Array) -> float:
        """Return the log likelihood in nats, of the residuals for REML."""

    @abstractmethod
    def coefficients(self, at: Array) -> Array:
        """Return the coefficients of the common terms, shape `(P,)`."""

    @abstractmethod
    def common_inner(self, at: Array) -> tuple[Array, Array]:
        """Return a basis $B$ and the covariance $C$ in it of the coefficients of the common terms, each `(P, P)`."""

    def common_covariance(self, at: Array) -> Array:
        r"""Return the covariance of the coefficients of the common terms, $B C B^\top$, shape `(P, P)`."""
        basis, inner = self.common_inner(at)
        out: Array = basis @ inner @ basis.T
        return out

    def common_root(self, at: Array) -> Array:
        r"""Return $B C^{1/2}$, a factor of the same; columns far from 0 cost it half as many digits."""
        basis, inner = self.common_inner(at)
        values, vectors = np.linalg.eigh(inner)
        out: Array = basis @ (vectors * np.sqrt(values.clip(0)))
        return out

    @abstractmethod
    def common_given(self, at: Array) -> Array:
        """Return the covariance of the same, the parameters of the criterion known, shape `(P, P)`."""

    def freedom(self, at: Array, terms: Array | None = None) -> Array | None:
        """Return the degrees of freedom of the coefficients, shape `(P,)`; None where no approximation is known.

        Args:
            at: the parameters.
            terms: those of sums of coefficients instead, how often each is in each sum, shape `(N, P)`.
        """
        return None

    def unknown(self, at: Array) -> NDArray[np.bool_]:
        """Return of which parameters the labels say next to nothing, shape `(D,)`."""
        return np.zeros(len(at), dtype=bool)

    def given(self, at: Array) -> NDArray[np.bool_]:
        """Return which parameters are known and not fitted, shape `(D,)`."""
        return np.zeros(len(at), dtype=bool)

    def covariance(self, at: Array) -> Array:
        """Return the covariance of the parameters, the inverse curvature of the criterion, shape `(D, D)`.

        The variance of a parameter of which the labels say nothing is NaN, and that of a known one 0.
        """
        unknown = self.unknown(at)
        fitted = ~(unknown | self.given(at))
        known, out = np.ix_(fitted, fitted), np.diag(np.where(unknown, np.nan, 0.0))
        values, vectors = np.linalg.eigh(self.curvature(at)[known])
        kept = values > NO_ERROR * max(values.max(initial=0.0), TINY)
        inverse = np.where(kept, 1 / np.where(kept, values, 1.0), 0.0)
        out[known] = vectors @ (inverse[:, None] * vectors.T)
        return out

    def settle(self, at: Array) -> None:
        """Keep what predictions start from, so that they depend on nothing that was asked before."""

    def state(self, at: Array) -> dict[str, Array]:
        """Return what the engine has found beside the parameters `at`, to be given to `restore`."""
        return {"curvature": self.curvature(at)}

    def restore(self, at: Array, state: Mapping[str, Array]) -> None:
        """Take over what an engine of the same rows has found at the parameters."""
        self._curved = at.copy(), state["curvature"]

    @contextmanager
    def unmoved(self, at: Array) -> Iterator[None]:
        """Leave no trace of further fits in what is asked later."""
        state = self.state(at)
        try:
            yield
        finally:
            self.restore(at, state)

    def plain(self) -> Engine:
        """Return the criterion of the same rows that is a likelihood: itself where it is one."""
        return self.rebuild(self.rows, self.factors) if self.hyperprior else self

    def log_posterior(self, at: Array) -> float:
        """Return the log density of the parameters given all labels, up to a constant; see `propagation`."""
        return -self.loss(at)[0]

    @abstractmethod
    def each_group(self, at: Array, rng: np.random.Generator) -> Array:
        """Return the log density of the labels of each group, shape `(G,)`, in nats; for one grouping factor.

        Args:
            at: the parameters.
            rng: of the coefficients of the common terms, which are drawn where these do not give them.
        """

    @abstractmethod
    def effects(self, at: Array, rows: Rows | None = None, groups: Numbers | None = None) -> list[Effects]:
        """Return the effects of the groups of each factor.

        Args:
            at: the parameters.
            rows: of the groups, the fitted ones by default.
            groups: numbers of some of the fitted groups, in order, where others are not wanted; of one factor.
        """

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

    def linear(self, at: Array, effects: list[Effects], rows: Rows, common: Array | None = None) -> Array:
        """Return mean, variance and third central moment of the linear predictor of new rows, shape `(3, N)`.

        Where labels may be silent there follow how probably those of the group are, and mean and variance if they are.

        Args:
            at: the parameters.
            effects: of the known groups at these.
            rows: rows whose new groups are numbered after the known ones.
            common: factor of the covariance of the coefficients of common terms, whose share is added.
        """
        sigma, common_part = self.scales(at)[0], rows.x @ self.coefficients(at) + rows.offset
        loc, slope = common_part.copy(), rows.x.copy()
        (var, third), silent = np.zeros((2, len(rows))), list[Array]()
        for place, (factor, theta) in enumerate(zip(self.factors, self.thetas(at), strict=True)):
            lower = sigma * factor.lower(theta)
            prior, g = lower @ lower.T, rows.groupings[place].codes
            every, z = self._all_groups(at, effects[place], place, rows, prior), factor.whiten(rows.groupings[place].z)
            loc += np.einsum("nk,nk->n", z, every.mean[g])
            var += np.einsum("nk,nkl,nl->n", z, every.covariance[g], z)
            slope += np.einsum("nk,nkp->np", z, every.slope[g])
            if every.silent is not None:
                silent = [every.silent[g], common_part, np.einsum("nk,kl,nl->n", z, prior, z)]
            if every.third is not None:
                third += np.einsum("nk,nl,nm,nklm->n", z, z, z, every.third[g], optimize=True)
        if common is not None:
            var += ((slope @ common) ** 2).sum(1)
            silent[2:] = [own + ((rows.x @ common) ** 2).sum(1) for own in silent[2:]]
        return np.stack([loc, var, third, *silent])

    def left_out(self, at: Array, effects: list[Effects]) -> Array:
        """Return what `linear` does of each fitted row, given the others of its group.

        Of a group of more than `FOLDS` rows, as many parts are left out in turn.

        Args:
            at: the parameters.
            effects: of the groups at these.
        """
        grouping, found = self.rows.groupings[0], np.zeros((3 if effects[0].silent is None else 6, len(self.rows)))
        order, place = np.argsort(grouping.codes, kind="stable"), np.empty(len(self.rows), dtype=np.int64)
        counts = np.bincount(grouping.codes)
        place[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        for fold in range(min(int(counts.max()), FOLDS)):
            out = place % FOLDS == fold
            some = counts[grouping.codes] > fold
            fresh = np.concatenate([grouping.labels, np.arange(len(grouping.labels))]).astype(object)
            asked = replace(self.rows, y=np.where(out, np.nan, self.rows.y))
            asked = asked.regrouped(0, grouping.codes + len(grouping.labels), fresh).take(some)
            found[:, out] = self.linear(at, effects, asked)[:, out[some]]
        return found

    def _all_groups(self, at: Array, known: Effects, place: int, rows: Rows, prior: Array) -> Effects:
        """Return the inner effects of known and new groups of one factor; labelled rows say something of new ones."""
        assert known.inner is not None  # for the type checker: of an engine
        known, grouping = known.inner, rows.groupings[place]
        num_new = len(grouping.labels) - len(known.mean)

        def padded(known: Array) -> Array:
            return np.concatenate([known, np.zeros((num_new, *known.shape[1:]))])

        means, slopes = padded(known.mean), padded(known.slope)
        thirds, silent = (None if v is None else padded(v) for v in (known.third, known.silent))
        covariances = np.concatenate([known.covariance, np.broadcast_to(prior, (num_new, *prior.shape))])
        told = np.isfinite(rows.y) & (grouping.codes >= len(known.mean))
        if told.any():
            numbers, codes = np.unique(grouping.codes[told], return_inverse=True)
            found = self.effects(at, rows.take(told).regrouped(place, codes, grouping.labels[numbers]))[place].inner
            assert found is not None
            means[numbers], covariances[numbers], slopes[numbers] = found.mean, found.covariance, found.slope
            if thirds is not None:
                thirds[numbers] = found.third
            if silent is not None:
                silent[numbers] = found.silent
        return Effects(means, covariances, slopes, third=thirds, silent=silent)

    def draw_common(self, at: Array, rng: np.random.Generator) -> Array:
        """Return a draw of the coefficients of the common terms, shape `(P,)`; where the parameters give them, these.

        Args:
            at: the parameters.
            rng: of the draw.
        """
        drawn: Array = self.coefficients(at)
        if self.common_given(at).any():
            drawn = drawn + self.common_root(at) @ rng.standard_normal(len(drawn))
        return drawn

    def draw_effects(self, at: Array, effects: list[Effects], shift: Array, rng: np.random.Generator) -> list[Array]:
        """Return draws of the effects of all groups, `(G, K)` for each factor.

        Args:
            at: the parameters.
            effects: at these.
            shift: of the coefficients of the common terms from their estimates, shape `(P,)`.
            rng: of the draws.
        """
        out = []
        for factor, each in zip(self.factors, effects, strict=True):
            found = each.inner
            assert found is not None  # for the type checker: of an engine
            size = np.einsum("gkk->g", found.covariance) * ROUNDING + TINY
            root = np.linalg.cholesky(found.covariance + size[:, None, None] * np.eye(found.mean.shape[1]))
            own = np.einsum("gkl,gl->gk", root, rng.standard_normal(found.mean.shape))
            out.append((found.mean + found.slope @ shift + own) @ factor.inverse.T)
        return out

    def lower_bounds(self) -> Array:
        out = super().lower_bounds()
        out[: self.num_theta][self.diagonal] = 0.0
        return out

    def maximise(self, start: Array | None = None, held: Mask | None = None, least: float = -np.inf) -> Optimum:
        """Go to the maximum; where a spread ends near 0, try again from inside (`restarts`), and without it.

        Args:
            start: the parameters to start from.
            held: True where a parameter stays 0.
            least: minus a log criterion that is known to be no less than the maximum; no other is looked for there.
        """
        begin = self.start() if start is None else start.copy()
        held = np.zeros(len(begin), dtype=bool) if held is None else held
        begin[held] = 0.0
        best = self.ascend(begin, held)
        if best.value < least + ENOUGH:
            return best
        spreads = np.where(self.diagonal, best.at[: self.num_theta], 1.0)
        little = np.append(spreads < LITTLE, np.zeros(len(begin) - self.num_theta, dtype=bool)) & ~held
        none = bool((little[: self.num_theta] & (spreads < SMALL)).any())
        for again in restarts(self.factors, best.at, little) if little.any() else ():
            other = self.ascend(np.where(held, 0.0, again), held)
            evaluations = best.evaluations + other.evaluations
            best = (other if other.value < best.value - ENOUGH else best)._replace(evaluations=evaluations)
        return best if none or self.hyperprior else self._or_without(best, held)

    def _or_without(self, best: Optimum, held: Mask) -> Optimum:
        """Return the maximum without the spreads of a factor where it is higher: unequal groups may have two maxima."""
        clear, end = best.at > CLEAR * np.sqrt(np.diag(self.covariance(best.at)).clip(0)), 0
        for factor in self.factors:
            own = np.zeros(len(held), dtype=bool)
            own[end : (end := end + factor.size)] = True
            if held[own].any() or clear[: self.num_theta][own[: self.num_theta] & self.diagonal].any():
                continue
            other = self.ascend(np.where(own, 0.0, best.at), held | own)
            evaluations = best.evaluations + other.evaluations
            best = (other if other.value < best.value - ENOUGH else best)._replace(evaluations=evaluations)
        return best

    def thetas(self, at: Array) -> list[Array]:
        """Return the parameters of each factor."""
        return list(np.split(at[: self.num_theta], np.cumsum([f.size for f in self.factors])[:-1]))
