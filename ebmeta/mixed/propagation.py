r"""Draws of the parameters, by which predictions carry their uncertainty.

Parameters are drawn from a Student-t distribution around the maximum, with the curvature there, then from one with the
mean and covariance of these draws, and weighted by

$$ w_d \propto p(y \mid \theta_d)\, p(\theta_d) / q(\theta_d) , $$

with a flat density of the coefficients, of the entries of the factors of the covariances and of the logarithms of the
other parameters, times the hyperprior where there is one. A large weight is cut to $\sqrt D$ times the mean. A spread
of 0 is no end of the draws: the sign of a column of a factor says nothing, and $q$ is the sum over all signs. Source:
Ionides 2008, Truncated importance sampling.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from ebmeta.foundation.telling import tell
from ebmeta.random_effects.engine import Engine

__all__ = ["Draws", "draw"]

Array = NDArray[np.float64]
FREEDOM = 5.0  # of the Student-t distribution
EDGE = 1e-12  # of probability
POOR = 0.2  # share of draws that count, below which there is a warning
GOOD = 0.7  # share of draws that count, from which the first ones do
WIDER, NARROWEST = 1.5, 0.3  # of the second draws: times the covariance of the first, and of their scale
MIRRORS = 6  # columns of factors whose signs are turned, at most
WIDEST = 2.0  # standard deviation of a draw in a direction that little is known of, in units of a factor's entries


class Draws(NamedTuple):
    """Weighted draws of the parameters.

    Args:
        at: shape `(D, P)`.
        weight: shape `(D,)`, in all 1.
    """

    at: Array
    weight: Array

    @property
    def size(self) -> float:
        """Number of draws of equal weight that say as much."""
        return float(1 / (self.weight**2).sum())


def draw(engine: Engine, at: Array, num_draws: int, seed: int) -> Draws:
    """Return draws of the parameters.

    Args:
        engine: the criterion.
        at: its maximum, shape `(P,)`.
        num_draws: $D$.
        seed: of the draws.
    """
    given = engine.given(at)
    known, at = at[given], at[~given]  # known ones are the last
    values, vectors = np.linalg.eigh(engine.curvature(np.append(at, known))[np.ix_(~given, ~given)])
    center, scale, signs = at, vectors / np.sqrt(np.abs(values).clip(WIDEST**-2)), _signs(engine, len(at))
    rng = np.random.default_rng(seed)
    proposal = stats.multivariate_t(np.zeros(len(at)), np.eye(len(at)), df=FREEDOM)
    for last in (False, True):  # the first draws tell how skewed and how wide the density is
        even = stats.qmc.Sobol(len(at), seed=rng).random_base2((num_draws - 1).bit_length())
        normal = special.ndtri(even[:num_draws].clip(EDGE, 1 - EDGE))
        points = center + normal * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (num_draws, 1))) @ scale.T
        back = np.linalg.inv(scale).T
        mirrored = [np.reshape(proposal.logpdf((sign * points - center) @ back), -1) for sign in signs]
        log_density = np.array([engine.log_posterior(np.append(point, known)) for point in points])
        log_ratio = log_density - special.logsumexp(mirrored, 0) + np.log(np.abs(np.linalg.det(scale)))
        weight = np.minimum(special.softmax(log_ratio), num_draws**-0.5)
        weight /= weight.sum()
        if last or 1 / (weight**2).sum() > GOOD * num_draws:
            break
        center = weight @ points
        spread = np.einsum("d,di,dj->ij", weight, points - center, points - center)
        scale = np.linalg.cholesky(WIDER * spread + NARROWEST**2 * scale @ scale.T)
    found = Draws(np.column_stack([points, np.tile(known, (num_draws, 1))]), weight)
    if found.size < POOR * num_draws:
        tell(
            f"draws: {num_draws} of the parameters, whose weights differ, count as {found.size:.0f}: give `propagate` "
            "more num_draws, until the intervals that matter stay as they are"
        )
    return found


def _signs(engine: Engine, length: int) -> list[Array]:
    """Return the signs of the parameters that give the same covariances, by columns of the factors."""
    columns, start = [], 0
    for factor in engine.factors:
        for column in range(len(factor.terms)):
            one = np.ones(length)
            one[start : start + factor.size][factor.columns == column] = -1.0
            columns.append(one)
        start += factor.size
    chosen = itertools.product((False, True), repeat=min(len(columns), MIRRORS))
    return [
        np.prod([c for c, taken in zip(columns, pick, strict=False) if taken], axis=0) * np.ones(length)
        for pick in chosen
    ]
