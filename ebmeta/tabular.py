"""Tables from files: npz, CSV and parquet, as arrays of inputs, labels and groups."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ebmeta.npz import read_npz
from ebmeta.writing import marked, write

__all__ = ["Table", "read_frame", "read_table", "write_table"]

READS = (".npz", ".csv", ".parquet")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one file.

    Args:
        X: inputs, shape `(N, ...)`.
        y: labels, shape `(N,)`, or None where the file has none.
        groups: group of each row, shape `(N,)`, or None.
        features: names of the columns of `X`, or None where the file names none.
    """

    X: np.ndarray
    y: np.ndarray | None
    groups: np.ndarray | None
    features: list[str] | None


def read_frame(path: Path) -> pd.DataFrame:
    """Read all columns of a CSV or parquet file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if its type is another, or it is damaged.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: expected a file of named columns, .csv or .parquet, got {path.suffix or 'none'}")
    check_readable(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        _check_text(path)
        return pd.read_csv(path)
    except OSError as error:
        if error.errno is not None:  # of the system; the parquet reader calls damage an OSError too
            raise
        raise ValueError(f"{path}: expected a complete {path.suffix[1:]} file, got: {error!s:.200}") from None
    except Exception as error:  # readers fail on damaged files in many ways
        raise ValueError(f"{path}: expected a complete {path.suffix[1:]} file, got: {error!s:.200}") from None


def check_readable(path: Path) -> None:
    """Raise the fitting `OSError` where there is no file that can be read more than once."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file, got a folder")
    if path.exists() and not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, got a pipe or device (write its content to a file first)")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none")


def _check_text(path: Path) -> None:
    """Refuse what cannot be UTF-8 text, of which the CSV reader would make one strange column."""
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    if b"\0" in start:
        raise ValueError("bytes that are no text in UTF-8 (save the table as UTF-8)")


def read_table(path: Path, label: str = "y", groups: str | None = None, labelled: bool = True) -> Table:
    """Read inputs, labels and groups from a file.

    An npz file holds arrays `X`, `y` and, for groups, one named by `groups`; or `features` of shape
    `(classes, rows, D)`, one row of classes each. In CSV and parquet files `label` and `groups` name
    columns, and every other column is a numeric feature.

    Args:
        path: the file.
        label: name of the labels.
        groups: name of the groups, or None.
        labelled: whether labels and groups must be there; otherwise they are read where they are.

    Returns:
        The table.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if its type is unknown, it is damaged, or a column is missing, empty or not numeric.
    """
    path = Path(path)
    if path.suffix not in READS:
        raise ValueError(f"{path}: expected a file of type {', '.join(READS)}, got {path.suffix or 'none'}")
    check_readable(path)
    if label == groups:
        raise ValueError(f"{path}: expected labels and groups in two columns, got {label!r} for both")
    wanted = [label] if labelled else []
    wanted += [groups] if groups is not None and labelled else []
    if path.suffix == ".npz":
        return _from_arrays(path, read_npz(path), label, groups, wanted)
    frame = read_frame(path)
    if not len(frame):
        raise ValueError(f"{path}: expected rows, got none")
    missing = [c for c in wanted if c not in frame]
    if missing:
        raise ValueError(
            f"{path}: expected columns {wanted}, got {_some(frame.columns)}; --label and --groups name them"
        )
    for column in wanted:
        if frame[column].isna().any():
            raise ValueError(
                f"{path}: expected a value of {column!r} in every row, got none in row {_first_na(frame[column])}"
            )
    inputs = frame.drop(columns=[c for c in (label, groups) if c in frame])
    if inputs.shape[1] == 0:
        raise ValueError(f"{path}: expected feature columns beside {wanted}, got none")
    for column in inputs.columns:
        if not pd.api.types.is_numeric_dtype(inputs[column]):
            raise ValueError(
                f"{path}: expected numbers in feature column {column!r}, got {inputs[column].dtype} "
                "(name the label and group columns, drop other texts)"
            )
        if inputs[column].isna().any():
            raise ValueError(
                f"{path}: expected a number in column {column!r}, row {_first_na(inputs[column])}, got none"
            )
    y = frame[label].to_numpy() if label in frame else None
    by = frame[groups].to_numpy() if groups in frame else None
    return Table(inputs.to_numpy(dtype=np.float32), y, by, [str(c) for c in inputs])


def _from_arrays(path: Path, arrays: dict[str, np.ndarray], label: str, groups: str | None, wanted: list[str]) -> Table:
    if "X" not in arrays and "features" in arrays and groups is None:
        stacked = arrays["features"]
        if stacked.ndim < 3:
            raise ValueError(f"{path}: expected features of shape (classes, rows, D), got {stacked.shape}")
        classes = arrays.get("classes", np.arange(len(stacked)))
        return Table(stacked.reshape(-1, *stacked.shape[2:]), np.repeat(classes, stacked.shape[1]), None, None)
    if not arrays.keys() >= {"X", *wanted}:
        raise ValueError(f"{path}: expected arrays {['X', *wanted]}, got {sorted(arrays)}")
    if not arrays["X"].shape[:1] > (0,):
        raise ValueError(f"{path}: expected rows in X, got an array of shape {arrays['X'].shape}")
    return Table(arrays["X"], arrays.get(label), None if groups is None else arrays.get(groups), None)


def _first_na(column: Any) -> int:
    return int(np.argmax(column.isna().to_numpy()))


def _some(columns: Iterable[Any]) -> str:
    names = [str(c) for c in columns]
    return str(names[:8])[:-1] + (", ...]" if len(names) > 8 else "]")


def write_table(path: Path, columns: dict[str, np.ndarray], overwrite: bool = False) -> None:
    """Write columns of equal length as CSV, parquet or npz, by the file's ending.

    Args:
        path: the file.
        columns: values by name.
        overwrite: replace also a file that ebmeta did not write.

    Raises:
        OSError: if the file cannot be written, or may not be replaced.
        ValueError: if the ending is unknown.
    """
    path = Path(path)
    if path.suffix not in READS:
        raise ValueError(f"{path}: expected a file of type {', '.join(READS)}, got {path.suffix or 'none'}")
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        np.savez(buffer, **columns)  # type: ignore[arg-type]
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = marked("table").encode()
    elif path.suffix == ".csv":
        pd.DataFrame(columns).to_csv(buffer, index=False)
    else:
        frame = pd.DataFrame(columns)
        frame.attrs["ebmeta"] = marked("table")
        frame.to_parquet(buffer, index=False)
    write(path, buffer.getvalue(), "table", overwrite)
