r"""Rows that are one row: equal numbers, or numbers that were rounded, stored or computed anew.

The same row comes in 32 bits and in 64, from a file of few decimals, or from an encoder that ran twice. Two rows of $D$
features are one where they differ by less than what unlike rows do but once in $10^6$ pairs,

$$ \sqrt{\tfrac1D \sum_j \Big( \frac{a_j - b_j}{s_j} \Big)^2} \le \min(10^{-3}, 10^{-6 / D}), $$

with $s_j$ the median distance of column $j$ from its median, where that is not 0, over columns that vary. So it depends
on no unit.
"""

from __future__ import annotations

import math
from itertools import count

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["alike", "by_chance"]

SOME = 512  # rows that middle and spread of columns are found from, of more
NEAREST, CHANCE = 1e-3, 1e-6  # spreads apart, which 16 bits keep; and how often unlike rows may be so near
DIRECTIONS = 4  # along which rows are compared before they are compared in full


def alike(*parts: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Return a number for each row of each part, the same for rows that are one.

    Args:
        *parts: rows of one shape, shape `(N, ...)` each.

    Examples:
        >>> rows = np.random.default_rng(0).normal(size=(5, 8))
        >>> [numbers.tolist() for numbers in alike(rows, rows[[3, 1]].astype(np.float32))]
        [[0, 1, 2, 3, 4], [3, 1]]
    """
    width = math.prod(parts[0].shape[1:])
    rows = np.concatenate([np.asarray(part, dtype=np.float64).reshape(len(part), width) for part in parts])
    rows += 0.0  # of two zeros one
    known: dict[bytes, int] = {}
    equal = np.array([known.setdefault(row.tobytes(), len(known)) for row in rows], dtype=np.int64)
    first = np.unique(equal, return_index=True)[1]
    numbers = _near(rows[first])[equal]
    return np.split(numbers, np.cumsum([len(part) for part in parts])[:-1])


def by_chance(rows: NDArray[np.float64]) -> bool:
    """Return whether distinct rows, shape `(U, ...)`, have so few values that more of them would meet by chance.

    Examples:
        >>> by_chance(np.arange(4.0)[:, None]), by_chance(np.random.default_rng(0).normal(size=(9, 4)))
        (True, False)
    """
    if len(rows) < 2:
        return False
    some = np.sort(rows.reshape(len(rows), -1)[:: -(-len(rows) // SOME)], axis=0)
    number = np.log1p((np.diff(some, axis=0) > 0).sum(0)).sum()
    return bool(number <= math.log(len(rows) * (len(rows) - 1)))


def _near(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a number for each of distinct rows, shape `(N, D)`, the same for rows that are one."""
    rows = rows[:, (rows != rows[:1]).any(0)]
    if not rows.size:
        return np.arange(len(rows))
    some, width = rows[:: -(-len(rows) // SOME)], rows.shape[1]
    off = np.sort(np.abs(some - np.sort(some, 0)[len(some) // 2]), 0)
    spread = off[((off == 0).sum(0) + len(off) - 1) // 2, range(width)]
    spread[spread == 0] = 1.0
    apart = min(NEAREST, CHANCE ** (1 / width)) * np.sqrt(width)
    along = np.cos(np.arange(1, 1 + width)[:, None] * np.arange(1, 1 + DIRECTIONS))  # in no direction of the data
    with np.errstate(over="ignore", invalid="ignore"):
        place = rows @ (along / np.linalg.norm(along, axis=0) / spread[:, None])
        order = np.argsort(place[:, 0], kind="stable")
        place = place[order]
        pairs, run = [np.zeros((2, 0), dtype=np.int64)], np.arange(len(rows))
        for step in count(1):
            low = np.flatnonzero(place[step:, 0] - place[:-step, 0] <= apart)
            if not len(low):
                break
            low = low[run[low] != run[low + step]]  # many copies of one row follow each other, and are known as one
            low = low[(np.abs(place[low + step] - place[low]) <= apart).all(1)]
            pair = order[np.stack([low, low + step])]
            near = np.linalg.norm((rows[pair[0]] - rows[pair[1]]) / spread, axis=1) <= apart
            pairs.append(pair[:, near])
            if step == 1:
                run = np.cumsum(~np.isin(run, low[near] + 1))
    one, other = np.concatenate(pairs, 1)
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(rows), len(rows)))
    numbers: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return numbers
