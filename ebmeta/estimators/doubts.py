"""What makes answers of the general classifier doubtful, told in one line each.

A trained model knows units and spread of its features. The general one has nothing but the rows of the task, and
compares their directions from a centre. So a column in another unit, labelled rows that are scaled otherwise than the
rest, or a damaged row may decide alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ebmeta.tasks.row_numbers import notes_on_row_numbers

__all__ = ["tell_of_rows"]

FEW, HALF, FAR = 0.05, 0.5, 5.0  # share of features that has half of the variance, the first so far above most: too few
LONGER = 4.0  # times as long as all rows of the other side: of another scale
BEYOND = 50.0  # times as far out as all other rows: one that moves the centre
ENOUGH = 20  # rows, from which on one may lie beyond the others
BLANK = 8  # features, from which on a row of zeros is no point like any other
MIDDLE = 4096  # rows that the middle of all is found from, of more


def tell_of_rows(labelled: Tensor, other: Tensor, ways: int, names: Sequence[str] | None, stacklevel: int) -> None:
    """Warn of what makes answers doubtful.

    Args:
        labelled: labelled rows of a task, shape `(S, D)`; there may be none.
        other: its other rows, shape `(Q, D)`.
        ways: number of classes.
        names: names of the columns, or None.
        stacklevel: as of `warnings.warn`, for the caller.

    Examples:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     tell_of_rows(torch.tensor([[0.0, 1.0, 5000.0]]), torch.tensor([[1.0, 0.0, 9000.0]]), 1, None, 1)
        >>> print(str(told[0].message)[:90])
        X: 1 feature of 3 has 100% of the variance and will decide alone; the largest is column 2;
    """
    rows = torch.cat([labelled, other])
    told = notes_on_row_numbers(rows.numpy(), names)
    rows /= max(float(rows.abs().max()), 1e-300)
    number = len(labelled)
    found = _units(rows, names) or _lengths(rows, number), _beyond(rows, number), _few(rows, ways)
    for note in (*told, *(f"X: {said}" for said in found if said)):
        warnings.warn(note, UserWarning, stacklevel=stacklevel + 1)


def _units(rows: Tensor, names: Sequence[str] | None) -> str:
    """Say where a few of many features have most of the variance."""
    variance = rows.var(0, correction=0)
    varied = variance[variance > 0].sort(descending=True).values
    number = max(1, int(FEW * rows.shape[1]))
    share = float(varied[:number].sum() / varied.sum()) if len(varied) else 0.0
    if share <= HALF or varied[0] <= FAR**2 * varied.median():
        return ""
    few = f"{number} features of {rows.shape[1]} have" if number > 1 else f"1 feature of {rows.shape[1]} has"
    largest = int(variance.argmax())
    return (
        f"{few} {share:.0%} of the variance and will decide alone; the largest is column "
        f"{largest if names is None else repr(names[largest])}; "
        "if features have different units, give all the same (scikit-learn's StandardScaler, or --scale)"
    )


def _lengths(rows: Tensor, labelled: int) -> str:
    """Say where a labelled row alone is zero, or all are far longer or shorter than nearly all others."""
    lengths = rows.norm(dim=1)
    own, other = lengths[:labelled], lengths[labelled:].sort().values
    if not len(own):
        return ""
    if rows.shape[1] >= BLANK and (own == 0).any() and (other > 0).all():
        return f"labelled row {int(own.argmin())} is zero in all features; leave out rows that could not be encoded"
    low, high = other[len(other) // 10], other[-1 - len(other) // 10]
    if low > LONGER * own.max():
        return f"labelled rows are less than 1/{LONGER:.0f} as long as the others; encode and scale all rows alike"
    if own.min() > LONGER * high:
        return f"labelled rows are more than {LONGER:.0f} times as long as the others; encode and scale all rows alike"
    return ""


def _beyond(rows: Tensor, labelled: int) -> str:
    """Say which rows lie far beyond all others."""
    if len(rows) < ENOUGH:
        return ""
    middle = rows[:: max(1, len(rows) // MIDDLE)].median(0, keepdim=True).values
    far, order = torch.cdist(rows, middle, compute_mode="donot_use_mm_for_euclid_dist")[:, 0].sort(descending=True)
    number = max(1, int(FEW * len(rows)))
    gaps = (far[:number] > BEYOND * far[1 : number + 1]) & (far[1 : number + 1] > 0)
    if not gaps.any():
        return ""
    first, count = int(order[0]), int(gaps.nonzero()[-1]) + 1
    called = f"labelled row {first}" if first < labelled else f"row {first - labelled}"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{called}{more} lies more than {BEYOND:.0f} times as far out as the others, and moves their centre"


def _few(rows: Tensor, ways: int) -> str:
    """Say where there are too few features for that many directions."""
    features = rows.shape[1]
    if features > 2 or ways <= 2 * features:
        return ""
    few = f"{features} feature{'s' * (features > 1)}"
    return f"{few} for {ways} classes; rows are compared by their directions, and classes in line are not told apart"
