"""Columns of data frames with numbers or texts, which are read, or refused by name, row and value."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.tasks.columns import as_frame
from ebmeta.tasks.spellings import tell_of_twins

__all__ = ["NONE", "frame_of", "levels_of", "numbers_of", "refuse_missing", "refuse_written_numbers", "texts_of"]

NUMBERS = ("floating", "integer", "mixed-integer-float", "decimal", "boolean")
NONE = "in a CSV file NA, None, null and nan stand for none: give such a category another name"
MOST_LEVELS = 50  # a text of more is likelier a name than a feature
LONGEST = 60  # characters of a value in an error
MARKED = r"\s*[-+]?\d+(?:[,'\u2019 ]\d+)+(?:[.,]\d+)?\s*"  # 1,5 and 1,234.5 and 1'234


def frame_of(name: str, data: Any) -> pd.DataFrame:
    """Return a pandas frame of a frame of pandas, polars or pyarrow whose columns have names of their own.

    Whole numbers stay whole, also in a column with gaps.

    Args:
        name: how an error calls it.
        data: the frame.

    Raises:
        ValueError: if it is none, or two columns have one name.

    Examples:
        >>> frame_of("data", {"price": [1.0]})
        Traceback (most recent call last):
        ValueError: data: expected a data frame of pandas, polars or pyarrow, got dict
    """
    frame = as_frame(data, name)
    if frame is None:
        raise ValueError(f"{name}: expected a data frame of pandas, polars or pyarrow, got {type(data).__name__}")
    if not frame.columns.is_unique:
        raise ValueError(
            f"{name}: expected columns of distinct names, got {frame.columns[frame.columns.duplicated()][0]!r} twice"
        )
    return frame if frame is data else frame.assign(**_whole_with_gaps(data))


def _whole_with_gaps(data: Any) -> dict[str, Any]:
    """Return the columns of whole numbers of a frame of polars or pyarrow of which pandas would make floats."""
    native = nw.from_native(data)
    gaps = [name for name, kind in native.schema.items() if kind.is_integer() and native[name].null_count()]
    unsigned = {name: native[name].dtype.is_unsigned_integer() for name in gaps}
    return {name: pd.array(native[name].to_list(), dtype="UInt64" if unsigned[name] else "Int64") for name in gaps}


def refuse_missing(name: str, column: pd.Series[Any]) -> None:
    """Raise `ValueError` where a value is missing."""
    missing = column.isna().to_numpy()
    if missing.all() and len(missing):
        raise ValueError(f"column {name!r}: expected values, got none in any row (leave it out)")
    if missing.any():
        more = f" (and {missing.sum() - 1} more rows)" if missing.sum() > 1 else ""
        hint = f"; {NONE}" if column.dropna().map(lambda value: isinstance(value, str)).all() else ""
        raise ValueError(
            f"column {name!r}: expected a value in every row, got none in row {int(np.argmax(missing))}{more}; "
            f"fill the gaps or leave out the rows{hint}"
        )


def _kind(column: pd.Series[Any]) -> str:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "categorical"
    lists = len(column) and isinstance(column.iloc[0], list | np.ndarray)
    return "list" if lists else pd.api.types.infer_dtype(column)


def levels_of(name: str, column: pd.Series[Any]) -> list[Any] | None:
    """Return the levels of a column of texts, the one to drop first, or None for a column of numbers."""
    refuse_missing(name, column)
    kind = _kind(column)
    if kind in NUMBERS:
        return None
    if kind not in ("string", "categorical"):
        raise ValueError(f"column {name!r}: expected numbers or texts, got {kind} values{_odd_one(column)}")
    if kind == "string":
        refuse_written_numbers(name, column)
    used = set(column.tolist())
    levels = [c for c in column.cat.categories.tolist() if c in used] if kind == "categorical" else sorted(used)
    if not all(isinstance(v, (str, int, float)) for v in levels):
        raise ValueError(f"column {name!r}: expected categories that are texts or numbers, got {levels[0]!r}")
    if len(levels) > MOST_LEVELS:
        raise ValueError(
            f"column {name!r}: expected at most {MOST_LEVELS} distinct texts, got {len(levels)} (leave it out of the "
            "features, or make it numbers)"
        )
    tell_of_twins(levels, f"column {name!r}", "categories")
    return levels


def _odd_one(column: pd.Series[Any]) -> str:
    """Return in words the first value that no number can be read from; the first at all where there is none."""
    if not all(map(pd.api.types.is_hashable, column)):
        return ""
    odd = (
        pd.to_numeric(column, errors="coerce").isna().to_numpy() if column.dtype.kind not in "Mm" else np.array([True])
    )
    row = int(np.argmax(odd))
    value = repr(column.iloc[row])
    return f", such as {value if len(value) <= LONGEST else value[:LONGEST] + '...'} in row {row}"


def refuse_written_numbers(name: str, column: pd.Series[Any]) -> None:
    """Refuse texts that are numbers but for some, and numbers with decimal commas or marks between thousands.

    Args:
        name: of the column.
        column: texts; some may be missing.

    Raises:
        ValueError: if it holds such texts.
    """
    texts, known = column.astype(str), column.notna().to_numpy()
    numbers = pd.to_numeric(texts, errors="coerce").notna().to_numpy()
    if numbers.any() and not numbers[known].all():
        row, other = int(np.argmin(numbers | ~known)), int(np.argmax(numbers))
        raise ValueError(
            f"column {name!r}: expected numbers or texts, got both: {texts.iloc[row]!r} in row {row}, and "
            f"{texts.iloc[other]!r} in row {other}"
        )
    if known.any() and texts[known].str.fullmatch(MARKED).all():
        row = int(np.argmax(known))
        raise ValueError(
            f"column {name!r}: expected numbers with a decimal point and no other marks, got {texts.iloc[row]!r} in "
            f"row {row}"
        )


def numbers_of(name: str, column: pd.Series[Any]) -> NDArray[np.float64]:
    """Return a column of finite numbers as 64-bit floats, shape `(N,)`."""
    refuse_missing(name, column)
    if len(column) and _kind(column) not in NUMBERS:
        two = " (code an outcome of two kinds as 0 and 1)" if column.map(repr).nunique() == 2 else ""
        raise ValueError(f"column {name!r}: expected numbers, got {_kind(column)} values{_odd_one(column)}{two}")
    values: NDArray[np.float64] = column.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"column {name!r}: expected finite numbers, got {values[row]} in row {row}")
    return values


def texts_of(name: str, column: pd.Series[Any], levels: list[Any]) -> NDArray[Any]:
    """Return a column of texts, all of them among the levels, shape `(N,)`."""
    refuse_missing(name, column)
    values = np.empty(len(column), dtype=object)
    values[:] = column.tolist()
    known = set(levels)
    for row, value in enumerate(values):
        if not pd.api.types.is_hashable(value) or value not in known:
            raise ValueError(
                f"column {name!r}: expected one of the categories of the training rows, {levels}, got {value!r} in "
                f"row {row}"
            )
    return values
