r"""A test of uniformity by the empirical distribution function, with an exact simultaneous band.

At each point $z_k = k/K$ of a grid the number of values up to it, $R_k$, is binomial. The test statistic is the
smallest of the pointwise two-sided tail probabilities,

$$ G = \min_{0 < k < K} 2 \min \big( P(B_k \le R_k),\, P(B_k \ge R_k) \big), \qquad B_k \sim \mathrm{Bin}(N, z_k), $$

and its distribution is exact: $R_1, R_2, \dots$ is a Markov chain with binomial steps, so the probability that it
stays between bounds is a product of small matrices. The band holds all counts whose tail probabilities are above the
largest $g$ with $P(G \le g) \le \alpha$ (theory: "Simulation-based calibration").

Source: Säilynoja, Bürkner and Vehtari 2022, Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from ebmeta.foundation.checks import array, at_least, between, checked

__all__ = ["Band", "ecdf_band", "least_tail", "uniformity_p_value"]

POINTS = 100  # most intervals of the grid
LEAST = 1e-12  # p-values below are rounding errors of one minus a probability
HALVINGS = 40


class Band(NamedTuple):
    """A simultaneous band for the empirical distribution function of uniform numbers.

    Args:
        points: the grid $z_k$, shape `(K - 1,)`.
        low: lowest share of values up to each point that is still inside, shape `(K - 1,)`.
        high: highest such share, shape `(K - 1,)`.
        threshold: the value of $G$ at and below which uniformity is refused.
    """

    points: np.ndarray
    low: np.ndarray
    high: np.ndarray
    threshold: float


class _Tails(NamedTuple):
    """Tail probabilities of every count at every point of the grid, shape `(K - 1, N + 1)`, and log factorials."""

    points: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    log_factorial: np.ndarray


@cache
def _tails(num_values: int) -> _Tails:
    intervals = min(num_values, POINTS)
    points = np.arange(1, intervals) / intervals
    counts = np.arange(num_values + 1)
    lower = stats.binom.cdf(counts, num_values, points[:, None])
    upper = stats.binom.sf(counts - 1, num_values, points[:, None])
    return _Tails(points, lower, upper, special.gammaln(counts + 1.0))


def _bounds(tails: _Tails, g: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest count at each point whose tail probabilities are both above `g` / 2."""
    low = (2 * tails.lower > g).argmax(1)
    high = tails.upper.shape[1] - 1 - (2 * tails.upper > g)[:, ::-1].argmax(1)
    return low, high


def _probability(num_values: int, g: float) -> float:
    r"""Return $P(G \le g)$ by the recursion over the points of the grid."""
    tails = _tails(num_values)
    if len(tails.points) * g <= LEAST:  # each point alone is at or below g with probability g at most
        return LEAST
    low, high = _bounds(tails, g)
    if bool((low > high).any()):
        return 1.0
    log_f, last = tails.log_factorial, 0.0
    old, mass = np.zeros(1, int), np.ones(1)
    for point, a, b in zip(tails.points, low, high, strict=True):
        share, new = (point - last) / (1 - last), np.arange(a, b + 1)
        step, rest = new - old[:, None], num_values - new
        log_p = log_f[num_values - old][:, None] - log_f[np.maximum(step, 0)] - log_f[rest]
        log_p = log_p + step * np.log(share) + rest * np.log1p(-share)
        mass = mass @ np.where(step >= 0, np.exp(log_p), 0.0)
        old, last = new, point
    return float(min(max(1 - mass.sum(), LEAST), 1.0))


@checked(u=array(ndim=1))
def least_tail(u: np.ndarray) -> float:
    """Return $G$ of numbers in [0, 1], shape `(N,)`."""
    tails = _tails(len(u))
    counts = np.searchsorted(np.sort(u), tails.points, side="right")
    rows = np.arange(len(counts))
    return float(2 * np.minimum(tails.lower[rows, counts], tails.upper[rows, counts]).min())


@cache
def _threshold(num_values: int, alpha: float) -> float:
    r"""Return the largest $g$ with $P(G \le g) \le \alpha$, by bisection in its logarithm."""
    low, high = np.log(alpha) - 12.0, np.log(2.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(num_values, float(np.exp(middle))) <= alpha else (low, middle)
    return float(np.exp(low))


@checked(num_values=at_least(2), alpha=between(0, 1))
def ecdf_band(num_values: int, alpha: float = 0.05) -> Band:
    r"""Return the band that the distribution function of `num_values` uniform numbers leaves with probability $\alpha$.

    Counts are whole numbers, so the probability is the largest possible at or below $\alpha$.

    Args:
        num_values: $N$.
        alpha: probability of leaving the band anywhere, in (0, 1).

    Raises:
        ValueError: if there are fewer than two values, or `alpha` is not in (0, 1).

    Examples:
        >>> band = ecdf_band(100)
        >>> k = band.points.tolist().index(0.5)
        >>> float(band.low[k]), float(band.high[k])
        (0.36, 0.64)
    """
    threshold = _threshold(num_values, float(alpha))
    tails = _tails(num_values)
    low, high = _bounds(tails, threshold)
    return Band(tails.points, low / num_values, high / num_values, threshold)


@checked(u=array(ndim=1))
def uniformity_p_value(u: np.ndarray) -> float:
    """Return the exact probability that uniform numbers look less uniform than these; not below 1e-12.

    Args:
        u: independent numbers in [0, 1], shape `(N,)`.

    Raises:
        ValueError: if there are fewer than two numbers, or one is outside [0, 1].

    Examples:
        >>> uniformity_p_value(np.linspace(0.005, 0.995, 100))
        1.0
        >>> uniformity_p_value(np.linspace(0.3, 0.7, 100)) < 1e-6
        True
    """
    u = np.asarray(u, dtype=float)
    if u.ndim != 1 or len(u) < 2:
        raise ValueError(f"u: expected at least 2 numbers in one row, got shape {u.shape}")
    if not bool(((u >= 0) & (u <= 1)).all()):
        raise ValueError(f"u: expected numbers from 0 to 1, got {u[~((u >= 0) & (u <= 1))][0]}")
    return _probability(len(u), least_tail(u))
