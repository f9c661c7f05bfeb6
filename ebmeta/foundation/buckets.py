"""Splits tasks into parts of similar size, so that padding at most doubles the number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

__all__ = ["by_group", "split"]


def split(lengths: np.ndarray, rows: int) -> list[np.ndarray]:
    """Split tasks of unequal lengths into parts, each to be padded to its longest.

    Tasks come in the order of their lengths' powers of two, then of their numbers, whatever `rows` is. No task of a
    part is more than twice as long as another, unless all tasks fit into one part as they are.

    Args:
        lengths: of each task, shape `(T,)`.
        rows: most rows of a part, padding included, unless it is a single task.

    Returns:
        Numbers of tasks, one array for each part.

    Examples:
        >>> [part.tolist() for part in split(np.array([2, 900, 1, 2, 2]), 4)]
        [[2], [0, 3], [4], [1]]
        >>> [part.tolist() for part in split(np.array([3, 4]), 8)]
        [[0, 1]]
    """
    power = np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)
    order = np.argsort(power, kind="stable")
    if len(lengths) * int(lengths.max()) <= rows:
        return [order]
    parts = []
    for p in np.unique(power):
        own, step = order[power[order] == p], max(1, rows // 2 ** int(p))
        parts += [own[i : i + step] for i in range(0, len(own), step)]
    return parts


def by_group(labels: Sequence[Any] | None, keys: Sequence[Any], length: int) -> list[torch.Tensor]:
    """Return the rows of each group, in order; without names of groups all rows are one group."""
    if labels is None:
        return [torch.arange(length) for _ in keys]
    number = {k: i for i, k in enumerate(keys)}
    codes = np.array([number.get(g, -1) for g in labels], dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(keys) + 1))
    return [torch.from_numpy(order[i:j]) for i, j in pairwise(ends)]
