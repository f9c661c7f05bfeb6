"""Rows, columns and keys from arrays, lists and frames, all read by one rule.

Frames are those of pandas, polars and pyarrow. Their columns have names, which samplers, models and estimators remember
and compare as scikit-learn does: rows with other names, or with the same ones in another order, are refused. Nothing
is guessed: what is masked or missing is refused by row and column and never read as a number, and keys are compared as
they are, so that the text "1" is not the number 1.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from torch import Tensor, bfloat16, strided

from ebmeta.foundation.checks import found as shown
from ebmeta.foundation.extras import need
from ebmeta.tasks.keys import WRITTEN_MISSING, kind_of_key, plain, refuse_inexact

__all__ = [
    "as_frame",
    "check_names",
    "read_column",
    "read_keys",
    "read_rows",
    "refuse_not_finite",
]

NUMERIC = "fiub"
MOST_NAMES = 5  # in a message


def as_frame(X: Any, name: str = "X") -> pd.DataFrame | None:
    """Return a pandas frame for a frame of pandas, polars or pyarrow, and None for anything else.

    Args:
        X: anything.
        name: how an error calls it.

    Raises:
        ValueError: if it is a lazy frame.

    Examples:
        >>> import pyarrow
        >>> as_frame(pyarrow.table({"price": [1.0, 2.0]})).columns.tolist(), as_frame(np.zeros((2, 1)))
        (['price'], None)
    """
    if isinstance(X, pd.DataFrame):
        return X
    if isinstance(X, np.ndarray | list | tuple | Tensor):
        return None
    native = nw.from_native(X, pass_through=True)
    if isinstance(native, nw.LazyFrame):
        kind = type(X).__module__.split(".")[0]
        raise ValueError(f"{name}: expected a frame in memory, got a lazy {kind} frame: collect it")
    frame = isinstance(native, nw.DataFrame) and need("pyarrow")  # with which polars makes one of pandas
    return native.to_pandas() if frame else None


def read_rows(name: str, X: Any, *, finite: bool = True) -> tuple[np.ndarray, list[str] | None]:
    """Return rows of numbers, and the names of their columns where they have some.

    Args:
        name: how an error calls them.
        X: a frame, an array (a memory map stays one), or nested lists, shape `(N, ...)`.
        finite: whether all numbers have to be finite; those of a frame have to be.

    Returns:
        The array, and names that are texts, or None.

    Raises:
        ValueError: if they are not real numbers of one length, or some are masked, missing or infinite.

    Examples:
        >>> read_rows("X", pd.DataFrame({"price": [1.0, 2.0], "open": [True, False]}))
        (array([[1., 1.],
               [2., 0.]]), ['price', 'open'])
    """
    frame = as_frame(X, name)
    if frame is not None:
        return _of_frame(name, frame), _names(name, frame)
    array = _array(name, X)
    if array.ndim < 2:
        hint = "; reshape(-1, 1) makes one column, reshape(1, -1) one row (Reshape your data)" if array.ndim else ""
        raise ValueError(
            f"{name}: expected a numeric array of shape (rows, features...), got shape {array.shape} of "
            f"{array.dtype}{hint}"
        )
    array = _numeric(name, array)
    if finite:
        refuse_not_finite(name, array)
    return array, None


def read_column(name: str, values: Any, length: int | None = None, hint: str = "") -> np.ndarray:
    """Return one column of finite numbers, shape `(N,)`.

    Args:
        name: how an error calls it.
        values: a column of a frame, an array, or a list.
        length: how many there must be, where that is known.
        hint: what an error adds where they are no numbers.

    Raises:
        ValueError: if they are not that many finite real numbers in one column.
    """
    array = _array(name, _listed(values))
    if array.ndim != 1 or (length is not None and len(array) != length):
        wanted = "one column of" if length is None else str(length)
        raise ValueError(f"{name}: expected {wanted} numbers, got shape {array.shape} of {array.dtype}{hint}")
    array = _numeric(name, array, hint)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity at row {int(np.argmin(np.isfinite(array)))}"
        )
    return array if array.flags.writeable else array.copy()  # torch takes no other


def read_keys(name: str, values: Any, length: int | None = None, hint: str = "") -> list[Any]:
    """Return labels of rows, as Python's own objects: texts, numbers, times, or anything hashable of one kind.

    Args:
        name: how an error calls them.
        values: a column of a frame, an array, or a list.
        length: how many there must be, where that is known.
        hint: what an error adds where one is missing.

    Raises:
        ValueError: if one is masked, missing or a huge float, they are of several kinds, or not one for each row.

    Examples:
        >>> read_keys("groups", np.array([3, 1]))
        [3, 1]
        >>> read_keys("groups", ["a", 1])
        Traceback (most recent call last):
        ValueError: groups: expected labels of one kind, got the text 'a' in row 0 and the number 1 in row 1
    """
    listed = _listed(values) if isinstance(values, Iterable) else np.asarray(values)
    if isinstance(values, str | bytes | Mapping | set) or (isinstance(listed, np.ndarray | Tensor) and not listed.ndim):
        raise ValueError(f"{name}: expected one label for each row, got {shown(values)}")
    values = listed
    _refuse_masked(name, values)
    shape = np.shape(values) if isinstance(values, np.ndarray | pd.DataFrame | Tensor) else (len(values),)
    if len(shape) > 1 or (length is not None and shape != (length,)):
        wanted = "one column of labels" if length is None else f"one label for each of {length} rows"
        raise ValueError(f"{name}: expected {wanted}, got {'a table of ' * (len(shape) == 2)}shape {tuple(shape)}")
    if isinstance(values, np.ndarray) and values.dtype.kind in "biu":
        return list(values.tolist())
    refuse_inexact(name, values)
    out = [plain(v) for v in values]
    if (row := next((row for row, v in enumerate(out) if not pd.api.types.is_hashable(v)), None)) is not None:
        raise ValueError(
            f"{name}: expected hashable labels, got the {kind_of_key(out[row])} {out[row]!r:.40} in row {row}"
        )
    missing, wanted = pd.isna(pd.Series(out, dtype=object)).to_numpy(), f"{name}: expected a label in every row, got"
    if missing.any():
        more = f" (and {missing.sum() - 1} more rows)" if missing.sum() > 1 else ""
        raise ValueError(f"{wanted} none in row {int(np.argmax(missing))}{more}{hint}")
    if blank := [row for row, v in enumerate(out) if isinstance(v, str) and (not v.strip() or v in WRITTEN_MISSING)]:
        text, more = out[blank[0]], f" (and {len(blank) - 1} more rows)" if len(blank) > 1 else ""
        why = ", which is what becomes of a missing value among texts" if text.strip() else ""
        raise ValueError(f"{wanted} the text {text!r:.40} in row {blank[0]}{more}{why}{hint}")
    kinds = {kind_of_key(v): row for row, v in reversed(list(enumerate(out)))}
    if len(kinds) > 1:
        first, second = sorted(kinds.items(), key=lambda item: item[1])[:2]
        found = " and ".join(f"the {kind} {out[row]!r} in row {row}" for kind, row in (first, second))
        raise ValueError(f"{name}: expected labels of one kind, got {found}")
    return out


def check_names(known: Sequence[str] | None, names: Sequence[str] | None, where: str, what: str = "feature") -> None:
    """Refuse rows with other names of columns than those known, or in another order; rows without names pass.

    Args:
        known: names that a model or an estimator remembers, or None.
        names: names of the columns at hand, or None.
        where: what was trained or fitted, in words.
        what: what the columns are.

    Raises:
        ValueError: if they differ, with scikit-learn's words for it.
    """
    if known is None or names is None or list(known) == list(names):
        return
    new, gone = [n for n in names if n not in known], [n for n in known if n not in names]
    parts = [f"unseen then: {_some(new)}"] if new else []
    parts += [f"seen then, yet now missing: {_some(gone)}"] if gone else []
    found = "; ".join(parts) or f"the same names in another order: {_some(names)} for {_some(known)}"
    raise ValueError(f"The {what} names should match those that were passed {where}; got {found}")


def refuse_not_finite(
    name: str, array: np.ndarray, names: Sequence[str] | None = None, numbers: np.ndarray | None = None
) -> None:
    """Raise `ValueError` where a number is NaN or infinite, with its row and column.

    Args:
        name: how the error calls the rows.
        array: rows, shape `(N, ...)`.
        names: names of the columns, where there are some.
        numbers: number of each row, shape `(N,)`; 0, 1, ... by default.
    """
    bad = ~np.isfinite(array.reshape(len(array), -1)) if array.size else np.zeros((0, 0), dtype=bool)
    if not bad.any():
        return
    row, column = (int(v) for v in np.argwhere(bad)[0])
    at = row if numbers is None else int(numbers[row])
    which = f", column {names[column]!r}" if names is not None else f", column {column}" if array.ndim == 2 else ""
    raise ValueError(f"{name}: expected finite numbers, got NaN or infinity at row {at}{which}")


def _names(name: str, frame: pd.DataFrame) -> list[str] | None:
    columns: list[Any] = frame.columns.tolist()
    texts = [isinstance(c, str) for c in columns]
    if any(texts) and not all(texts):
        raise ValueError(f"{name}: expected names of columns that are all texts, got {columns[texts.index(False)]!r}")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"{name}: expected columns of distinct names, got {twice!r} twice")
    if not columns or columns == list(range(len(columns))):
        return None
    if set(columns) == set(range(len(columns))):
        raise ValueError(f"{name}: expected columns numbered 0, 1, ... in this order, got {columns[0]!r} first")
    return [str(c) for c in columns]


def _of_frame(name: str, frame: pd.DataFrame) -> np.ndarray:
    if not len(frame.columns):
        return np.zeros(frame.shape)
    if all(isinstance(kind, np.dtype) and kind.kind in NUMERIC for kind in frame.dtypes):
        out = frame.to_numpy()
        out = out.astype(np.float64) if out.dtype.kind not in NUMERIC else out
    else:
        parts = [_numbers(name, c, frame.iloc[:, i]) for i, c in enumerate(frame.columns)]
        out = np.stack(parts, 1) if parts else np.zeros(frame.shape)
    refuse_not_finite(name, out, [str(c) for c in frame.columns])
    return out


def _numbers(name: str, label: Any, series: pd.Series[Any]) -> np.ndarray:
    """Return one column of a frame as 64-bit floats."""
    missing = series.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"{name}: expected a number in every row, got none (NaN) in row {int(np.argmax(missing))}, column {label!r}"
        )
    for row, value in enumerate(series if not pd.api.types.is_numeric_dtype(series.dtype) else ()):
        if not isinstance(value, numbers.Number) or isinstance(value, complex):
            raise ValueError(f"{name}: expected numbers, got {_shown(value)} in row {row}, column {label!r}")
    if series.dtype.kind == "c":
        raise ValueError(f"{name}: expected real numbers, got {series.dtype} in column {label!r}")
    out: np.ndarray = series.to_numpy(dtype=np.float64)
    return out


def _listed(values: Any) -> Any:
    """Return the values of a series of polars or pyarrow as a list, and others as they are (an iterator as a list)."""
    if isinstance(values, np.ndarray | list | tuple | Tensor | pd.Series | pd.DataFrame):
        return values.detach().cpu() if isinstance(values, Tensor) else values
    if hasattr(values, "to_pylist"):  # an array of pyarrow
        return values.to_pylist()
    native = nw.from_native(values, pass_through=True, allow_series=True)
    if isinstance(native, nw.Series):
        return native.to_list()
    return list(values) if isinstance(values, Iterable) and not hasattr(values, "__array__") else values


def _array(name: str, values: Any) -> np.ndarray:
    _refuse_masked(name, values)
    if type(values).__module__.startswith("scipy.sparse") or getattr(values, "layout", strided) != strided:
        hint = "call its toarray(), or reduce it (sklearn.decomposition.TruncatedSVD); of torch, its to_dense()"
        raise ValueError(f"{name}: expected a dense array, got a sparse {type(values).__name__}; {hint}")
    if isinstance(values, np.ndarray) and not isinstance(values, np.ma.MaskedArray):
        return values  # a memory map stays one
    values = _free(values)
    try:
        out = np.asarray(values)
        return out if out.dtype.kind not in "US" else np.array(values, dtype=object)  # a text made texts of all
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(
            f"{name}: expected an array of numbers, got {type(values).__name__} of parts of unequal shape"
        ) from None


def _free(values: Any) -> Any:
    """Return tensors, also those in a list, as ones that NumPy takes: without a gradient, and not of 16 bits."""
    if isinstance(values, Tensor):
        return (values.float() if values.dtype == bfloat16 else values).detach().cpu()
    tensors = isinstance(values, list | tuple) and any(isinstance(part, Tensor) for part in values)
    return [_free(part) for part in values] if tensors else values


def _refuse_masked(name: str, values: Any) -> None:
    if isinstance(values, list | tuple):
        for row, part in enumerate(values):
            if isinstance(part, np.ma.MaskedArray) and np.ma.getmaskarray(part).any():
                raise ValueError(f"{name}: expected a value in every place, got a masked one in row {row}")
    if isinstance(values, np.ma.MaskedArray) and (mask := np.ma.getmaskarray(values)).any():
        index = [int(v) for v in np.argwhere(mask)[0]]
        where = f"row {index[0]}" + (f", column {index[1]}" if len(index) == 2 else "")
        raise ValueError(f"{name}: expected a value in every place, got a masked one in {where}")


def _numeric(name: str, array: np.ndarray, hint: str = "") -> np.ndarray:
    """Return an array of numbers as it is, one of objects that are all numbers as 64-bit floats."""
    if array.dtype.kind in NUMERIC:
        return array
    if array.dtype.kind == "c":
        raise ValueError(f"{name}: expected real numbers, got {array.dtype} (Complex data not supported)")
    for index in np.ndindex(*array.shape):
        value = plain(array[index])
        if not isinstance(value, numbers.Number) or isinstance(value, complex):
            where = f"row {index[0]}" + (f", column {index[1]}" if len(index) == 2 else "")
            said = f"{name}: expected numbers, got {_shown(value)} in {where}{hint}"
            if _absent(value) or kind_of_key(value) in ("text", "time", "number"):
                raise ValueError(said)
            raise TypeError(f"{said} (an argument must be a string or a number)")  # scikit-learn's convention
    try:
        return array.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name}: expected numbers of 64 bits, got a larger one") from None


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT


def _shown(value: Any) -> str:
    kind = kind_of_key(plain(value))
    text = repr(value) if isinstance(value, str) else str(value)
    text = text if len(text) <= 40 else f"{text[:37]}..."
    return "no value" if _absent(value) else f"the {kind} {text}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
