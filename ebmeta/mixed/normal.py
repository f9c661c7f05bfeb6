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
import torch
from numpy.typing import NDArray
from scipy import linalg

from ebmeta.mixed.ascent import Expansion, jacobian
from ebmeta.mixed.batched import Segments, cholesky, gram, solve_lower, solve_upper
from ebmeta.mixed.covariance import Factor, log_hyperprior
from ebmeta.mixed.engine import Effects, Engine
from ebmeta.mixed.normal_curvature import turn_of
from ebmeta.mixed.rows import Rows
from ebmeta.mixed.scaled import LOG_2PI, ScaledEngine, Solved, solved_of

__all__ = ["NormalEngine", "Summaries", "summarise"]

Array = NDArray[np.float64]
NOTHING = 1e-10  # of a column's length within a group: less is left of one that the others give
REACH = 1.0  # of a step of Newton in the log of the noise
NO_NOISE = 1e-12  # of the sum of squares of labels


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


class NormalEngine(ScaledEngine):
    r"""The criterion of one grouping factor, as a function of $\Lambda$ and $\log \sigma$."""

    newton = True
    enough = 1e-10

    def _prepare(self, rows: Rows) -> None:
        self.summaries = self._summarise(rows, *self.columns(rows))
        self._check_noise(self.factors[0])
        self._last: tuple[Array, Expansion] | None = None

    def _summarise(self, rows: Rows, x: Array, y: Array) -> Summaries:
        grouping = rows.groupings[0]
        segments = Segments(grouping.codes, len(grouping.labels))
        z = (self.factors[0].whiten(grouping.z) * self.roots(rows)[:, None])[segments.order].T
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

    def _split(self, theta: Array, summaries: Summaries) -> _Split:
        lower = self.factors[0].lower(theta)
        a = np.einsum("ijg,jk->ikg", summaries.r, lower)
        m = np.einsum("ikg,jkg->ijg", a, a)
        m[np.arange(len(m)), np.arange(len(m))] += 1.0
        chol = cholesky(m)
        half = solve_lower(chol, summaries.w)
        return _Split(lower, a, chol, half, solve_upper(chol, half))

    def _total(self, split: _Split) -> Solved:
        total = gram(split.half, split.half) + self.summaries.within
        return solved_of(total, 2 * sum(float(np.log(split.chol[k, k]).sum()) for k in range(len(split.chol))))

    def _solve(self, theta: Array) -> Solved:
        return self._total(self._split(theta, self.summaries))

    def loss(self, at: Array) -> tuple[float, Array]:
        return self.expansion(at)[:2]

    def start(self) -> Array:
        at = super().start()
        at[-1] = math.log(max(self.solve(at[:-1]).square, NO_NOISE) / self.free) / 2  # the best noise for these spreads
        return at

    def reach(self) -> Array:
        return np.append(np.full(self.num_theta, math.inf), REACH)

    def expansion(self, at: Array) -> Expansion:
        if self._last is None or not np.array_equal(self._last[0], at):
            self._last = at.copy(), self._expansion(at)
        return self._last[1]

    def _hessian(self, at: Array) -> Array:
        return self.expansion(at).hessian

    def _expansion(self, at: Array) -> Expansion:
        split, precision = self._split(at[:-1], self.summaries), math.exp(-2 * at[-1])
        p, u = self._total(split), split.solved[:, :-1]
        v = split.solved[:, -1] - np.einsum("kpg,p->kg", u, p.beta)
        if self.num_common:
            u = np.einsum("qp,kpg->kqg", np.linalg.inv(linalg.cholesky(p.normal, lower=True)), u)
        both = np.concatenate([math.sqrt(precision) * v[:, None], u], 1)
        turn = turn_of(self.factors[0], self.summaries.r, split.lower, split.chol, both, self.reml)
        value, gradient = self.finished(at, p, turn.slope)
        hessian = np.zeros((len(at), len(at)))
        hessian[:-1, :-1] = turn.bend
        hessian[:-1, -1] = hessian[-1, :-1] = 2 * turn.pull
        hessian[-1, -1] = 2 * p.square * precision
        if self.hyperprior:
            hessian -= jacobian(lambda point: log_hyperprior(self.factors[0], point[:-1], float(point[-1]))[1], at)
        return Expansion(value, gradient, hessian)

    def each_group(self, at: Array, rng: np.random.Generator) -> Array:
        rows, factor, root = self.rows, self.factors[0], self.roots(self.rows)
        segments = Segments(rows.groupings[0].codes, len(rows.groupings[0].labels))
        beta, covariance = self.coefficients(at), self.common_given(at)
        drawn = rng.multivariate_normal(beta, covariance) if self.num_common else beta
        left = ((self.labels(rows) - rows.x @ drawn) * root / self.unit)[segments.order]
        z = ((factor.whiten(rows.groupings[0].z) @ factor.lower(at[:-1])) * root[:, None])[segments.order].T
        chol = cholesky(segments.sum(z[:, None] * z) + np.eye(len(z))[..., None])
        half = solve_lower(chol, segments.sum(z * left)[:, None])[:, 0]
        square = (segments.sum(left**2) - (half**2).sum(0)) * math.exp(-2 * at[-1])
        more = np.log(root) + self.family.log_jacobian(torch.from_numpy(rows.y)).numpy()
        log_det = 2 * sum(np.log(chol[k, k]) for k in range(len(z))) - 2 * segments.sum(more[segments.order])
        out: Array = -(log_det + square + segments.counts * (LOG_2PI + 2 * at[-1] + 2 * math.log(self.unit))) / 2
        return out

    def effects(self, at: Array, rows: Rows | None = None) -> list[Effects]:
        factor, summaries, beta = self.factors[0], self.summaries, self.solve(at[:-1]).beta
        if rows is not None:
            summaries = self._summarise(rows, *self.columns(rows))
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

    def rebuild(self, rows: Rows, factors: list[Factor]) -> Engine:
        return NormalEngine(rows, factors, self.names, self.reml, False, self.family)
