"""Columns of one call that name their rows, which have to name them in one order."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ebmeta.tasks.keys import plain

__all__ = ["check_order"]


def check_order(X: Any, **columns: Any) -> None:
    """Refuse a column of pandas whose index has the rows of `X` in another order, since rows are taken as they stand.

    Indices of other names say nothing: one of both was numbered anew.

    Args:
        X: rows of any kind.
        **columns: labels, groups or sizes of these rows, of any kind, by name; None where there are none.

    Raises:
        ValueError: if an index is a permutation of that of `X`, and not the same.

    Examples:
        >>> X = pd.DataFrame({"price": [1.0, 2.0]}, index=["a", "b"])
        >>> check_order(X, y=pd.Series([0, 1], index=["a", "b"]))
        >>> check_order(X, y=pd.Series([0, 1], index=["b", "a"]))
        Traceback (most recent call last):
        ValueError: y: expected the rows of X in their order, got 'b' in row 0, where X has 'a' (y.loc[X.index] has it)
    """
    if not isinstance(X, pd.DataFrame | pd.Series):
        return
    for name, column in columns.items():
        index = column.index if isinstance(column, pd.Series | pd.DataFrame) else X.index
        if len(index) == len(X) and not index.equals(X.index) and index.is_unique and X.index.is_unique:
            if not X.index.isin(index).all():
                continue
            row = next(i for i, (a, b) in enumerate(zip(index, X.index, strict=True)) if a != b)
            raise ValueError(
                f"{name}: expected the rows of X in their order, got {plain(index[row])!r} in row {row}, where X has "
                f"{plain(X.index[row])!r} ({name}.loc[X.index] has it)"
            )
