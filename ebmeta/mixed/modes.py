r"""Rows of one likelihood, and the modes of the effects of their groups.

The mode of $\log p(y_g \mid u) - \lVert u \rVert^2 / 2$ is found by Newton's steps for all groups at once; a step that
loses is halved, group by group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmeta.likelihood.base import Given, Likelihood
from ebmeta.mixed.batched import Segments, cholesky, solve_lower, solve_upper

__all__ = ["Labels"]

Array = NDArray[np.float64]
STEPS = 60  # of Newton to a mode, at most
CLOSE = 1e-7  # a step of this length is the last
SHORTER = 30  # times that a step is halved, at most
ROUNDING = 1e-9  # of a log density
LEAST = 1e-6  # of a curvature, and nats that are next to nothing


class Labels(NamedTuple):
    r"""Labelled rows in the order of their groups.

    Args:
        family: the likelihood.
        y: labels, shape `(N,)`.
        x: common terms, shape `(N, P)`.
        z: random terms in an orthonormal basis, shape `(K, N)`.
        offset: added to the linear predictor, shape `(N,)`.
        given: sizes of the rows.
        weight: how much rows count, shape `(N,)`, or None.
        segments: the groups.
        codes: number of the group of each row, shape `(N,)`.
    """

    family: Likelihood
    y: Tensor
    x: Array
    z: Array
    offset: Array
    given: Given
    weight: Tensor | None
    segments: Segments
    codes: NDArray[np.int64]

    def fixed(self, beta: Array) -> Array:
        """Return the linear predictor of the common terms, shape `(N,)`."""
        out: Array = self.x @ beta + self.offset
        return out

    def log_density(self, eta: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the log density of some rows, up to terms without `eta`, of the shape of `eta`, `(..., n)`."""
        size = None if self.given.size is None else self.given.size[rows]
        with pyro.validation_enabled(False):
            out = self.family.kernel(self.y[rows], eta, Given(size))
        return out if self.weight is None else out * self.weight[rows]

    def slopes(self, eta: Array) -> tuple[Array, Array, Array]:
        """Return log density of rows, its slope and its curvature below 0, each of shape `(N,)`."""
        at = torch.from_numpy(eta).requires_grad_()
        with torch.enable_grad():
            value = self.log_density(at)
            (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), at)
        return value.detach().numpy(), slope.detach().numpy(), (-bend).clamp(min=0.0).numpy()

    def modes(self, lower: Array, fixed: Array, start: Array) -> tuple[Array, Array]:
        """Return the modes of $u$ and the Cholesky factors of the curvature there, shapes `(K, G)` and `(K, K, G)`."""
        lz, segments = lower.T @ self.z, self.segments
        eye = np.eye(len(lower))[..., None]

        def look(u: Array) -> tuple[Array, Array, Array]:
            value, slope, bend = self.slopes(fixed + np.einsum("kn,kn->n", lz, segments.spread(u)))
            return segments.sum(value) - (u**2).sum(0) / 2, slope, bend

        value, slope, bend = look(start)
        with torch.no_grad():
            none = segments.sum(self.log_density(torch.from_numpy(fixed)).numpy())
        u = np.where(value >= none, start, 0.0)  # the last mode may be far off by now
        if not (value >= none).all():
            value, slope, bend = look(u)
        for _ in range(STEPS):
            gradient = segments.sum(lz * slope) - u
            m = segments.sum(lz[:, None] * lz * bend) + eye
            chol = cholesky(m)
            step = solve_upper(chol, solve_lower(chol, gradient[:, None]))[:, 0]
            if np.abs(step).max() < CLOSE:
                break
            share = np.ones(u.shape[1])
            for _ in range(SHORTER):
                new = look(u + share * step)
                worse = ~(new[0] >= value - ROUNDING * (1 + np.abs(value)))
                if not worse.any():
                    break
                share = np.where(worse, share / 2, share)
            u, (value, slope, bend) = u + share * step, new
        return u, chol

    def alone(self) -> tuple[Array, Array]:
        """Return the coefficients of the model without groups, and the curvature there."""
        x, beta = self.x, np.zeros(self.x.shape[1])
        for _ in range(STEPS):
            value, slope, bend = self.slopes(self.fixed(beta))
            information = x.T @ ((bend + LEAST)[:, None] * x)
            step = np.linalg.solve(information, x.T @ slope)
            for _ in range(SHORTER):
                if self.slopes(self.fixed(beta + step))[0].sum() >= value.sum() - LEAST:
                    break
                step = step / 2
            beta = beta + step
            if float(step @ information @ step) < LEAST:
                break
        return beta, information
