r"""Marks of groups: numbers by which a group is known by all of its rows, in any order and under any name.

A row is hashed by its features, label and size in 32 bits, and a group by the sum of the hashes of its rows,

$$ m(\{r_1, \dots, r_n\}) = h\Big( n + \sum_i h\big( \textstyle\sum_j a_j r_{ij} \big) \Big) \bmod 2^{48} , $$

with the bits of numbers as $r_{ij}$, odd multipliers $a_j$, and a mixing function $h$. All rows are hashed at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["group_marks"]

BLOCK = 1 << 16  # rows that are hashed at once
BITS = 48
APART = 0.5  # share of rows that have to differ: groups of few possible rows are alike by chance


def group_marks(
    X: np.ndarray, y: np.ndarray, size: np.ndarray | None, members: list[NDArray[np.int64]]
) -> NDArray[np.uint64] | None:
    """Return a mark of each group, shape `(G,)`, below $2^{48}$; None where rows say too little to know a group by.

    Args:
        X: features, shape `(N, ...)`.
        y: labels, shape `(N,)`.
        size: sizes, shape `(N,)`; 1 where None.
        members: rows of each group.

    Examples:
        >>> X, y = np.array([[0.1], [0.2], [0.3], [0.4]]), np.array([1.0, 2.0, 3.0, 4.0])
        >>> whole = group_marks(X, y, None, [np.array([0, 1]), np.array([2, 3])])
        >>> other = group_marks(X[::-1], y[::-1], None, [np.array([0, 1]), np.array([2, 3])])
        >>> whole[0] == other[1], whole[1] == other[0], whole[0] == whole[1]
        (np.True_, np.True_, np.False_)
        >>> group_marks(0 * X, y > 2, None, [np.array([0, 1]), np.array([2, 3])]) is None
        True
    """
    if not len(members) or isinstance(X, np.memmap):  # which would be read as a whole
        return None
    flat = X.reshape(len(X), -1)
    factors = np.random.default_rng(0).integers(0, 1 << 63, flat.shape[1] + 2, dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    sizes = np.ones(len(y), np.float32) if size is None else size
    order = np.concatenate(members)
    hashed = np.empty(len(order), np.uint64)
    for start in range(0, len(order), BLOCK):
        rows = order[start : start + BLOCK]
        values = np.empty((len(factors), len(rows)), np.float32)
        with np.errstate(over="ignore"):
            values[:-2], values[-2], values[-1] = flat[rows].T, y[rows], sizes[rows]
        values += 0.0  # no -0
        hashed[start : start + len(rows)] = _mixed(factors @ values.view(np.uint32).astype(np.uint64))
    some = hashed[:BLOCK]
    if len(np.unique(some)) <= APART * len(some):
        return None
    lengths = np.array([len(rows) for rows in members])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    total = np.add.reduceat(hashed, starts) + lengths.astype(np.uint64)
    return _mixed(total) >> np.uint64(64 - BITS)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers whose bits all depend on all bits (the end of SplitMix64: Steele, Lea and Flood 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))
