"""Frames from CSV and parquet files as they are written, without shifting, renaming or guessing.

Columns that hold ids (labels of classes and groups) are read as texts, so that `031` stays `031`. Columns that merely
number the rows are known as such (`row_ids`) and become no features.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ebmeta.foundation.extras import MissingPackageError, need
from ebmeta.tasks.keys import refuse_inexact

__all__ = ["FRAMES", "as_ids", "check_readable", "note_on_ids", "notes_on_words", "read_frame", "row_ids", "written"]

ROW_IDS = {"", "unnamed: 0", "rownames", "row_names", "row.names", "index", "id", "ids"}
WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d)[ T]00:00:00(?:\.0+)?")  # of a date, as pandas and NumPy write it
#: How files that are no text begin, whatever their names end in.
BEGINNINGS = {b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip file or an Excel sheet", b"PAR1": "a parquet file"}


def read_frame(path: Path, texts: Collection[str | None] = (), raw: Collection[str | None] = ()) -> pd.DataFrame:
    """Read all columns of a CSV or parquet file.

    Args:
        path: the file.
        texts: columns that hold ids, which stay as a CSV file has them, and whole numbers in a parquet file.
        raw: those of them whose missing values do so too: an empty text, and `NA`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if its type is another, it is damaged, or a line does not fit the header.
    """
    path = Path(path)
    if path.suffix not in FRAMES:
        known = " or ".join(FRAMES)
        raise ValueError(f"{path}: expected a file of named columns, {known}, got {path.suffix or 'none'}")
    check_readable(path)
    try:
        frame = FRAMES[path.suffix](path, texts, raw)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected a complete csv file, got: {_bytes(path)}") from None
    except OSError as error:
        if error.errno is not None:  # of the system; the parquet reader calls damage an OSError too
            raise
        raise ValueError(f"{path}: expected a complete {path.suffix[1:]} file, got: {error!s:.200}") from None
    except MissingPackageError:
        raise
    except Exception as error:  # readers fail on damaged files in many ways
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: expected a complete {path.suffix[1:]} file, got: {error!s:.200}") from None
    if not frame.columns.is_unique:
        raise ValueError(
            f"{path}: expected columns of distinct names, got {frame.columns[frame.columns.duplicated()][0]!r} twice"
        )
    return frame


def _bytes(path: Path) -> str:
    """Return what a file is that is no text in UTF-8."""
    with open(path, "rb") as file:
        first = file.read(4)
    known = next((kind for start, kind in BEGINNINGS.items() if first.startswith(start)), None)
    return f"{known} under this name" if known else "bytes that are no text in UTF-8 (save the table as UTF-8)"


def check_readable(path: Path) -> None:
    """Raise the fitting `OSError` where there is no file that can be read more than once."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file, got a folder")
    if path.exists() and not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, got a pipe or device (write its content to a file first)")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none")


def _csv(path: Path, texts: Collection[str | None], raw: Collection[str | None]) -> pd.DataFrame:
    header = _check_lines(path)
    untouched = [name for name in header if name in raw]
    frame = pd.read_csv(
        path,
        header=0,
        names=header,
        index_col=False,
        dtype={name: str for name in header if name in texts and name not in untouched},
        converters=dict.fromkeys(untouched, ":{}".format),  # of a text by itself pandas makes a missing value
        encoding="utf-8-sig",
        low_memory=False,
    )
    kept = {name: frame[name].str[1:] for name in untouched}
    for name in header:
        if _telling(name) and pd.api.types.is_integer_dtype(frame[name].dtype):
            own = pd.read_csv(path, header=0, names=header, index_col=False, usecols=[name], dtype=str)[name]
            if (own != frame[name].astype(str)).any():  # 031, which is not 31
                kept[name] = own
    return frame.assign(**kept)


