"""Tables from npz, CSV and parquet files, as arrays of inputs, labels and groups with the roles of their columns."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ebmeta.app.npz import read_npz
from ebmeta.foundation.extras import need
from ebmeta.foundation.telling import tell
from ebmeta.foundation.writing import marked, write
from ebmeta.tasks.frame_columns import NONE, numbers_of
from ebmeta.tasks.frame_files import FRAMES, check_readable, note_on_ids, read_frame, row_ids, written
from ebmeta.tasks.keys import values_of

__all__ = ["Roles", "Table", "read_frame", "read_table", "roles_of", "write_table"]

READS = (".npz", *FRAMES)
MOST_NAMES = 8  # in a line
#: What flags do that tell the roles of columns.
FLAGS = {
    "--label": "names the labels",
    "--groups": "names the groups",
    "--id": "names the rows",
    "--exclude": "leaves columns out",
}


@dataclass(frozen=True)
class Roles:
    """The role of each column of a file; as text, one line.

    Args:
        features: columns of features.
        label: column of labels.
        groups: column of groups, or None.
        group_features: columns of covariates of groups.
        size: column of sizes, or None.
        ids: columns that number or name the rows, which are no features.
        ignored: columns that are not used.

    Examples:
        >>> print(Roles(["price", "days"], "sold", "shop", ids=["id"], ignored=["note"]))
        label sold; groups shop; features price, days; row ids id; ignored note
    """

    features: Sequence[str]
    label: str | None = None
    groups: str | None = None
    group_features: Sequence[str] = ()
    size: str | None = None
    ids: Sequence[str] = ()
    ignored: Sequence[str] = ()

    def __str__(self) -> str:
        parts = {
            "label": [] if self.label is None else [self.label],
            "groups": [] if self.groups is None else [self.groups],
            "features": self.features or ["none"],
            "group features": self.group_features,
            "size": [] if self.size is None else [self.size],
            "row ids": self.ids,
            "ignored": self.ignored,
        }
        return "; ".join(f"{role} {_named(names)}" for role, names in parts.items() if names)


def _named(names: Sequence[str]) -> str:
    texts = [str(name) or "(without a name)" for name in names]
    more = len(texts) - MOST_NAMES
    return ", ".join(texts[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one file.

    Args:
        X: inputs, shape `(N, ...)`.
        y: labels, shape `(N,)`, or None where the file has none.
        groups: group of each row, shape `(N,)`, or None.
        features: names of the columns of `X`, or None where the file names none.
        roles: what each column is used as.
        ids: the column that numbers or names the rows, by its name; empty where there is none.
    """

    X: np.ndarray
    y: np.ndarray | None
    groups: np.ndarray | None
    features: list[str] | None
    roles: Roles = field(default_factory=lambda: Roles(["X"]))
    ids: dict[str, np.ndarray] = field(default_factory=dict)


