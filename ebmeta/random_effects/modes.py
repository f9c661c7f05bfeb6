r"""Rows of one likelihood, and the modes of the effects of their groups.

The mode of $\log p(y_g \mid u) - \lVert u \rVert^2 / 2$ is found by Newton's steps for all groups at once; a step that
loses is halved, group by group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ebmeta.foundation.guarding import unvalidated
from ebmeta.likelihood.base import Given, Likelihood
from ebmeta.random_effects.batched import Segments, cholesky, solve_lower, solve_upper
from ebmeta.random_effects.covariance import Factor

__all__ = ["ALL_EXPLAINED", "Labels", "refuse_endless", "refuse_endless_spread", "refuse_separated"]

Array = NDArray[np.float64]
STEPS = 60  # of Newton to a mode, at most
CLOSE = 1e-5  # a step of this length is the last: what it leaves is far less
FAR = 4.0  # twice the nats that a first step promises that starts far off
LONG = 2.0  # standard deviations of effects: no step is longer
SHORTER = 30  # times that a step is halved, at most
ROUNDING = 1e-9  # of a log density
NEAR = 1e-2  # twice the nats that the coefficients of the model without groups may leave: an ascent starts there
WIDE = 10.0  # standard error of a coefficient that no label holds back, of a term of unit length next to the others
ENDLESS = 12.0  # spread of a linear predictor that stands for infinity: from chances of 1 in 100,000 to 99,999
RISING = 0.01  # nats for a change of a logarithm by 1: no maximum at its end
SOME = 1000  # rows, about, that tell where a linear predictor of all rows is
PLACES = np.append(0.0, np.outer([-1.0, 1.0], np.geomspace(0.5, 700.0, 30)).ravel())  # where it may be
ALL_EXPLAINED = (
    "labels: expected some that differ from what terms and groups say, got labels that these explain: nothing is "
    "left to vary, and the likelihood rises without end"
)
LABELS = 4  # of a group, next to which there may be a maximum
LEAST = 1e-6  # of a curvature, and nats that are next to nothing


class Labels(NamedTuple):
    r"""Labelled rows in the order of their groups.

    Args:
        family: the likelihood.
        y: labels, shape `(N,)`.
        x: common terms, shape `(N, P)`.
        z: random terms in an orthonormal basis, shape `(K, N)`.
        offset: added to the linear predictor, shape `(N,)`.
        size: sizes of the rows, shape `(N,)`, or None.
        weight: how much rows count, shape `(N,)`, or None.
        segments: the groups.
    """

    family: Likelihood
    y: Array
    x: Array
    z: Array
    offset: Array
    size: Array | None
    weight: Array | None
    segments: Segments

    def fixed(self, beta: Array) -> Array:
        """Return the linear predictor of the common terms, shape `(N,)`."""
        out: Array = self.x @ beta + self.offset
        return out

    def of(self, groups: NDArray[np.int64]) -> Labels:
        """Return the rows of some groups, given by their numbers in order."""
        kept = np.isin(self.segments.codes, groups)
        size, weight = (None if v is None else v[kept] for v in (self.size, self.weight))
        segments = Segments.of(self.segments.counts[groups])
        return Labels(
            self.family, self.y[kept], self.x[kept], self.z[:, kept], self.offset[kept], size, weight, segments
        )

    def log_density(self, eta: Array, rows: slice = slice(None)) -> Array:
        """Return the log density of some rows, up to terms without `eta`, of the shape of `eta`, `(n, ...)`."""
        y, size, weight = (None if v is None else _column(v[rows], eta) for v in (self.y, self.size, self.weight))
        given = Given(None if size is None else torch.from_numpy(size))
        with torch.no_grad(), unvalidated():
            out: Array = self.family.kernel(torch.from_numpy(y), torch.from_numpy(eta), given).numpy()
        return out if weight is None else out * weight

    def log_silent(self, eta: Array, rows: slice) -> Array:
        """Return the log probability that rows are zeros whatever their rate, of the shape of `eta`, `(n, ...)`."""
        y, size, weight = (None if v is None else _column(v[rows], eta) for v in (self.y, self.size, self.weight))
        assert y is not None  # for the type checker
        out: Array = self.family.log_silent(y, eta, 1.0 if size is None else size)
        return out if weight is None else out * weight

    def expansion(self, eta: Array, rows: slice = slice(None)) -> tuple[Array, Array, Array]:
        """Return log density of some rows, its slope and its curvature, each of the shape of `eta`, `(n, ...)`."""
        y, size, weight = (None if v is None else _column(v[rows], eta) for v in (self.y, self.size, self.weight))
        assert y is not None  # for the type checker
        value, slope, bend = self.family.expansion(y, eta, 1.0 if size is None else size)
        return (value, slope, bend) if weight is None else (value * weight, slope * weight, bend * weight)

    def modes(self, lower: Array, fixed: Array, start: Array) -> tuple[Array, Array]:
        """Return the modes of $u$ and the Cholesky factors of the curvature there, shapes `(K, G)` and `(K, K, G)`."""
        lz, segments = lower.T @ self.z, self.segments
        squares = lz[:, None] * lz
        eye = np.eye(len(lower))[..., None]

        def look(u: Array) -> tuple[Array, Array, Array]:
            eta = fixed
            for a, b in zip(lz, u, strict=True):
                eta = eta + a * segments.spread(b)
            value, slope, bend = self.expansion(eta)
            return segments.sum(value) - (u**2).sum(0) / 2, slope, bend

        u, (value, slope, bend) = start, look(start)
        for turn in range(STEPS):
            gradient = segments.sum(lz * slope) - u
            m = segments.sum(squares * np.maximum(-bend, 0.0)) + eye
            if not turn and start.any() and (gradient**2 > FAR * np.einsum("kkg->kg", m)).any():
                lost = value < segments.sum(self.log_density(fixed))  # the last mode may be far off by now
                u = np.where(lost, 0.0, start)
                value, slope, bend = look(u)
                continue
            chol = cholesky(m)
            step = solve_upper(chol, solve_lower(chol, gradient[:, None]))[:, 0]
            if np.abs(step).max() < CLOSE:
                return u + step, chol
            share = LONG / np.abs(step).max(0).clip(LONG)
            for _ in range(SHORTER):
                new = look(u + share * step)
                worse = ~(new[0] >= value - ROUNDING * (1 + np.abs(value)))
                if not worse.any():
                    break
                share = np.where(worse, share / 2, share)
            u, (value, slope, bend) = u + share * step, new
        return u, chol

    def several(self, lower: Array, fixed: Array, start: Array) -> list[tuple[Array, Array]]:
        """Return places of several maxima and what stands for their factors, the highest first; of one effect.

        Where tails are heavy, labels of a group that lie apart may have a maximum each. The other places are where one
        label alone would draw the effect, for the quantiles of those of the group.

        Args:
            lower: the relative factor.
            fixed: linear predictor of the common terms.
            start: of one of the ways to the highest.
        """
        lz, gap, segments = lower.T @ self.z, self.y - fixed, self.segments
        sure = np.maximum(-self.expansion(self.y)[2], LEAST)
        told = 1 + sure * (lz**2).sum(0)
        order, places = np.lexsort((gap, segments.codes)), []
        for share in np.linspace(0.0, 1.0, LABELS):
            rows = order[segments.starts + np.rint(share * (segments.counts - 1)).astype(np.int64)]
            places.append(((lz * sure * gap / told)[:, rows], np.sqrt(told)[rows][None, None]))
        found = [self.modes(lower, fixed, u) for u in (start, *(place for place, _ in places))]
        heights = []
        for u, _ in found:
            eta = fixed + (lz * segments.spread(u)).sum(0)
            heights.append(segments.sum(self.log_density(eta)) - (u**2).sum(0) / 2)
        best, groups = np.argmax(heights, 0), np.arange(len(segments.counts))
        u, chol = (np.stack([each[part] for each in found], -1)[..., groups, best] for part in (0, 1))
        return [(u, chol), *places]

    def alone(self) -> tuple[Array, Array]:
        """Return the coefficients of the model without groups, and the curvature there."""
        x, beta = self.x, self._begin()
        value, slope, bend = self.expansion(self.fixed(beta))
        for _ in range(STEPS):
            information = x.T @ ((np.maximum(-bend, 0.0) + LEAST)[:, None] * x)
            step = np.linalg.solve(information, x.T @ slope)
            for _ in range(SHORTER):
                new = self.expansion(self.fixed(beta + step))
                if new[0].sum() >= value.sum() - LEAST:
                    break
                step = step / 2
            beta, (value, slope, bend) = beta + step, new
            if float(step @ information @ step) < NEAR:
                break
        return beta, information

    def _begin(self) -> Array:
        """Return coefficients that a model without groups is near: 0, or those of one linear predictor for all rows.

        From offsets or labels far off, where exponentials have no digits left, Newton's steps lead nowhere.
        """
        some = slice(None, None, max(len(self.y) // SOME, 1))
        size, weight = (None if v is None else v[some] for v in (self.size, self.weight))
        part = self._replace(y=self.y[some], size=size, weight=weight)
        with np.errstate(over="ignore", invalid="ignore"):
            totals = np.nan_to_num(part.log_density(np.tile(PLACES, (len(part.y), 1))).sum(0), nan=-np.inf)
        eta = np.full(len(self.y), PLACES[int(np.argmax(totals))])
        beta: Array = np.asarray(np.linalg.solve(self.x.T @ self.x, self.x.T @ (eta - self.offset)))
        with np.errstate(over="ignore", invalid="ignore"):
            here, there = (float(self.log_density(self.fixed(b)).sum()) for b in (0 * beta, beta))
        return beta if there > here or not np.isfinite(here) else 0 * beta


def refuse_endless(at: Array, slope: Array, far: float) -> None:
    """Raise `ValueError` where the likelihood still rises with a parameter of its own at the end of its range.

    Args:
        at: logarithms and the like, shape `(E,)`.
        slope: of minus the log likelihood in nats, the same.
        far: how far they may be from 0.
    """
    if ((np.abs(at) >= far) & (np.sign(at) * slope < -RISING)).any():
        raise ValueError(ALL_EXPLAINED)


def refuse_endless_spread(factor: Factor, lower: Array) -> None:
    """Raise `ValueError` where the spread of a term runs off, since groups explain every label.

    Args:
        factor: the parameters of the spreads.
        lower: their factor at the maximum, as of `Factor.lower`.
    """
    if lower.max(initial=0.0) > ENDLESS:
        worst = factor.terms[int(np.argmax(np.abs(lower).max(1)))]
        raise ValueError(
            f"random term {worst!r} of {factor.name!r}: expected labels that differ within groups, got groups that "
            "explain every label: its spread runs off to infinity (hyperprior=True holds it back)"
        )


def refuse_separated(data: Labels, eta: Array, inverse: Array, beta: Array, names: list[str]) -> None:
    """Raise `ValueError` where a coefficient runs off, since its term separates the labels.

    Args:
        data: the rows.
        eta: their linear predictor at the maximum.
        inverse: coefficients of terms for those of `data.x`.
        beta: the coefficients.
        names: of the terms.
    """
    bend = np.maximum(-data.expansion(eta)[2], 0.0) + 1e-12
    parts = ((data.x * w[:, None]).T @ data.x for w in (bend, np.full(len(bend), 1 / len(bend))))
    told, length = (np.diag(inverse @ np.linalg.inv(part) @ inverse.T) for part in parts)
    error = np.sqrt(told / length)  # times the length of what other terms leave of one
    if (error > WIDE).any():
        own = np.where([name == "Intercept" for name in names], 0.0, error)
        place = int(np.argmax(own if (own > WIDE).any() else error))
        name, sign = names[place], np.sign((inverse @ beta)[place])
        raise ValueError(
            f"term {name!r}: expected labels of both kinds where it is large and where it is small, got labels "
            f"that it separates: its coefficient runs off to {'minus ' * bool(sign < 0)}infinity"
        )


def _column(rows: Array, eta: Array) -> Array:
    """Return the value of its row for each linear predictor, which is quicker than to let a column stand for many."""
    return rows if eta.ndim == 1 else rows.repeat(eta[0].size).reshape(eta.shape)
