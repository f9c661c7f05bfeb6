r"""Degrees of freedom of the coefficients of normal labels, by Satterthwaite's approximation.

The variance $v = c^\top V(\theta)\, c$ of a coefficient is estimated with the parameters $\theta$, whose covariance $A$
is the inverse curvature of the criterion. A multiple of a $\chi^2$ variable of as many degrees of freedom has the same
mean and variance,

$$ \nu = \frac{2 v^2}{g^\top A\, g}, \qquad g = \frac{\partial v}{\partial \theta} . $$

A spread of 0 is at the end of its range, and is taken for known. Source: Kuznetsova, Brockhoff and Christensen 2017,
lmerTest package: Tests in linear mixed effects models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebmeta.random_effects.engine import NO_ERROR, SMALL, TINY, Engine

__all__ = ["satterthwaite"]

Array = NDArray[np.float64]
STEP = 1e-5  # of the differences that give the slope of a variance, of the size of a parameter


def satterthwaite(engine: Engine, at: Array, terms: Array | None = None) -> Array:
    r"""Return the degrees of freedom of each coefficient, or of sums of them.

    $$ \nu_k = 2 v_k^2 / (g_k^\top A\, g_k) $$

    Args:
        engine: the criterion of normal labels.
        at: its maximum, shape `(D,)`.
        terms: how often each coefficient is in each sum, shape `(N, P)`; one coefficient in each by default.

    Returns:
        Shape `(P,)` or `(N,)`.
    """
    kept = ~engine.given(at)
    kept[: engine.num_theta] &= ~(engine.diagonal & (at[: engine.num_theta] < SMALL))
    if not kept.any():
        return np.full(len(engine.coefficients(at)) if terms is None else len(terms), np.inf)
    values, vectors = np.linalg.eigh(engine.curvature(at)[np.ix_(kept, kept)])
    told = values > NO_ERROR * max(values.max(), TINY)

    def variances(covariance: Array) -> Array:
        out: Array = np.einsum("np,pq,nq->n", each, covariance, each, optimize=True)
        return out

    def covariance(point: Array) -> Array:
        return engine.common_inner(point)[1]

    basis = engine.common_inner(at)[0]
    each = basis if terms is None else terms @ basis
    steps = STEP * np.maximum(1.0, np.abs(at[kept]))
    moves = np.eye(len(at))[kept] * steps[:, None]
    bends = [(covariance(at + m) - covariance(at - m)) / (2 * s) for m, s in zip(moves, steps, strict=True)]
    slope = np.stack([variances(bend) for bend in bends])
    error = ((vectors[:, told].T @ slope) ** 2 / values[told][:, None]).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a sum of nothing
        found: Array = np.where(error > 0, 2 * variances(covariance(at)) ** 2 / error, np.inf)
    return found
