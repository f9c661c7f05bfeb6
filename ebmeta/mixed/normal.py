r"""Normal labels of one grouping factor in closed form, from a few numbers of each group.

With $Z_g = Q_g R_g$, $a_g = Q_g^\top y_g$, $B_g = Q_g^\top X_g$ and $A_g = R_g \Lambda$,

$$ -2 \log p(y) = n \log 2\pi\sigma^2 + \sum_g \log |M_g| + \frac1{\sigma^2} \Big( \lVert e \rVert^2
   + \sum_g (a_g - B_g \beta)^\top M_g^{-1} (a_g - B_g \beta) \Big), \qquad M_g = I + A_g A_g^\top , $$

where $e$ is what remains of $y - X \beta$ within groups, after $Q_g$ is taken off. All terms are positive, so nothing
cancels, and a step costs nothing that grows with the rows. The best $\beta$ and $\sigma$ follow from $\Lambda$. REML
adds $\log |X^\top V^{-1} X|$, and takes $n - P$ for $n$. Source: Bates, Maechler, Bolker and Walker 2015, Fitting
linear mixed-effects models using lme4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ebmeta.likelihood.base import Likelihood
from ebmeta.likelihood.real import Normal
from ebmeta.mixed.batched import Segments, cholesky, gram, solve_lower, solve_upper
from ebmeta.mixed.covariance import Factor
from ebmeta.mixed.engine import Effects, Engine, Estimate, orthonormal
from ebmeta.mixed.rows import Rows

__all__ = ["NormalEngine", "Summaries", "log_hyperprior", "summarise"]

Array = NDArray[np.float64]
NOTHING = 1e-10  # of a column's length within a group: less is left of one that the others give
NO_NOISE = 1e-12  # of the sum of squares of labels
RATE = 0.1  # of the hyperprior: its mean is 20 standard deviations of the labels
LOG_2PI = math.log(2 * math.pi)


class Summaries(NamedTuple):
    """All that the rows of the groups say of normal labels.

    Args:
        r: triangular factor of the random terms, shape `(K, K, G)`.
        w: coefficients of common terms and labels in its basis, shape `(K, P + 1, G)`.
        within: inner products of what remains, shape `(P + 1, P + 1)`.
        rank: number of directions of all groups together.
    """

    r: Array
    w: Array
    within: Array
    rank: int


def summarise(z: Array, w: Array, segments: Segments) -> Summaries:
    """Return the summaries of rows in the order of their groups.

    Args:
        z: random terms, shape `(K, N)`.
        w: common terms and labels, shape `(P + 1, N)`.
        segments: the groups.
    """
    (num_terms, _), groups = z.shape, len(segments.counts)
    r, coefficients, rest = np.zeros((num_terms, num_terms, groups)), [], w.copy()
    basis: list[Array] = []
    for k in range(num_terms):
        v, length = z[k], np.sqrt(segments.sum(z[k] ** 2))
        for _ in range(2 if k else 0):  # twice, or rounding of the first leaves them askew
            for j, q in enumerate(basis):
                c = segments.sum(q * v)
                v = v - q * segments.spread(c)
                r[j, k] += c
        left = np.sqrt(segments.sum(v**2)) if k else length
        r[k, k] = np.where(left > NOTHING * length, left, 0.0)
        with np.errstate(divide="ignore"):
            basis.append(v * segments.spread(np.where(r[k, k] > 0, 1 / r[k, k], 0.0)))
        coefficients.append(segments.sum(basis[k] * rest))
        rest -= basis[k] * segments.spread(coefficients[k])
    rank = sum(int((r[k, k] > 0).sum()) for k in range(num_terms))
    return Summaries(r, np.stack(coefficients), rest @ rest.T, rank)


class _Split(NamedTuple):
    lower: Array  # Lambda
    a: Array  # R Lambda
    chol: Array  # of M
    half: Array  # root of the inverse of M, times the coefficients
    solved: Array  # inverse of M, times the coefficients


class _Point(NamedTuple):
    split: _Split
    normal: Array  # of the common terms
    beta: Array
    square: float
    log_det: float


class NormalEngine(Engine):
    r"""The criterion as a function of $\Lambda$ and $\log \sigma$, the labels in units of their standard deviation.

    Args:
        rows: labelled rows; their weights and sizes are inverse variances.
        factors: the one grouping factor.
        names: of the common terms.
        reml: restricted maximum likelihood.
        hyperprior: add the log of a Gamma(2, 0.1) density of each spread.
    """

    def __init__(self, rows: Rows, factors: list[Factor], names: list[str], reml: bool, hyperprior: bool) -> None:
        super().__init__(rows, factors)
        self.reml, self.hyperprior, self.names = reml, hyperprior, names
        self.method = "restricted maximum likelihood (REML)" if reml else "maximum likelihood"
        self.typical = math.exp(2 * float(np.log(_root(rows)).mean()))  # sizes may be very large or small
        root = self._root(rows)
        self.num_rows, self.num_common = rows.x.shape
        self.q, self.basis = orthonormal(rows.x * root[:, None], names)
        self.inverse = linalg.inv(self.basis) if self.num_common else self.basis
        target = (rows.y - rows.offset) * root
        self.center = self.q.T @ target
        rest = target - self.q @ self.center
        self.unit = float(np.std(rows.y - rows.offset)) or 1.0
        self.num_parameters = self.num_theta + 1
        self.free = self.num_rows - (self.num_common if reml else 0)
        self.summaries = self._summarise(rows, self.q, rest / self.unit)
        log_units = self.free * 2 * math.log(self.unit) - 2 * float(np.log(root).sum())
        self.constant = log_units + (2 * float(np.log(np.abs(np.diag(self.basis))).sum()) if reml else 0.0)
        self._check_noise(factors[0])
        del self.q  # as large as the data

    def _summarise(self, rows: Rows, x: Array, y: Array) -> Summaries:
        grouping = rows.groupings[0]
        segments = Segments(grouping.codes, len(grouping.labels))
        z = (self.factors[0].whiten(grouping.z) * self._root(rows)[:, None])[segments.order].T
        return summarise(np.ascontiguousarray(z), np.vstack([x.T, y])[:, segments.order], segments)

    def _check_noise(self, factor: Factor) -> None:
        if self.summaries.rank >= self.num_rows:
            groups, terms = len(self.rows.groupings[0].labels), ", ".join(factor.terms)
            raise ValueError(
                f"groups: expected more rows than effects of {factor.name!r}, got {self.num_rows} rows for {groups} "
                f"groups with {terms} each: the spread of groups and the noise cannot be told apart"
            )
        within = self.summaries.within
        solved = np.linalg.lstsq(within[:-1, :-1], within[:-1, -1], rcond=1e-12)[0]
        if within[-1, -1] - within[:-1, -1] @ solved <= NO_NOISE * self.num_rows:
            raise ValueError(
                f"labels: expected some that the terms do not explain, got none: the terms of {factor.name!r} and the "
                "common terms give every label, and the noise is 0"
            )

    def start(self) -> Array:
        return np.append(self.factors[0].start(0.5), math.log(0.7))

    def _split(self, theta: Array, summaries: Summaries) -> _Split:
        lower = self.factors[0].lower(theta)
        a = np.einsum("ijg,jk->ikg", summaries.r, lower)
        m = np.einsum("ikg,jkg->ijg", a, a)
        m[np.arange(len(m)), np.arange(len(m))] += 1.0
        chol = cholesky(m)
        half = solve_lower(chol, summaries.w)
        return _Split(lower, a, chol, half, solve_upper(chol, half))

    def _point(self, theta: Array) -> _Point:
        split = self._split(theta, self.summaries)
        total = gram(split.half, split.half) + self.summaries.within
        normal, right = total[:-1, :-1], total[:-1, -1]
        beta = linalg.solve(normal, right, assume_a="pos") if len(normal) else right
        log_det = 2 * sum(float(np.log(split.chol[k, k]).sum()) for k in range(len(split.chol)))
        return _Point(split, normal, beta, float(total[-1, -1] - right @ beta), log_det)

    def loss(self, at: Array) -> tuple[float, Array]:
        value, gradient = self._deviance(at[:-1], float(at[-1]))
        return value / 2, gradient / 2

    def _deviance(self, theta: Array, log_sigma: float) -> tuple[float, Array]:
        p, r = self._point(theta), self.summaries.r
        split, precision = p.split, math.exp(-2 * log_sigma)
        value = p.log_det + self.free * (LOG_2PI + 2 * log_sigma) + p.square * precision + self.constant
        v = split.solved[:, -1] - np.einsum("kpg,p->kg", split.solved[:, :-1], p.beta)
        rv, av = np.einsum("jig,jg->ig", r, v), np.einsum("jig,jg->ig", split.a, v)
        slope = 2 * gram(r, solve_upper(split.chol, solve_lower(split.chol, split.a))) - 2 * precision * rv @ av.T
        if self.reml and self.num_common:
            value += float(np.linalg.slogdet(p.normal)[1])
            u, inverse = split.solved[:, :-1], np.linalg.inv(p.normal)
            ru, au = np.einsum("jig,jpg->pig", r, u), np.einsum("jig,jpg->pig", split.a, u)
            slope -= 2 * np.einsum("pig,pq,qkg->ik", ru, inverse, au, optimize=True)
        gradient = np.append(self.factors[0].read(slope), 2 * self.free - 2 * p.square * precision)
        if self.hyperprior:
            extra, extra_gradient = log_hyperprior(self.factors[0], theta, log_sigma)
            value, gradient = value - 2 * extra, gradient - 2 * extra_gradient
        return value, gradient

    def log_likelihood(self, at: Array) -> float:
        """Return the log likelihood in nats, of the residuals for REML."""
        kept, self.hyperprior = self.hyperprior, False
        value = -self.loss(at)[0]
        self.hyperprior = kept
        return value

    def scales(self, at: Array) -> tuple[float, dict[str, float]]:
        sigma = self.unit * math.exp(at[-1])
        return sigma, {"sd": sigma * math.sqrt(self.typical)}

    def _root(self, rows: Rows) -> Array:
        return _root(rows) / math.sqrt(self.typical)

    def estimate(self, at: Array) -> Estimate:
        beta = self.inverse @ (self.center + self.unit * self._point(at[:-1]).beta)
        return Estimate(beta, at[:-1], *self.scales(at), self.log_likelihood(at))

    def common_covariance(self, at: Array) -> Array:
        out: Array = self.inverse @ np.linalg.inv(self._point(at[:-1]).normal) @ self.inverse.T
        return self.scales(at)[0] ** 2 * out

    def common_given(self, at: Array) -> Array:
        return self.common_covariance(at)

    def log_posterior(self, at: Array) -> float:
        kept = self.reml, self.free
        self.reml, self.free = True, self.num_rows - self.num_common  # a flat density of the coefficients
        value = -self.loss(at)[0]
        self.reml, self.free = kept
        return value + self.num_theta * float(
            at[-1]
        )  # flat in the factor itself, which is sigma times the relative one

    def effects(self, at: Array, rows: Rows | None = None) -> list[Effects]:
        factor, summaries, beta = self.factors[0], self.summaries, self._point(at[:-1]).beta
        if rows is not None:
            root = self._root(rows)
            x = rows.x * root[:, None] @ self.inverse
            rest = ((rows.y - rows.offset) * root - x @ self.center) / self.unit
            summaries = self._summarise(rows, x, rest)
        split = self._split(at[:-1], summaries)
        spread = factor.inverse @ split.lower  # to the terms of the formula
        pull = np.einsum("ik,jkg->ijg", spread, split.a)
        v = split.solved[:, -1] - np.einsum("kpg,p->kg", split.solved[:, :-1], beta)
        mean = self.unit * np.einsum("ijg,jg->gi", pull, v)
        root_left = solve_lower(split.chol, split.a)
        left = np.eye(len(split.a))[..., None] - np.einsum("jig,jkg->ikg", root_left, root_left)
        sigma = self.unit * math.exp(at[-1])
        covariance = sigma**2 * np.einsum("ij,jkg,lk->gil", spread, left, spread, optimize=True)
        slope = -np.einsum("ijg,jpg,pq->giq", pull, split.solved[:, :-1], self.basis, optimize=True)
        return [Effects(mean, covariance, slope)]

    def check(self, at: Array) -> None:
        pass  # the coefficients of normal labels are finite, and so are the spreads

    def precisions(self, rows: Rows) -> Array | None:
        return None if rows.size is None and rows.weights is None else _root(rows) ** 2

    def rebuild(self, rows: Rows, factors: list[Factor]) -> Engine:
        return NormalEngine(rows, factors, self.names, self.reml, False)

    def likelihood(self, at: Array) -> Likelihood:
        out = Normal().double()
        out.log_noise.data.fill_(math.log(self.scales(at)[1]["sd"]))
        return out


def log_hyperprior(factor: Factor, theta: Array, log_sigma: float) -> tuple[float, Array]:
    r"""Return $\sum_p (\log s_p - 0.1 s_p)$ of the spreads $s_p$ in the orthonormal basis, and its gradient.

    The gradient is that of the parameters of the factor and of $\log \sigma$.
    """
    lower, sigma = factor.lower(theta), math.exp(log_sigma)
    length = np.sqrt((lower**2).sum(1)).clip(1e-150)
    value = float((np.log(sigma * length) - RATE * sigma * length).sum())
    slope = lower / length[:, None] ** 2 - RATE * sigma * lower / length[:, None]
    return value, np.append(factor.read(slope), float((1 - RATE * sigma * length).sum()))


def _root(rows: Rows) -> Array:
    r"""Return the square root of the inverse variance of each row, in units of $1 / \sigma$."""
    out = np.ones(len(rows))
    for part in (rows.size, rows.weights):
        out = out if part is None else out * np.sqrt(part)
    return out
