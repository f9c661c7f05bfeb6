"""What makes answers of the general classifier doubtful, told in one line each.

A trained model knows units and spread of its features. The general one has nothing but the rows of the task, and
compares their directions from a centre. So a column in another unit, labelled rows that are scaled otherwise than the
rest, or a damaged row may decide alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebmeta.estimators.rows import distinct
from ebmeta.foundation.telling import tell
from ebmeta.tasks.alike import alike
from ebmeta.tasks.doubts import BEYOND, FEWEST, far_rows, few_features, notes_on_numbers

__all__ = ["tell_of_anchors", "tell_of_copies", "tell_of_labels", "tell_of_lengths", "tell_of_rows"]

LONGER = 4.0  # times as long as all rows of the other side: of another scale
SOME = 512  # rows that directions are counted from, of more
BLANK = 8  # features, from which on a row of zeros is no point like any other


def tell_of_rows(labelled: Tensor, other: Tensor, ways: int, names: Sequence[str] | None) -> None:
    """Warn of what makes answers doubtful.

    Args:
        labelled: labelled rows of a task, shape `(S, D)`; there may be none.
        other: its other rows, shape `(Q, D)`.
        ways: number of classes.
        names: names of the columns, or None.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     tell_of_rows(torch.tensor([[0.0, 1.0, 5000.0]]), torch.tensor([[1.0, 0.0, 9000.0]]), 1, None)
        >>> print(str(told[0].message)[:90])
        X: 1 feature of 3 has 100% of the variance and will decide alone; the largest is column 2;
    """
    rows = torch.cat([labelled, other])
    told = notes_on_numbers(rows.numpy(), names)
    rows /= max(float(rows.abs().max()), 1e-300)
    number = len(labelled)
    beyond = _beyond(rows, number)
    scales = few_features(rows.var(0, correction=0).numpy(), names) or _lengths(rows, number)
    found = (scales or ("" if beyond else _few(rows, ways)), beyond)
    for note in (*told, *(f"X: {said}" for said in found if said)):
        tell(note)


def tell_of_lengths(labelled: Tensor, other: Tensor, name: str = "X") -> None:
    """Warn of what no model takes: labelled rows of another scale than the others.

    Args:
        labelled: labelled rows of a task, shape `(S, ...)`.
        other: its other rows, shape `(Q, ...)`.
        name: of the argument that has the other rows.
    """
    rows = torch.cat([labelled, other]).flatten(1)
    if said := _lengths(rows / max(float(rows.abs().max()), 1e-300), len(labelled)):
        tell(f"{name}: {said}")


def tell_of_anchors(anchors: Tensor, other: Tensor) -> None:
    """Warn where inputs that stand for classes have another scale than the rows, as names that are elsewhere do.

    Args:
        anchors: shape `(A, ...)`.
        other: rows of the task, shape `(Q, ...)`.
    """
    rows = torch.cat([anchors, other]).flatten(1)
    if said := _lengths(rows / max(float(rows.abs().max()), 1e-300), len(anchors), "anchor"):
        tell(f"anchors: {said}")


def tell_of_copies(rows: Tensor) -> None:
    """Warn where rows of a task are copies of others, which count as so many.

    Args:
        rows: unlabelled rows of a task, shape `(Q, ...)`.
    """
    if copies := len(rows) - len(distinct(rows)[0]):
        told = f"X: {copies} of {len(rows)} rows are copies of others, and count as rows of a task; give each row once"
        tell(told)


def tell_of_labels(labelled: Tensor, codes: Tensor, classes: Sequence[object], outliers: bool) -> None:
    """Warn of one class alone, and where labelled rows that are one row have several labels.

    Args:
        labelled: labelled rows of a task, shape `(S, ...)`.
        codes: the number of the class of each, shape `(S,)`.
        classes: the classes.
        outliers: whether rows may be of none of them, which is then what is asked of one class.
    """
    if len(classes) == 1 and not outliers:
        told = f"y: expected labels of at least two classes, got {classes[0]!r} alone, of which all rows will be"
        tell(f"{told}; outliers=True tells its rows from others")
    if labelled.shape[1:].numel() < BLANK:
        return
    labels, first = [classes[code] for code in codes.tolist()], dict[int, int]()
    for row, number in enumerate(alike(labelled.numpy())[0].tolist()):
        same = first.setdefault(number, row)
        if labels[same] != labels[row]:
            told = f"y: labelled rows {same} and {row} are one row with labels {labels[same]!r} and {labels[row]!r}"
            tell(f"{told}; give each row its one label")
            return


def _lengths(rows: Tensor, labelled: int, what: str = "labelled row") -> str:
    """Say where a labelled row or anchor alone is zero, or all are far longer or shorter than nearly all others."""
    lengths = rows.norm(dim=1)
    own, other = lengths[:labelled], lengths[labelled:].sort().values
    if not len(own):
        return ""
    if rows.shape[1] >= BLANK and (own == 0).any() and (other > 0).all():
        kind = what.split()[-1]
        return f"{what} {int(own.argmin())} is zero in all features; leave out {kind}s that could not be encoded"
    others = "the rows" if what == "anchor" else "the others"
    low, high = other[len(other) // 10], other[-1 - len(other) // 10]
    if low > LONGER * own.max():
        return f"{what}s are less than 1/{LONGER:.0f} as long as {others}; encode and scale all rows alike"
    if own.min() > LONGER * high:
        return f"{what}s are more than {LONGER:.0f} times as long as {others}; encode and scale all rows alike"
    return ""


def _beyond(rows: Tensor, labelled: int) -> str:
    """Say which rows lie far beyond all others."""
    far = far_rows(rows.numpy())
    if not len(far):
        return ""
    called = f"labelled row {far[0]}" if far[0] < labelled else f"row {far[0] - labelled}"
    more = f" (and {len(far) - 1} more)" if len(far) > 1 else ""
    return f"{called}{more} lies more than {BEYOND:.0f} times as far out as the others, and moves their centre"


def _few(rows: Tensor, ways: int) -> str:
    """Say where rows vary in too few directions for so many classes, however many features they have."""
    directions = _directions(rows)
    if round(directions, 1) > 2 or ways <= round(2 * directions):
        return ""
    return (
        f"rows vary in about {directions:.1f} directions, few for {ways} classes; scikit-learn's "
        "LogisticRegression may be better here"
    )


def _directions(rows: Tensor) -> float:
    r"""Return $(\sum_j \lambda_j)^2 / \sum_j \lambda_j^2$ for the variances $\lambda$ of rows along their axes."""
    some = rows[:: -(-len(rows) // SOME)]
    some = some - some.mean(0)
    some = some / some.abs().max().clamp(min=1e-300)
    products = some @ some.T
    square = float(products.square().sum())
    known = square > 0 and len(rows) >= FEWEST
    return float(products.trace()) ** 2 / square if known else float(rows.shape[1])