def read_table(
    path: Path,
    label: str = "y",
    groups: str | None = None,
    labelled: bool = True,
    *,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    classes: bool = True,
    partly: bool = False,
    ids: str | None = None,
    spare: Sequence[str | None] = (),
    flags: Sequence[str] = ("--label", "--groups", "--exclude"),
) -> Table:
    """Read inputs, labels and groups from a file.

    An npz file holds arrays `X`, `y` and, for groups, one named by `groups`; or `features` of shape
    `(classes, rows, D)`, one row of classes each. In CSV and parquet files `label` and `groups` name
    columns, and every other column is a numeric feature, but for those that number the rows (`row_ids`).

    Args:
        path: the file.
        label: name of the labels.
        groups: name of the groups, or None.
        labelled: whether labels and groups must be there; otherwise they are read where they are.
        features: columns of the features, in this order; all that have no other role by default.
        exclude: columns that are no features.
        classes: whether labels are those of classes: a CSV file then has them as they are written.
        partly: whether labels may be missing in some rows, where they must be there at all.
        ids: column or array that names the rows; one with a telling name by default (`row_ids`).
        spare: columns of `exclude` and `ids` that may be absent, since another file may have them.
        flags: those of the command, which messages name.

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
    if ids is not None and ids in ("X", label, groups):
        raise ValueError(f"{path}: expected names of rows in a column of their own, got {ids!r}")
    wanted = [label] if labelled else []
    wanted += [groups] if groups is not None and labelled else []
    if path.suffix == ".npz":
        if exclude:
            raise ValueError(f"{path}: expected a file of named columns, .csv or .parquet, for --exclude")
        arrays = read_npz(path)
        return _from_arrays(path, arrays, label, groups, wanted, None if ids in spare and ids not in arrays else ids)
    frame = read_frame(path, (groups, ids, label) if classes else (groups, ids), (ids, label if partly else None))
    if not len(frame):
        raise ValueError(f"{path}: expected rows, got none")
    missing = [c for c in wanted if c not in frame]
    if missing:
        raise ValueError(
            f"{path}: expected columns {wanted}, got {_some(frame.columns)} ({_told(flags, '--label', '--groups')})"
        )
    ids = None if ids in spare and ids not in frame else ids
    exclude = [*(c for c in exclude if c in frame or c not in spare), *([] if ids is None else [ids])]
    if absent := [c for c in (*(features or ()), *exclude) if c not in frame]:
        raise ValueError(f"{path}: expected a column {absent[0]!r}, got {_some(frame.columns)}")
    for column in () if partly else wanted:
        if frame[column].isna().any():
            raise ValueError(
                f"{path}: expected a value of {column!r} in every row, got none in row {_first_na(frame[column])}"
                + f"; {NONE}" * (path.suffix == ".csv")
            )
    roles = _roles(path, frame, label, groups, features, exclude)
    if not roles.features:
        raise ValueError(f"{path}: expected feature columns beside {wanted}, got none")
    if ids is not None:
        roles = replace(roles, ids=[ids], ignored=[c for c in roles.ignored if c != ids])
    names: list[str] | None = [str(c) for c in roles.features]
    if (X := _lists(path, frame, roles.features)) is not None:
        names = None
    else:
        X = np.stack([_feature(path, column, frame[column], flags) for column in roles.features], 1)
    y = values_of(frame[label]) if label in frame else None
    by = values_of(frame[groups]) if groups in frame else None
    return Table(X, y, by, names, roles, {str(c): values_of(frame[c]) for c in roles.ids[:1]})


def _roles(path: Path, frame: pd.DataFrame, label: str, groups: str | None, features: Any, exclude: Any) -> Roles:
    """Return the roles of the columns of a file, and warn of one that seems to name rows and does not."""
    try:
        roles = roles_of(frame, label, groups, features, exclude)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if features is None and (said := note_on_ids(frame, roles.features)):
        tell(f"{path}: {said}")
    return roles


def roles_of(
    frame: pd.DataFrame,
    label: str | None,
    groups: str | None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    *,
    group_features: Sequence[str] = (),
    size: str | None = None,
) -> Roles:
    """Return the role of each column of a frame.

    Args:
        frame: the rows.
        label: column of labels, where there is one.
        groups: column of groups, where there is one.
        features: columns of features; all that have no other role by default.
        exclude: columns that are no features.
        group_features: columns of covariates of groups.
        size: column of sizes.

    Raises:
        ValueError: if a column without a name does something else than number the rows.
    """
    taken = {label, groups, size, *group_features}
    ids = row_ids(frame, taken | set(features or ()))
    if features is None:
        features = [c for c in frame.columns if c not in taken and c not in exclude and c not in ids]
    used = {*taken, *features, *ids}
    has = [c if c in frame.columns else None for c in (label, groups, size)]
    ignored = [c for c in frame.columns if c not in used]
    return Roles(list(features), has[0], has[1], list(group_features), has[2], ids, ignored)


def _lists(path: Path, frame: pd.DataFrame, features: Sequence[str]) -> np.ndarray | None:
    """Return the rows of a single column that holds a list of numbers in every row; None where there is no such."""
    column = frame[features[0]]
    if len(features) > 1 or not isinstance(column.iloc[0], np.ndarray | list):
        return None
    try:
        return np.stack([np.asarray(value, dtype=np.float64) for value in column])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected as many numbers in every row of column {features[0]!r}, got: {error!s:.100}"
        ) from None


def _told(flags: Sequence[str], *some: str) -> str:
    """Return what some flags do, of those that a command has."""
    return ", ".join(f"{flag} {FLAGS[flag]}" for flag in some if flag in flags)


def _feature(path: Path, name: str, column: pd.Series[Any], flags: Sequence[str]) -> np.ndarray:
    if column.isna().any() and len(column):
        raise ValueError(f"{path}: expected a number in column {name!r}, row {_first_na(column)}, got none")
    try:
        return numbers_of(name, column) if len(column) else np.zeros(0)
    except ValueError as error:
        said = str(error).removeprefix(f"column {name!r}: ")
        if said.startswith("expected finite"):
            raise ValueError(f"{path}: {error}") from None
        said = said.removeprefix("expected numbers, ")
        raise ValueError(
            f"{path}: expected numbers in feature column {name!r}, {said} ({_told(flags, *FLAGS)})"
        ) from None


def _from_arrays(
    path: Path, arrays: dict[str, np.ndarray], label: str, groups: str | None, wanted: list[str], ids: str | None
) -> Table:
    stacked, others = arrays.get("features", np.zeros(0)), arrays.keys() - {"features", "classes"}
    labelled = any(arrays[name].shape == stacked.shape[:1] for name in others)  # then rows, and no classes, come first
    if "X" not in arrays and stacked.ndim > 2 and groups is None and not labelled:
        classes = arrays.get("classes", np.arange(len(stacked)))
        if classes.shape != stacked.shape[:1]:
            raise ValueError(f"{path}: expected {len(stacked)} classes, as features has, got shape {classes.shape}")
        roles = Roles(["features"], "classes" if "classes" in arrays else "the first axis of features")
        return Table(stacked.reshape(-1, *stacked.shape[2:]), np.repeat(classes, stacked.shape[1]), None, None, roles)
    if not arrays.keys() >= {"X", *wanted}:
        hint = f"np.savez({path.name!r}, X=rows, {label}=labels) writes them"
        raise ValueError(f"{path}: expected arrays {['X', *wanted]}, got {sorted(arrays)}; {hint}")
    if not arrays["X"].shape[:1] > (0,):
        raise ValueError(f"{path}: expected rows in X, got an array of shape {arrays['X'].shape}")
    for name in wanted:
        if (shape := arrays[name].shape) != arrays["X"].shape[:1]:
            raise ValueError(
                f"{path}: expected {len(arrays['X'])} values of {name!r}, one per row of X, got shape {shape}"
            )
    if ids is not None and (ids not in arrays or arrays[ids].shape != arrays["X"].shape[:1]):
        raise ValueError(f"{path}: expected an array {ids!r} with a name for each of {len(arrays['X'])} rows, got none")
    has = [name if name in arrays else None for name in (label, groups)]
    ignored = [name for name in arrays if name not in ("X", ids, *has)]
    roles = Roles(["X"], has[0], has[1], ids=[] if ids is None else [ids], ignored=ignored)
    by, named = None if groups is None else arrays.get(groups), {} if ids is None else {ids: arrays[ids]}
    return Table(arrays["X"], arrays.get(label), by, None, roles, named)


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
        with zipfile.ZipFile(buffer, "w") as archive:  # np.savez takes no column called "file"
            archive.comment = marked("table").encode()
            for name, values in columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, written(values), allow_pickle=False)
    elif path.suffix == ".csv":
        pd.DataFrame(columns).to_csv(buffer, index=False)
    else:
        frame = pd.DataFrame(columns)
        need("pyarrow")
        frame.attrs["ebmeta"] = marked("table")
        frame.to_parquet(buffer, index=False)
    write(path, buffer.getvalue(), "table", overwrite)
