"""Where an ascent starts again that ended with a spread of next to nothing: another maximum may be hidden."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ebmeta.random_effects.covariance import Factor

__all__ = ["restarts"]

Array = NDArray[np.float64]
INSIDE = 0.1  # a relative spread in place of next to nothing
CLOSE = 0.95  # a correlation


def restarts(factors: list[Factor], at: Array, little: NDArray[np.bool_]) -> list[Array]:
    """Return parameters to start from again.

    The slope at a spread of 0 says nothing, or that more is to be gained beyond, where all signs of its column are
    turned. Or the column of another term has taken its place, which the order of terms decides: then the least spread
    of a block has no correlation with the largest, or one of either sign.

    Args:
        factors: the covariances, whose parameters come first.
        at: where an ascent has ended.
        little: True where a spread is next to nothing, of the shape of `at`.

    Examples:
        >>> factor = Factor("g", ["1", "x"], [2], np.array([[1.0, 1.0], [1.0, -1.0]]))
        >>> for again in restarts([factor], np.array([0.0, 0.3, 0.4, 7.0]), np.array([True, False, False, False])):
        ...     print(again.round(2).tolist())
        [0.1, -0.3, 0.4, 7.0]
        [0.1, 0.0, 0.5, 7.0]
        [0.1, 0.48, 0.16, 7.0]
        [0.1, -0.48, 0.16, 7.0]
    """
    ends = np.cumsum([factor.size for factor in factors])
    *thetas, rest = np.split(at, ends)
    signs = [
        np.where(np.isin(f.columns, f.columns[own & f.diagonal]), -1.0, 1.0)
        for f, own in zip(factors, np.split(little, ends), strict=False)
    ]
    turned = at * np.concatenate([*signs, np.ones(len(rest))])
    turned[little] = INSIDE
    if max(max(factor.blocks) for factor in factors) == 1:
        return [turned]
    others = [
        np.concatenate([*(_correlated(f, theta, c) for f, theta in zip(factors, thetas, strict=True)), rest])
        for c in (0.0, CLOSE, -CLOSE)
    ]
    return [turned, *others]


def _correlated(factor: Factor, theta: Array, correlation: float) -> Array:
    """Return a factor with the same spreads, but none of next to nothing, and one correlation in each block."""
    length = np.linalg.norm(factor.lower(theta), axis=1).clip(INSIDE)
    lower = np.diag(length)
    for block in factor.slices:
        first, second = sorted(block.start + np.argsort(length[block])[[0, -1]])
        if first < second:
            lower[second, second] *= math.sqrt(1 - correlation**2)
            lower[second, first] = correlation * length[second]
    return factor.read(lower)
