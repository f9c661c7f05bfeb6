"""Names of classes, groups and rows: of which kind they are, and how far numbers among them are told apart."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

__all__ = ["WRITTEN_MISSING", "kind_of_key", "kind_of_keys", "plain", "refuse_inexact", "values_of"]

WRITTEN_MISSING = ("nan", "NaN", "NaT", "<NA>")  # what becomes of missing values among texts
MOST = 2.0**53  # 64-bit floats from here on are not all whole numbers
LONGEST = 1e21  # larger floats are shown with an exponent


def plain(value: Any) -> Any:
    """Return a label as Python's own object: a number of NumPy or torch as a number, any date as a timestamp."""
    if isinstance(value, np.datetime64 | datetime.date):
        return pd.Timestamp(value)
    if isinstance(value, np.timedelta64 | datetime.timedelta):
        return pd.Timedelta(value)
    return value.item() if isinstance(value, np.generic | torch.Tensor) and np.ndim(value) == 0 else value


def kind_of_key(value: Any) -> str:
    """Return the kind of a label: "text", "number", "truth value", "time" or the name of its type."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):  # equal to 0 or 1 for Python, but not what a user wrote
        return "truth value"
    if isinstance(value, numbers.Number):
        return "number"
    return "time" if isinstance(value, datetime.date | datetime.timedelta) else type(value).__name__


def kind_of_keys(values: Sequence[Any]) -> str | None:
    """Return the kind of labels, "text", "number", "time" or the name of a type; None where there are none."""
    return kind_of_key(values[0]) if len(values) else None


def refuse_inexact(name: str, values: Iterable[Any]) -> None:
    r"""Refuse floats so large that each stands for several whole numbers: $2^{53}$ of 64 bits, $2^{24}$ of 32.

    Two ids would be one, without a word.

    Args:
        name: how the error calls them.
        values: names, as they were given: an array, a tensor, a series, or a list.

    Raises:
        ValueError: if there is such a number.

    Examples:
        >>> refuse_inexact("groups", [10**17, "a", 2.5])
        >>> refuse_inexact("groups", np.array([3, 2**24 + 1], dtype=np.float32))
        Traceback (most recent call last):
        ValueError: groups: expected names that are told apart, got the float 16777216, which is its neighbours...
    """
    most = _most(getattr(values, "dtype", None))
    if most is None:
        return
    listed: Iterable[Any] = values.tolist() if isinstance(values, np.ndarray | torch.Tensor) else values
    large = next((float(v) for v in listed if isinstance(v, float | np.floating) and abs(float(v)) >= most), None)
    if large is not None:
        shown = f"{large:.0f}" if abs(large) < LONGEST else repr(large)
        raise ValueError(
            f"{name}: expected names that are told apart, got the float {shown}, which is its neighbours too "
            "(keep such names as whole numbers or texts)"
        )


def _most(dtype: Any) -> float | None:
    """Return the first number of a type that is not exact, None where there is none; of lists that of 64 bits."""
    if isinstance(dtype, torch.dtype):
        return 2 / torch.finfo(dtype).eps if dtype.is_floating_point else None
    kind = getattr(dtype, "kind", "O")
    if kind == "f":
        return 2 / float(np.finfo(np.dtype(f"f{dtype.itemsize}")).eps)
    return MOST if kind == "O" else None


def values_of(column: pd.Series[Any]) -> np.ndarray:
    """Return the values of a column, shape `(N,)`; whole numbers stay whole beside missing ones.

    Examples:
        >>> values_of(pd.Series([10**17 + 1, None], dtype="Int64"))[0]
        100000000000000001
    """
    gaps = pd.api.types.is_integer_dtype(column.dtype) and column.isna().any()
    values: np.ndarray = column.to_numpy(dtype=object) if gaps else column.to_numpy()
    return values
