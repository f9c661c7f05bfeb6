"""What estimators take besides features of labelled rows: groups, sizes and targets, and a pool of unlabelled rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from ebmeta.foundation.telling import tell
from ebmeta.model.base import PredictiveModel
from ebmeta.tasks.alike import alike, by_chance
from ebmeta.tasks.columns import check_names, read_column, read_keys, read_rows
from ebmeta.tasks.keys import kind_of_keys
from ebmeta.tasks.row_order import check_order
from ebmeta.tasks.rows import HUGE
from ebmeta.tasks.spellings import tell_of_near

__all__ = [
    "among",
    "check_groups",
    "covariates_of",
    "distinct",
    "groups_of",
    "matched",
    "names_of_row",
    "read_anchors",
    "refuse_huge",
    "sizes_of",
    "staying",
    "targets_of",
    "tell_of_zeros",
    "unlike",
]


def groups_of(groups: ArrayLike | None, length: int) -> list[Any] | None:
    """Return the group of each row, or None where there are none."""
    return None if groups is None else read_keys("groups", groups, length)


def sizes_of(size: ArrayLike | None, length: int) -> torch.Tensor | None:
    """Return the size of each row in 64 bits, shape `(N,)`, or None where there are none.

    Raises:
        ValueError: if one is not above 0.
    """
    if size is None:
        return None
    column = read_column("size", size, length).astype(np.float64)
    if not (column > 0).all():
        row = int(np.argmin(column > 0))
        raise ValueError(f"size: expected numbers above 0, got {column[row]:g} at row {row}")
    return torch.from_numpy(column)


def refuse_huge(name: str, rows: NDArray[Any]) -> None:
    """Raise `ValueError` where a number of rows, shape `(N, ...)`, is too large to square, with its row."""
    if rows.size and not (float(rows.min()) > -HUGE and float(rows.max()) < HUGE):  # which float32 cannot hold
        largest = np.abs(rows.reshape(len(rows), -1).astype(np.float64)).max(1)
        row = int(np.argmax(largest >= HUGE))
        raise ValueError(f"{name}: expected numbers below {HUGE:.0e}, got {largest[row]:.3g} at row {row}")


def names_of_row(row: Any) -> list[str] | None:
    """Return the column names of a row, where it is a series of pandas with texts as its index."""
    names = list(row.index) if isinstance(row, pd.Series) else []
    return names if names and all(isinstance(name, str) for name in names) else None


def targets_of(y: ArrayLike, length: int, X: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return labels that predictions for rows are compared with, shape `(N,)`.

    Raises:
        ValueError: if one is too large to square, or they have another order than the rows.
    """
    check_order(X, y=y)
    labels: NDArray[np.float64] = read_column("y", y, length).astype(np.float64)
    if (np.abs(labels) >= HUGE).any():
        raise ValueError(f"y: expected numbers below {HUGE:.0e}, got {np.abs(labels).max():.3g}")
    return labels


def matched(pool: torch.Tensor, rows: torch.Tensor) -> NDArray[np.int64]:
    """Return which of some rows each row of a pool is, -1 for none; one that is given so often is so many rows of it.

    Which rows are one, rounding apart, says `ebmeta.tasks.alike`.

    Args:
        pool: shape `(N, ...)`.
        rows: shape `(M, ...)`, in the pool or not.

    Examples:
        >>> pool = torch.tensor([[1.0], [2.0], [1.0], [3.0]])
        >>> matched(pool, torch.tensor([[1.0], [3.0], [3.0], [4.0]])).tolist()
        [0, -1, -1, 1]
    """
    left: dict[int, list[int]] = {}
    own, others = alike(pool.numpy(), rows.numpy())
    for place, number in reversed(list(enumerate(others.tolist()))):
        left.setdefault(number, []).append(place)
    return np.array([left[n].pop() if left.get(n) else -1 for n in own.tolist()], dtype=np.int64)