def _check_lines(path: Path) -> list[str]:
    """Return the header of a CSV file; refuse lines of more or fewer values than it has names."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        header = next((line for line in lines if line), None)
        if header is None:
            raise ValueError(f"{path}: expected a complete csv file, got one without a line of names")
        if len(header) == 1 and (mark := next((m for m in ";\t|" if m in header[0]), None)):
            raise ValueError(
                f"{path}: expected columns separated by commas, and decimal points, got a header with {mark!r}: "
                f"{header[0]!r:.60}"
            )
        if twice := next((name for name in header if name and header.count(name) > 1), None):
            raise ValueError(f"{path}: expected columns of distinct names, got {twice!r} twice")
        if "" in header[1:]:
            position = header.index("", 1) + 1
            raise ValueError(
                f"{path}: expected a name for every column, got none for column {position} of {len(header)}"
                + " (a comma at the end of the line?)" * (position == len(header))
            )
        for line in lines:
            if line and len(line) != len(header):
                hint = " (a comma at the end of the line?)" if len(line) > len(header) and not line[-1] else ""
                hint = hint or " (a comma within a number or a text?)" * (len(line) > len(header))
                raise ValueError(
                    f"{path}: expected a complete csv file, {len(header)} values in every line as in its header, got "
                    f"{len(line)} in line {lines.line_num}{hint}"
                )
    return header


def _parquet(path: Path, texts: Collection[str | None], raw: Collection[str | None]) -> pd.DataFrame:
    need("pyarrow")
    frame = pd.read_parquet(path)
    for name in [c for c in frame.columns if c in texts or c in raw]:
        if frame[name].dtype.kind == "f" and frame[name].isna().any():  # perhaps whole numbers, with gaps
            own = pd.read_parquet(path, columns=[name], dtype_backend="numpy_nullable")[name]
            frame[name] = own.array if pd.api.types.is_integer_dtype(own.dtype) else frame[name]
    if isinstance(frame.index, pd.RangeIndex):
        return frame
    # What was the index of a frame is written as columns, and read as such by everyone but pandas.
    return frame.reset_index(names=["" if name is None else str(name) for name in frame.index.names])


#: Readers of frames by the ending of their files.
FRAMES: dict[str, Callable[..., pd.DataFrame]] = {".csv": _csv, ".parquet": _parquet}


def row_ids(frame: pd.DataFrame, taken: Iterable[str | None] = ()) -> list[str]:
    """Return the columns that number or name the rows: of a telling name (or none), each value once.

    Args:
        frame: the rows.
        taken: columns that have another role.

    Raises:
        ValueError: if a column without a name does something else.

    Examples:
        >>> row_ids(pd.DataFrame({"Unnamed: 0": [0, 1], "id": ["a", "a"], "x": [1, 2]}))
        ['Unnamed: 0']
    """
    out, other = [], set(taken)
    for name in frame.columns:
        if name in other or not _telling(name):
            continue
        if _names(frame[name]) and frame[name].is_unique:
            out.append(name)
        elif name == "" and len(frame):
            raise ValueError("expected a name for every column, got none for one whose values do not number the rows")
    return out


def note_on_ids(frame: pd.DataFrame, features: Iterable[str]) -> str:
    """Return what to say of a feature that has the name of row numbers, and values twice; nothing elsewhere.

    Examples:
        >>> note_on_ids(pd.DataFrame({"id": [7, 7], "x": [1, 2]}), ["id", "x"]).split(", ")[:2]
        ["column 'id' names no rows", 'since it has 7 twice']
    """
    for name in features:
        if _telling(name) and _names(frame[name]) and (twice := frame[name].duplicated()).any():
            value = frame[name][twice].iloc[0]
            hint = "leave it out (--exclude), or take it as the name of rows (--id)"
            return f"column {name!r} names no rows, since it has {value} twice, and counts as a feature; {hint}"
    return ""


def notes_on_words(path: Path, frame: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Return what to say of texts of a CSV file that stand for none, such as `NA`, which may be a name here.

    Args:
        path: the file.
        frame: its rows.
        names: columns, of which those of texts are looked at. Blanks, and words in columns of numbers, are usual.
    """
    told = []
    for name in names if path.suffix == ".csv" else ():
        gone = frame[name].isna().to_numpy()
        if not gone.any() or pd.api.types.infer_dtype(frame[name], skipna=True) != "string":
            continue
        words = read_frame(path, raw=(name,))[name][gone]
        words = words[words.str.strip() != ""]
        if len(words):
            rows = "1 row" if len(words) == 1 else f"{len(words):,} rows"
            told.append(
                f"{path}: column {name!r}: {words.iloc[0]!r} counts as no value, and {rows} as incomplete; where it is "
                "a name, write another"
            )
    return told


def _names(column: pd.Series[Any]) -> bool:
    whole = pd.api.types.is_integer_dtype(column.dtype) or pd.api.types.infer_dtype(column) == "string"
    return whole and not column.isna().any()


def _telling(name: Any) -> bool:
    return str(name).casefold() in ROW_IDS


def as_ids(values: Iterable[Any]) -> list[Any]:
    """Return ids as the texts that files are compared by: 31 and 31.0 are `31`, and `031` is another; None where none.

    A time at midnight is its date, which is what pandas writes to a CSV file.

    Raises:
        ValueError: if one is a float that stands for several whole numbers.

    Examples:
        >>> as_ids([31, 31.0, "31.0", "031", np.nan])
        ['31', '31', '31', '031', None]
        >>> as_ids([pd.Timestamp("2026-01-31"), "2026-01-31", "2026-01-31 08:00:00"])
        ['2026-01-31', '2026-01-31', '2026-01-31 08:00:00']
    """
    refuse_inexact("groups", values)
    return [None if pd.isna(v) else _as_id(v) for v in values]


def _as_id(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    plain = WHOLE.fullmatch(text) or MIDNIGHT.fullmatch(text)
    return plain[1] if plain else text


def written(values: np.ndarray) -> np.ndarray:
    """Return a column for a file of arrays, which knows no objects: texts as texts."""
    return values.astype(str) if values.dtype.kind == "O" else values
