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

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from ebmeta.random_effects.ascent import Expansion, Optimum
from ebmeta.random_effects.batched import Segments, cholesky, gram, solve_lower, solve_upper
from ebmeta.random_effects.covariance import Factor, hyperprior_curvature
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import LITTLE, Mask, Numbers
from ebmeta.random_effects.normal_curvature import slope_of, turn_of
from ebmeta.random_effects.rows import Rows
from ebmeta.random_effects.scaled import LOG_2PI, ScaledEngine, Solved, solved_of
from ebmeta.random_effects.tall import CELLS, parts_of
from ebmeta.random_effects.trust import descend_by_trust

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

    @property
    def left(self) -> float:
        """Sum of squares of labels that neither groups with any effects nor common terms explain."""
        common, right = self.within[:-1, :-1], self.within[:-1, -1]
        return float(self.within[-1, -1] - right @ np.linalg.lstsq(common, right, rcond=1e-12)[0])


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
    some: slice  # which groups
    r: Array
    a: Array  # R Lambda
    chol: Array  # of M
    half: Array  # root of the inverse of M, times the coefficients
    solved: Array  # inverse of M, times the coefficients


class NormalEngine(ScaledEngine):
    r"""The criterion of one grouping factor, as a function of $\Lambda$ and $\log \sigma$; see `ScaledEngine`."""

    newton = True
    enough = 1e-10

    def _prepare(self, rows: Rows) -> None:
        self.summaries = self._summarise(rows)
        if not (self.family.known or (self.few_rows and self.summaries.rank >= self.num_rows)):
            self._check_noise(self.factors[0])
        self._last: tuple[Array, Expansion] | None = None

    def _summarise(self, rows: Rows) -> Summaries:
        """Return the summaries of all groups, some of them at a time."""
        grouping, found = rows.groupings[0], []
        segments = Segments(grouping.codes, len(grouping.labels))
        width = grouping.z.shape[1] + self.num_common + 1
        for groups, part in segments.parts(max(CELLS // width, 1)):
            some = segments.order[part]
            x, y = self.columns(rows, some)
            z = self.factors[0].whiten(grouping.z[some]) * self.roots(rows, some)[:, None]
            own = Segments.of(segments.counts[groups])
            found.append(summarise(np.ascontiguousarray(z.T), np.vstack([x.T, y]), own))
        r, w = (np.concatenate([getattr(part, name) for part in found], -1) for name in ("r", "w"))
        return Summaries(r, w, sum((part.within for part in found), np.zeros(1)), sum(part.rank for part in found))

    def _check_noise(self, factor: Factor) -> None:
        if self.summaries.rank >= self.num_rows:
            groups, terms = len(self.rows.groupings[0].labels), ", ".join(factor.terms)
            raise ValueError(
                f"groups: expected more rows than effects of {factor.name!r}, got {self.num_rows} rows for {groups} "
                f"groups with {terms} each: the spread of groups and the noise cannot be told apart"
            )
        if self.summaries.left <= NO_NOISE * self.num_rows:
            raise ValueError(
                f"labels: expected some that the terms do not explain, got none: the terms of {factor.name!r} and the "
                "common terms give every label, and the noise is 0"
            )

    def _splits(self, theta: Array, summaries: Summaries) -> Iterator[_Split]:
        """Yield what follows of the factor for some groups at a time."""
        lower = self.factors[0].lower(theta)
        num_terms, columns, groups = summaries.w.shape
        for some in parts_of(groups, num_terms * (num_terms + columns)):
            r, w = summaries.r[..., some], summaries.w[..., some]
            a = np.einsum("ijg,jk->ikg", r, lower)
            m = np.einsum("ikg,jkg->ijg", a, a)
            m[np.arange(len(m)), np.arange(len(m))] += 1.0
            chol = cholesky(m)
            half = solve_lower(chol, w)
            yield _Split(some, r, a, chol, half, solve_upper(chol, half))

    def _total(self, splits: Iterable[_Split]) -> Solved:
        total, log_det = self.summaries.within, 0.0
        for split in splits:
            total = total + gram(split.half, split.half)
            log_det += 2 * sum(float(np.log(split.chol[k, k]).sum()) for k in range(len(split.chol)))
        return solved_of(total, log_det)

    def _solve(self, theta: Array) -> Solved:
        return self._total(self._splits(theta, self.summaries))

    def loss(self, at: Array) -> tuple[float, Array]:
        if self._last is not None and np.array_equal(self._last[0], at):
            return self._last[1][:2]
        return self._finite(at, self._sloped)[:2]

    def start(self) -> Array:
        at = super().start()
        if self.family.known:
            return at
        at[-1] = math.log(max(self.solve(at[:-1]).square, NO_NOISE) / self.free) / 2  # the best noise for these spreads
        return at

    def reach(self) -> Array:
        return np.append(np.full(self.num_theta, math.inf), REACH)

    def expansion(self, at: Array) -> Expansion:
        if self._last is None or not np.array_equal(self._last[0], at):
            self._last = at.copy(), self._finite(at, self._expansion)
        return self._last[1]

    def ascend(self, begin: Array, held: Mask) -> Optimum:
        """Go uphill by Newton's steps; where a spread vanishes, or they fail, in any root of the covariance.

        A covariance without full rank has many roots: directions that change nothing, which a region of trust bears.
        """
        factor = self.factors[0]
        if held.any() or max(factor.blocks) == 1:
            return super().ascend(begin, held)
        first = self.polished(Optimum(begin, math.inf, False, 0), held)
        if first.converged and (first.at[:-1][factor.diagonal] > LITTLE).all():
            return first
        other = copy.copy(self)  # of the same summaries
        other.factors, other._last = [factor.square()], None
        other.num_theta = other.factors[0].size
        start = np.append(other.factors[0].read(factor.lower(first.at[:-1])), first.at[-1])
        free = np.append(np.ones(other.num_theta, dtype=bool), not self.family.known)
        found = descend_by_trust(other.expansion, start, free, self.enough)
        at = np.append(factor.triangular(other.factors[0].lower(found.at[:-1])), found.at[-1])
        found = self.polished(Optimum(at, found.value, False, first.evaluations + found.evaluations), held)
        return found if found.converged else super().ascend(found.at, held)

    def _finite(self, at: Array, expand: Callable[[Array], Expansion]) -> Expansion:
        """Return an expansion; a loss above all others where spreads are so large that rounding leaves no digit."""
        try:
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                return expand(at).or_far()
        except (np.linalg.LinAlgError, OverflowError):
            return Expansion(math.nan, np.zeros(len(at)), np.zeros((0, 0))).or_far()

    def _hessian(self, at: Array) -> Array:
        return self.expansion(at).hessian

    def _parts(self, at: Array) -> tuple[Solved, Array, Iterator[tuple[Array, Array, Array]]]:
        """Return what is solved at some parameters, their factor, and the parts of the slope and the curvature."""
        splits = list(self._splits(at[:-1], self.summaries))
        p = self._total(splits)
        root = np.linalg.inv(linalg.cholesky(p.normal, lower=True)) if self.num_common else p.normal
        parts = ((each.r, each.chol, self._both(each, p.beta, root, math.exp(-at[-1]))) for each in splits)
        return p, self.factors[0].lower(at[:-1]), parts

    def _sloped(self, at: Array) -> Expansion:
        """Return value and slope, without the curvature."""
        p, lower, parts = self._parts(at)
        return Expansion(*self.finished(at, p, slope_of(self.factors[0], lower, parts, self.reml)), np.zeros((0, 0)))

    def _expansion(self, at: Array) -> Expansion:
        (p, lower, parts), precision = self._parts(at), math.exp(-2 * at[-1])
        turn = turn_of(self.factors[0], lower, parts, self.reml)
        value, gradient = self.finished(at, p, turn.slope)
        hessian = np.zeros((len(at), len(at)))
        hessian[:-1, :-1] = turn.bend
        hessian[:-1, -1] = hessian[-1, :-1] = 2 * turn.pull
        hessian[-1, -1] = 2 * p.square * precision
        if self.hyperprior:
            hessian -= hyperprior_curvature(self.factors[0], at[:-1], float(at[-1]) + self.log_ratio)
        return Expansion(value, gradient, hessian)

    def _both(self, split: _Split, beta: Array, root: Array, scale: float) -> Array:
        """Return what the residuals of some groups leave, and then their common terms, as `turn_of` takes both."""
        u = split.solved[:, :-1]
        v = split.solved[:, -1] - np.einsum("kpg,p->kg", u, beta)
        return np.concatenate([scale * v[:, None], np.einsum("qp,kpg->kqg", root, u)], 1)

    def each_group(self, at: Array, rng: np.random.Generator) -> Array:
        rows, factor, root = self.rows, self.factors[0], self.roots(self.rows)
        segments = Segments(rows.groupings[0].codes, len(rows.groupings[0].labels))
        left = ((self.labels(rows) - rows.x @ self.draw_common(at, rng)) * root / self.unit)[segments.order]
        z = ((factor.whiten(rows.groupings[0].z) @ factor.lower(at[:-1])) * root[:, None])[segments.order].T
        chol = cholesky(segments.sum(z[:, None] * z) + np.eye(len(z))[..., None])
        half = solve_lower(chol, segments.sum(z * left)[:, None])[:, 0]
        square = (segments.sum(left**2) - (half**2).sum(0)) * math.exp(-2 * at[-1])
        more = np.log(root) + self.family.log_jacobian(torch.from_numpy(rows.y)).numpy()
        log_det = 2 * sum(np.log(chol[k, k]) for k in range(len(z))) - 2 * segments.sum(more[segments.order])
        out: Array = -(log_det + square + segments.counts * (LOG_2PI + 2 * at[-1] + 2 * math.log(self.unit))) / 2
        return out

    def effects(self, at: Array, rows: Rows | None = None, groups: Numbers | None = None) -> list[Effects]:
        factor, beta = self.factors[0], self.solve(at[:-1]).beta
        summaries = self.summaries if rows is None else self._summarise(rows)
        if groups is not None:
            summaries = summaries._replace(r=summaries.r[..., groups], w=summaries.w[..., groups])
        sigma, spread = self.unit * math.exp(at[-1]), factor.lower(at[:-1])
        num_terms, _, groups = summaries.w.shape
        mean, covariance = np.zeros((groups, num_terms)), np.zeros((groups, num_terms, num_terms))
        slope = np.zeros((groups, num_terms, self.num_common))
        for split in self._splits(at[:-1], summaries):
            pull = np.einsum("ik,jkg->ijg", spread, split.a)
            v = split.solved[:, -1] - np.einsum("kpg,p->kg", split.solved[:, :-1], beta)
            mean[split.some] = self.unit * np.einsum("ijg,jg->gi", pull, v)
            root_left = solve_lower(split.chol, split.a)
            left = np.eye(num_terms)[..., None] - np.einsum("jig,jkg->ikg", root_left, root_left)
            covariance[split.some] = sigma**2 * np.einsum("ij,jkg,lk->gil", spread, left, spread, optimize=True)
            by_basis = np.einsum("jpg,pq->jqg", split.solved[:, :-1], self.basis)
            slope[split.some] = -np.einsum("ijg,jqg->giq", pull, by_basis)
        return [Effects(mean, covariance, slope).turned(factor.inverse)]