def staying(pool: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return which rows of a pool stay where some rows leave, shape `(N,)`; arguments as of `matched`.

    Examples:
        >>> pool = torch.tensor([[1.0], [2.0], [1.0], [3.0]])
        >>> staying(pool, torch.tensor([[1.0], [3.0], [3.0], [4.0]])).tolist()
        [False, True, True, False]
    """
    return torch.from_numpy(matched(pool, rows) < 0)


def among(rows: torch.Tensor, others: torch.Tensor) -> NDArray[np.bool_]:
    """Return which rows are one of some others, shape `(N,)`; arguments as of `matched`.

    Examples:
        >>> among(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([[1.0], [3.0]])).tolist()
        [True, False, True]
    """
    own, known = alike(rows.numpy(), others.numpy())
    return np.isin(own, known)


def distinct(rows: torch.Tensor, labels: torch.Tensor | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of the first of rows that are one, shape `(U,)`, and which of these each row is, shape `(N,)`.

    Rows of few values meet by chance, as those of some truth values: each is one of its own where the values of their
    columns allow for no more rows than there are pairs, $U (U - 1)$.

    Args:
        rows: shape `(N, ...)`.
        labels: what rows that are one have in common, too, shape `(N,)`.

    Examples:
        >>> first, which = distinct(torch.tensor([[1.5, 2.5], [3.0, 4.5], [1.5, 2.5]]))
        >>> first.tolist(), which.tolist()
        ([0, 1], [0, 1, 0])
        >>> distinct(torch.tensor([[0.0], [1.0], [0.0]]))[1].tolist()
        [0, 1, 2]
    """
    own = alike(rows.numpy())[0]
    first = np.unique(own, return_index=True)[1]
    if len(first) < len(rows) and by_chance(rows.numpy()[first]):
        own = np.arange(len(rows))
    given = [0] * len(rows) if labels is None else labels.tolist()
    known: dict[tuple[int, int], int] = {}
    which = np.array([known.setdefault(pair, len(known)) for pair in zip(own.tolist(), given, strict=True)], dtype=int)
    return np.unique(which, return_index=True)[1], which


def unlike(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return which rows are none before them and none of some others, shape `(N,)`; arguments as of `matched`.

    Examples:
        >>> unlike(torch.tensor([[1.0], [2.0], [2.0], [3.0]]), torch.tensor([[1.0]])).tolist()
        [False, True, False, True]
    """
    own, known = alike(rows.numpy(), others.numpy())
    new = np.zeros(len(own), dtype=bool)
    new[np.unique(own, return_index=True)[1]] = True
    return torch.from_numpy(new & ~np.isin(own, known))


def read_anchors(anchors: Mapping[Any, ArrayLike]) -> tuple[list[Any], NDArray[np.float64], list[str] | None]:
    """Return the labels of anchors, the anchors side by side, shape `(A, ...)`, and the names of their columns.

    Raises:
        ValueError: if they are no rows of numbers of one shape, or name their columns in several ways.

    Examples:
        >>> read_anchors({"cat": pd.Series([1.0, 2.0], index=["size", "weight"])})
        (['cat'], array([[1., 2.]]), ['size', 'weight'])
    """
    if not isinstance(anchors, Mapping):
        raise ValueError(f"anchors: expected a mapping from labels to inputs, got {type(anchors).__name__}")
    names = next((names for names in map(names_of_row, anchors.values()) if names is not None), None)
    rows = []
    for label, row in anchors.items():
        check_names(names, names_of_row(row), "as the first anchor")
        values = np.asarray(read_rows("anchors", row if np.ndim(row) > 1 else [row])[0], dtype=np.float64)
        rows.append(values if np.ndim(row) > 1 else values[0])
        if rows[-1].shape != rows[0].shape:
            raise ValueError(
                f"anchors: expected numbers of one shape for every label, got {rows[-1].shape} for {label!r} and "
                f"{rows[0].shape} before it"
            )
        if (np.abs(rows[-1]) >= HUGE).any():
            raise ValueError(
                f"anchors: expected numbers below {HUGE:.0e}, got {np.abs(rows[-1]).max():.3g} for {label!r}"
            )
    return read_keys("anchors", list(anchors)), np.stack(rows), names


def check_groups(groups: list[Any] | None, known: list[Any] | None, labelled: int) -> None:
    """Refuse groups whose names have another type than those with labels; warn of new ones that may be no new ones.

    Args:
        groups: group of each row that is asked about, or None.
        known: group of each labelled row, or None.
        labelled: number of labelled rows.

    Raises:
        ValueError: if groups are of another type, or there are some on one side alone.
    """
    if groups is not None and known is None and labelled:
        raise ValueError("groups: expected none, because fit was given none, got some")
    if groups is None and known is not None:
        raise ValueError("groups: expected the group of each row, because fit was given groups, got none")
    if not groups or not known:
        return
    kind, wanted = map(kind_of_keys, (groups, known))
    if kind != wanted:
        raise ValueError(
            f"groups: expected labels of the kind that fit was given, {wanted}s such as {known[0]!r}, got "
            f"the {kind} {groups[0]!r}"
        )
    new, old = dict.fromkeys(groups), dict.fromkeys(known)
    if new.keys() & old.keys():
        tell_of_near(new, list(old), "groups", "groups")
        return
    said = f"groups: none of the {len(new)} groups of X, such as {groups[0]!r}, is among the {len(old)} with"
    said += f" labelled rows, such as {known[0]!r}: all are predicted from the prior"
    tell(said)


def tell_of_zeros(y: NDArray[np.float64], groups: list[Any] | None) -> None:
    """Warn of groups whose labels are zeros alone, for a likelihood that may have these whatever the rate.

    Their weights are then those that zeros ask for, or those of any group, and one normal distribution is not both.

    Args:
        y: labels, shape `(S,)`.
        groups: group of each, or None for one group.
    """
    own = [None] * len(y) if groups is None else groups
    others = {group for group, label in zip(own, y.tolist(), strict=True) if label}
    if empty := [group for group in dict.fromkeys(own) if group not in others]:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        of = "" if groups is None else f" of group {empty[0]!r}{more}"
        told = f"y: labels{of} are zeros alone, which may be inflated: predicted means may be too small"
        tell(f"{told} (ebmeta.mixed_model integrates over both)")


def covariates_of(given: Any, keys: list[Any], model: PredictiveModel) -> torch.Tensor | None:
    """Return the covariates of each group, shape `(T, G)`, from one row or a mapping; None where the model has none.

    Raises:
        ValueError: if a group has none, or they do not fit the model.
    """
    wanted = model.num_covariates
    if given is None:
        if wanted:
            raise ValueError(f"group_x: expected {wanted} covariates of each group, got none")
        return None
    if isinstance(given, Mapping):
        known = dict(zip(read_keys("group_x", list(given)), given.values(), strict=True))
        missing = [k for k in keys if k not in known]
        if missing:
            raise ValueError(
                f"group_x: expected covariates of every group, got none of {missing[0]!r} (there are those of "
                f"{', '.join(map(repr, list(known)[:3]))}, ...)"
            )
        rows = [known[k] for k in keys]
    else:
        rows = [given] * len(keys)
    for row in rows:
        check_names(model.covariate_names, names_of_row(row), "when the model was trained", "covariate")
    values = read_rows("group_x", rows, finite=False)[0].astype(np.float64)
    if values.ndim != 2 or values.shape[1] != wanted or not np.isfinite(values).all():
        raise ValueError(f"group_x: expected {wanted} finite covariates per group, got shape {values.shape[1:]}")
    return torch.from_numpy(values)
