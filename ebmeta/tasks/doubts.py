"""What rows of features make doubtful, whoever learns from them: each is said in words, and nothing is changed.

Columns may number the rows: these say nothing of rows to come, and where files are sorted, too much. A few columns, or
a few rows, may be so large that all others say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["BEYOND", "FEWEST", "far_rows", "few_features", "notes_on_numbers", "notes_on_rows", "row_numbers"]

FEWEST = 20  # rows, below which whole numbers follow each other, or one row lies beyond others, by chance
FIRST = 64  # rows by which most columns are seen to number nothing
FEW, HALF, FAR = 0.05, 0.5, 5.0  # share of features that has half of the variance, the first so far above most: too few
BEYOND = 50.0  # times as far out as all other rows: one that moves the centre
SOME = 4096  # rows that middle and spreads are found from, of more
LARGE = 1 << 28  # bytes of rows that are all read for those far out; of more, none


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


def notes_on_numbers(X: Any, names: Sequence[str] | None) -> list[str]:
    """Return what to say of columns that number the rows.

    Args:
        X: as of `row_numbers`.
        names: names of the columns, or None.

    Examples:
        >>> X = np.stack([np.arange(30.0) ** 2, 5 + np.arange(30)], 1)
        >>> notes_on_numbers(X, ["area", "nr"])
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


def few_features(share: np.ndarray, names: Sequence[str] | None) -> str:
    """Return what to say where a few of many features outweigh all others; nothing elsewhere.

    Args:
        share: what each feature has of the whole, such as its variance, shape `(D,)`.
        names: names of the columns, or None.

    Examples:
        >>> few_features(np.array([1.0, 2.0, 5000.0]), None)[:84]
        '1 feature of 3 has 100% of the variance and will decide alone; the largest is column'
    """
    varied = np.sort(share[share > 0])[::-1]
    number = max(1, int(FEW * len(share)))
    whole = float(varied[:number].sum() / varied.sum()) if len(varied) else 0.0
    if whole <= HALF or varied[0] <= FAR**2 * varied[len(varied) // 2]:
        return ""
    few = f"{number} features of {len(share)} have" if number > 1 else f"1 feature of {len(share)} has"
    largest = int(share.argmax())
    return (
        f"{few} {whole:.0%} of the variance and will decide alone; the largest is column "
        f"{largest if names is None else repr(names[largest])}; "
        "if features have different units, give all the same (scikit-learn's StandardScaler, or --scale)"
    )


def far_rows(X: Any) -> np.ndarray:
    """Return the numbers of rows that lie far beyond all others, the farthest first; at most a twentieth.

    Args:
        X: rows, shape `(N, D)`; how far out one is says its largest coordinate.

    Examples:
        >>> X = np.random.default_rng(0).normal(size=(40, 3))
        >>> X[7] = 500.0
        >>> far_rows(X).tolist()
        [7]
    """
    if len(X) < FEWEST:
        return np.zeros(0, dtype=int)
    middle = np.median(np.asarray(X[:: -(-len(X) // SOME)], dtype=np.float64), axis=0)
    with np.errstate(over="ignore"):
        out = np.concatenate([np.abs(X[n : n + SOME] - middle).max(1) for n in range(0, len(X), SOME)])
    number = max(1, int(FEW * len(X)))
    order = np.argsort(-out)[: number + 1]
    gaps = (out[order[:-1]] > BEYOND * out[order[1:]]) & (out[order[1:]] > 0)
    return order[: int(np.flatnonzero(gaps)[-1]) + 1] if gaps.any() else order[:0]


def notes_on_rows(X: Any, names: Sequence[str] | None) -> list[str]:
    """Return what makes training on rows of classes doubtful.

    Training measures a metric in which standard deviations count as variances do elsewhere, so shares are of these.

    Args:
        X: rows, shape `(N, D)`; of inputs of other shapes nothing is said.
        names: names of the columns, or None.

    Examples:
        >>> notes_on_rows(np.ones((30, 2)), None)
        ['X: no feature varies, so that there is nothing to learn']
    """
    if np.ndim(X) != 2 or X.dtype.kind not in "iuf":
        return []
    some = np.asarray(X[:: -(-len(X) // SOME)], dtype=np.float64)
    spread = (some / max(float(np.abs(some).max()), 1e-300)).std(0)
    if not np.isfinite(spread).all():
        return []  # told where these rows are drawn
    notes = notes_on_numbers(X, names)
    if not spread.any():
        notes.append("X: no feature varies, so that there is nothing to learn")
    if said := few_features(spread, names):
        notes.append(f"X: {said}")
    if X.nbytes <= LARGE and len(far := far_rows(X)):
        more = f" (and {len(far) - 1} more)" if len(far) > 1 else ""
        notes.append(f"X: row {far[0]}{more} lies more than {BEYOND:.0f} times as far out as the others")
    return notes
