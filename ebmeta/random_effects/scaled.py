r"""What the criteria of normal labels share: labels in units of their standard deviation, and the best coefficients.

Given the relative factors $\Lambda$, the coefficients $\beta$ are the generalised least-squares solution, so that the
criterion is a function of $\Lambda$ and $\log \sigma$ alone,

$$ -2 \log p(y) = \log |I + \Lambda^\top Z^\top Z \Lambda| + n \log 2 \pi \sigma^2 + r^2 / \sigma^2 . $$

REML adds $\log |X^\top V^{-1} X|$ and takes $n - P$ for $n$.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from ebmeta.likelihood.base import Likelihood
from ebmeta.likelihood.real import Normal
from ebmeta.random_effects.covariance import Factor, log_hyperprior
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.freedom import satterthwaite
from ebmeta.random_effects.rows import Rows
from ebmeta.random_effects.tall import check_terms, parts_of, triangle

__all__ = ["LOG_2PI", "ScaledEngine", "Solved", "Some", "solved_of"]

Array = NDArray[np.float64]
Some = slice | NDArray[np.int64]  # of rows
ALL = slice(None)
LOG_2PI = math.log(2 * math.pi)
SPREAD, NOISE = 0.5, 0.7  # where an ascent starts: relative to the noise, and in standard deviations of the labels


class Solved(NamedTuple):
    r"""What follows from the relative factors.

    Args:
        normal: $X^\top V^{-1} X$ over $\sigma^2$, in an orthonormal basis, shape `(P, P)`.
        beta: the best coefficients in that basis.
        square: $r^2$.
        log_det: $\log |I + \Lambda^\top Z^\top Z \Lambda|$.
    """

    normal: Array
    beta: Array
    square: float
    log_det: float


def solved_of(total: Array, log_det: float) -> Solved:
    """Return what follows from the products of common terms and labels that groups leave, shape `(P + 1, P + 1)`.

    Raises:
        numpy.linalg.LinAlgError: where rounding has left no digit of them, the spreads being so far above the noise.
    """
    normal, right = total[:-1, :-1], total[:-1, -1]
    if not np.isfinite(total).all():
        raise np.linalg.LinAlgError("expected finite products")
    beta = linalg.cho_solve(linalg.cho_factor(normal), right) if len(normal) else right
    return Solved(normal, beta, float(total[-1, -1] - right @ beta), log_det)


class ScaledEngine(Engine):
    r"""The criterion as a function of $\Lambda$ and $\log \sigma$, the labels in units of their standard deviation.

    Args:
        rows: labelled rows; their weights and sizes are inverse variances.
        factors: the covariance of each grouping factor.
        names: of the common terms.
        reml: restricted maximum likelihood.
        hyperprior: add the log of a Gamma(2, 0.1) density of each spread.
        family: the likelihood, of labels that are normal once they are transformed; a normal one by default. Where its
            noise is known, that of a row of typical size is the unit of labels, and its logarithm stays 0.
        few_rows: take groups of a single factor with no more rows than effects too. The noise then shows in how labels
            depart from what the terms of groups let expect.
    """

    def __init__(
        self,
        rows: Rows,
        factors: list[Factor],
        names: list[str],
        reml: bool,
        hyperprior: bool,
        family: Likelihood | None = None,
        *,
        few_rows: bool = False,
    ) -> None:
        super().__init__(rows, factors)
        self.family, self.few_rows = Normal() if family is None else family, few_rows
        self._solved: tuple[Array, Solved] | None = None
        self.reml, self.hyperprior, self.names = reml, hyperprior, names
        self.method = "restricted maximum likelihood (REML)" if reml else "maximum likelihood"
        root = _root(rows)
        self.typical = 1.0 if root is None else math.exp(2 * float(np.log(root).mean()))  # may be very large or small
        self.num_rows, self.num_common = rows.x.shape
        total = triangle(self._measured(rows), self.num_common + 1)
        check_terms(total[: self.num_common, : self.num_common], names)
        self.basis, self.center = total[: self.num_common, :-1], total[: self.num_common, -1]
        self.inverse: Array = np.asarray(np.linalg.inv(self.basis))  # which scipy warns of where columns are far from 0
        self.unit = spread = float(np.std(self.labels(rows))) or 1.0
        if self.family.known and self.family.log_sigma is not None:
            self.unit = math.exp(float(self.family.log_sigma.detach())) / math.sqrt(self.typical)
        self.log_ratio = math.log(self.unit / spread)  # a hyperprior is of spreads in standard deviations of the labels
        self.num_parameters = self.num_theta + 1
        self.free = self.num_rows - (self.num_common if reml else 0)
        log_roots = 0.0 if root is None else float(np.log(self.roots(rows)).sum())
        log_units = self.free * 2 * math.log(self.unit) - 2 * log_roots
        log_units -= 2 * float(self.family.log_jacobian(torch.from_numpy(rows.y)).sum())
        self.constant = log_units + (2 * float(np.log(np.abs(np.diag(self.basis))).sum()) if reml else 0.0)
        self._prepare(rows)

    @abstractmethod
    def _prepare(self, rows: Rows) -> None:
        """Keep what the criterion needs of the rows."""

    def solve(self, theta: Array) -> Solved:
        """Return what follows from the relative factors."""
        if self._solved is None or not np.array_equal(self._solved[0], theta):
            self._solved = theta.copy(), self._solve(theta)
        return self._solved[1]

    @abstractmethod
    def _solve(self, theta: Array) -> Solved: ...

    def columns(self, rows: Rows, some: Some = ALL) -> tuple[Array, Array]:
        """Return common terms in the orthonormal basis, and labels less their least-squares fit, times the roots.

        Args:
            rows: all of them.
            some: which are wanted.
        """
        root = self.roots(rows, some)
        x = rows.x[some] @ self.inverse * root[:, None]
        return x, (self.labels(rows, some) * root - x @ self.center) / self.unit

    def labels(self, rows: Rows, some: Some = ALL) -> Array:
        """Return the labels of some rows on the scale where they are normal, without the offset."""
        out: Array = self.family.transformed(torch.from_numpy(rows.y[some])).numpy() - rows.offset[some]
        return out

    def _measured(self, rows: Rows) -> Iterator[Array]:
        """Yield common terms and labels times the roots, some rows at a time."""
        for some in parts_of(len(rows), self.num_common + 1):
            yield np.column_stack([rows.x[some], self.labels(rows, some)]) * self.roots(rows, some)[:, None]

    def finished(self, at: Array, solved: Solved, slope: Array) -> tuple[float, Array]:
        """Return minus the log criterion and its gradient, given that of its likelihood in the factors."""
        precision = math.exp(-2 * at[-1])
        value = solved.log_det + self.free * (LOG_2PI + 2 * at[-1]) + solved.square * precision + self.constant
        if self.reml and self.num_common:
            value += float(np.linalg.slogdet(solved.normal)[1])
        value, gradient = float(value) / 2, np.append(slope, self.free - solved.square * precision)
        if self.hyperprior:
            end = 0
            for factor, theta in zip(self.factors, self.thetas(at), strict=True):
                extra, more = log_hyperprior(factor, theta, float(at[-1]) + self.log_ratio)
                value -= extra
                gradient[end : end + factor.size] -= more[:-1]
                gradient[-1] -= more[-1]
                end += factor.size
        return value, gradient

    def value(self, at: Array) -> float:
        """Return minus the log criterion in nats."""
        return self.finished(at, self.solve(at[:-1]), np.zeros(self.num_theta))[0]

    def start(self) -> Array:
        log_noise = 0.0 if self.family.known else math.log(NOISE)
        return np.append(np.concatenate([f.start(SPREAD) for f in self.factors]), log_noise)

    def lower_bounds(self) -> Array:
        out = super().lower_bounds()
        out[-1] = 0.0 if self.family.known else out[-1]
        return out

    def upper_bounds(self) -> Array:
        out = super().upper_bounds()
        out[-1] = 0.0 if self.family.known else out[-1]
        return out

    def log_likelihood(self, at: Array) -> float:
        """Return the log likelihood in nats, of the residuals for REML."""
        kept, self.hyperprior = self.hyperprior, False
        value = -self.value(at)
        self.hyperprior = kept
        return value

    def scales(self, at: Array) -> tuple[float, dict[str, float]]:
        sigma = self.unit * math.exp(at[-1])
        return sigma, {} if self.family.known else {"sd": sigma * math.sqrt(self.typical)}

    def given(self, at: Array) -> NDArray[np.bool_]:
        """Return which parameters are known: none, or the noise."""
        out = super().given(at)
        out[-1] = self.family.known
        return out

    def roots(self, rows: Rows, some: Some = ALL) -> Array:
        r"""Return the square root of the inverse variance of some rows, that of a row of typical size being 1."""
        root = _root(rows, some)
        return (np.ones(len(rows.y[some])) if root is None else root) / math.sqrt(self.typical)

    def left_out(self, at: Array, effects: list[Effects]) -> Array:
        """Return what the posterior of each row is without its label: one normal density over another."""
        loc, var, third = self.linear(at, effects, self.rows)
        noise = (self.scales(at)[0] / self.roots(self.rows)) ** 2
        kept = 1 - var / noise
        y = self.labels(self.rows) + self.rows.offset
        return np.stack([y - (y - loc) / kept, var / kept, third])

    def coefficients(self, at: Array) -> Array:
        out: Array = self.inverse @ (self.center + self.unit * self.solve(at[:-1]).beta)
        return out

    def common_inner(self, at: Array) -> tuple[Array, Array]:
        return self.inverse, np.asarray(self.scales(at)[0] ** 2 * np.linalg.inv(self.solve(at[:-1]).normal))

    def common_given(self, at: Array) -> Array:
        return self.common_covariance(at)

    def freedom(self, at: Array, terms: Array | None = None) -> Array | None:
        return satterthwaite(self, at, terms)

    def plain(self) -> Engine:
        return self.like(self.rows, self.factors, False) if self.reml or self.hyperprior else self

    def rebuild(self, rows: Rows, factors: list[Factor]) -> Engine:
        return self.like(rows, factors, self.reml)

    def like(self, rows: Rows, factors: list[Factor], reml: bool) -> Engine:
        """Return the criterion of rows with other random terms, without a hyperprior."""
        return type(self)(rows, factors, self.names, reml, False, self.family, few_rows=self.few_rows)

    def log_posterior(self, at: Array) -> float:
        kept = self.reml, self.free
        self.reml, self.free = True, self.num_rows - self.num_common  # a flat density of the coefficients
        value = -self.value(at)
        self.reml, self.free = kept
        return value + self.num_theta * float(at[-1])  # flat in the factor, which is sigma times the relative one

    def check(self, at: Array) -> None:
        pass  # the coefficients of normal labels are finite, and so are the spreads

    def precisions(self, rows: Rows) -> Array | None:
        root = _root(rows)
        return None if root is None else root**2

    def likelihood(self, at: Array) -> Likelihood:
        out = copy.deepcopy(self.family).double()
        assert out.log_sigma is not None  # for the type checker: of normal noise
        if not out.known:
            out.log_sigma.data.fill_(math.log(self.scales(at)[1]["sd"]))
        return out


def _root(rows: Rows, some: Some = ALL) -> Array | None:
    r"""Return the square root of the inverse variance of some rows, in units of $1 / \sigma$; None where all are 1."""
    parts = [part for part in (rows.size, rows.weights) if part is not None]
    return np.asarray(math.prod(np.sqrt(part[some]) for part in parts)) if parts else None
