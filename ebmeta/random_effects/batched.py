"""Small matrices of many groups, the groups along the last axis, so that each step is one operation on all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Segments", "cholesky", "gram", "solve_lower", "solve_upper"]

Array = NDArray[np.float64]


class Segments:
    """Rows in the order of their groups, and sums of them over each group.

    Args:
        codes: number of the group of each row, shape `(N,)`; every group has a row.
        num_groups: number of groups, $G$.

    Examples:
        >>> Segments(np.array([1, 0, 1]), 2).sum(np.array([5.0, 1.0, 2.0]))
        array([5., 3.])
    """

    def __init__(self, codes: NDArray[np.int64], num_groups: int) -> None:
        ordered = bool((codes[:-1] <= codes[1:]).all())
        self.order = np.arange(len(codes)) if ordered else np.argsort(codes, kind="stable")
        self.codes = codes if ordered else codes[self.order]
        self.counts = np.bincount(codes, minlength=num_groups)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    @classmethod
    def of(cls, counts: NDArray[np.int64]) -> Segments:
        """Return rows that are in the order of their groups already, so many of each."""
        return cls(np.repeat(np.arange(len(counts)), counts), len(counts))

    def parts(self, most: int) -> Iterator[tuple[slice, slice]]:
        """Yield groups and rows in the order of `order`, about `most` rows at a time."""
        ends = np.append(self.starts, len(self.order))
        cuts = np.unique([0, *np.searchsorted(ends, np.arange(0, len(self.order), most)[1:]), len(self.counts)])
        for a, b in itertools.pairwise(int(c) for c in cuts):
            yield slice(a, b), slice(int(ends[a]), int(ends[b]))

    def sum(self, rows: Array) -> Array:
        """Return the sums over each group of rows in the order of `order`, shape `(..., N)` to `(..., G)`."""
        out: Array = np.add.reduceat(rows, self.starts, axis=-1)
        return out

    def spread(self, groups: Array) -> Array:
        """Return the value of its group for every row, shape `(..., G)` to `(..., N)`."""
        out: Array = groups.take(self.codes, axis=-1)
        return out


def cholesky(matrix: Array) -> Array:
    """Return the lower Cholesky factors of positive definite matrices, shape `(K, K, G)`.

    Examples:
        >>> cholesky(np.array([[4.0, 2.0], [2.0, 5.0]])[..., None])[..., 0]
        array([[2., 0.],
               [1., 2.]])
    """
    out = np.zeros_like(matrix)
    for j in range(len(matrix)):
        out[j, j] = np.sqrt(_less(matrix[j, j], out[j, :j], out[j, :j]))
        for i in range(j + 1, len(matrix)):
            out[i, j] = _less(matrix[i, j], out[i, :j], out[j, :j]) / out[j, j]
    return out


def solve_lower(lower: Array, right: Array) -> Array:
    """Return $L^{-1} B$ for each group, shapes `(K, K, G)` and `(K, M, G)`."""
    out = np.empty_like(right)
    for i in range(len(lower)):
        out[i] = _less(right[i], lower[i, :i], out[:i]) / lower[i, i]
    return out


def solve_upper(lower: Array, right: Array) -> Array:
    r"""Return $L^{-\top} B$ for each group, shapes `(K, K, G)` and `(K, M, G)`."""
    out = np.empty_like(right)
    for i in reversed(range(len(lower))):
        out[i] = _less(right[i], lower[i + 1 :, i], out[i + 1 :]) / lower[i, i]
    return out


def _less(value: Array, left: Array, right: Array) -> Array:
    """Return a value less the sum of some products."""
    for a, b in zip(left, right, strict=True):
        value = value - a * b
    return value


def gram(left: Array, right: Array) -> Array:
    r"""Return $\sum_g A_g^\top B_g$, shapes `(K, M, G)` and `(K, L, G)` to `(M, L)`."""
    out: Array = sum((a @ b.T for a, b in zip(left, right, strict=True)), np.zeros((left.shape[1], right.shape[1])))
    return out
