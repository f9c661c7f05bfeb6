"""Columns of features that number the rows: they say nothing of rows to come, and where files are sorted, too much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["notes_on_row_numbers", "row_numbers"]

FEWEST = 20  # rows, below which whole numbers follow each other by chance or in an example
FIRST = 64  # rows by which most columns are seen to number nothing


def row_numbers(X: Any) -> list[int]:
    """Return the columns that have whole numbers, each once and none left out, in any order.

    A single column is what there is to learn from, such as the time of a curve, and numbers nothing.

    Args:
        X: rows of at least two features, shape `(N, D)`; inputs of other shapes have no such columns.

    Examples:
        >>> X = np.random.default_rng(0).normal(size=(30, 3))
        >>> X[:, 1] = 7 + np.arange(30)[::-1]
        >>> row_numbers(X)
        [1]
    """
    if np.ndim(X) != 2 or X.shape[1] < 2 or len(X) < FEWEST or X.dtype.kind not in "iuf":
        return []
    few = np.asarray(X[:FIRST], dtype=np.float64)
    whole = np.isfinite(few).all(0) & (few == np.round(few)).all(0)
    return [column for column in np.flatnonzero(whole).tolist() if _numbers(few[:, column]) and _all(X[:, column])]


def _numbers(values: np.ndarray) -> bool:
    return len(np.unique(values)) == len(values)


def _all(values: np.ndarray) -> bool:
    column = np.sort(np.asarray(values, dtype=np.float64))
    return bool((np.diff(column) == 1).all())


def notes_on_row_numbers(X: Any, names: Sequence[str] | None) -> list[str]:
    """Return what to say of columns that number the rows; arguments as of `row_numbers`.

    Examples:
        >>> X = np.stack([np.arange(30.0) ** 2, 5 + np.arange(30)], 1)
        >>> notes_on_row_numbers(X, ["area", "nr"])
        ["X: column 'nr' numbers the rows, from 5 to 34, and counts as a feature; leave it out (--exclude)"]
    """
    notes = []
    for column in row_numbers(X):
        called, values = column if names is None else repr(names[column]), X[:, column]
        notes.append(
            f"X: column {called} numbers the rows, from {values.min():.0f} to {values.max():.0f}, and counts as a "
            "feature; leave it out (--exclude)"
        )
    return notes
