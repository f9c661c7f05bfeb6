"""Classes of unlabelled rows from a few labelled ones, in files, for `ebmeta classify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ebmeta.app.predict_files import answer, check_output, tables_of
from ebmeta.app.questions import SEPARATOR, Columns, OfClasses
from ebmeta.app.sources import column_errors, refuse_numbers
from ebmeta.app.tables import READS, Table, read_table
from ebmeta.estimators.classifier import FewShotClassifier
from ebmeta.foundation.extras import DISTRIBUTION
from ebmeta.model.general import general_classifier
from ebmeta.tasks.columns import NUMERIC, read_rows
from ebmeta.tasks.frame_files import as_ids
from ebmeta.tasks.keys import plain, refuse_inexact
from ebmeta.tasks.rows import HUGE

__all__ = ["Classified", "classify_files", "counted", "share"]

MOST_CLASSES = 8  # in a line
#: What becomes of a missing label in files, in small letters; a class may have such a name too.
MISSING = {"na", "n/a", "#n/a", "nan", "nat", "<na>", "none", "null"}
ROLES = ("--label", "--id", "--exclude")  # flags that tell the roles of columns
SURE = 0.995  # shares from here on would be rounded to 100%


def share(value: float) -> str:
    """Return a share in whole percents, of which none is 100.

    Examples:
        >>> share(0.872), share(0.9999)
        ('87%', 'over 99%')
    """
    return "over 99%" if value > SURE else f"{value:.0%}"


def counted(number: int, word: str) -> str:
    """Return so many of something.

    Examples:
        >>> counted(1, "class"), counted(1200, "class"), counted(2, "row")
        ('1 class', '1,200 classes', '2 rows')
    """
    return f"{number:,} {word}" + ("" if number == 1 else "es" if word.endswith("s") else "s")


@dataclass(frozen=True, eq=False)
class Classified:
    """Rows of files and their classes.

    Args:
        clf: the classifier, fitted to the labelled rows.
        rows: the unlabelled rows, an array or a frame of shape `(Q, D)`.
        ids: number or name of each of them, shape `(Q,)`.
        probs: class probabilities, shape `(Q, C)`.
        outlier: probability that a row is of none of the classes, shape `(Q,)`; 0 where nobody asked.
        result: a summary for a machine.
    """

    clf: FewShotClassifier
    rows: Any
    ids: np.ndarray
    probs: np.ndarray
    outlier: np.ndarray
    result: dict[str, Any]

    @property
    def labelled(self) -> np.ndarray:
        """Labelled rows of each class, shape `(C,)`."""
        return np.bincount(self.clf.support_y_.numpy(), minlength=len(self.clf.classes_))

    @property
    def expected(self) -> np.ndarray:
        """Expected number of unlabelled rows of each class, shape `(C,)`."""
        found: np.ndarray = ((1 - self.outlier)[:, None] * self.probs).sum(0)
        return found

    @property
    def used(self) -> str:
        """What the classes were learned from, in a line."""
        counts = [f"{c} {n}" for c, n in zip(self.clf.classes_, self.labelled, strict=True)]
        more = len(counts) - MOST_CLASSES
        named = ", ".join(counts[:MOST_CLASSES]) + (f" and {more} more" if more > 0 else "")
        return (
            f"{counted(int(self.labelled.sum()), 'labelled row')} of {counted(len(counts), 'class')} ({named}), "
            f"{counted(len(self.rows), 'row')} to classify, {counted(self.rows.shape[1], 'feature')}; general "
            f"classifier of ebmeta {version(DISTRIBUTION)}, no training"
        )

    @property
    def said(self) -> str:
        """What was found, in a line."""
        of_sets = self.result.get("sets")
        parts = [f"{counted(len(self.rows), 'row')} of {counted(len(self.clf.classes_), 'class')}"]
        parts += [f"about {self.outlier.sum():.0f} of none of them"] if self.clf.outliers else []
        whose = " of the others" if self.clf.outliers else ""
        parts += [f"{share(self.right)}{whose} probably right (mean of the largest probabilities)"]
        parts += [] if of_sets is None else [f"sets of {of_sets['mean_size']:.1f} classes hold {of_sets['level']:.0%}"]
        return ", ".join(parts)

    @property
    def right(self) -> float:
        """Share of the rows of known classes that is right by the probabilities themselves, their mean largest one."""
        return float(np.average(self.probs.max(1), weights=np.maximum(1 - self.outlier, 1e-9)))


def classify_files(
    labelled: Path,
    rows: Path | None,
    output: Path,
    *,
    label: str = "y",
    exclude: Sequence[str] = (),
    ids: str | None = None,
    scale: bool = False,
    sets: float | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Classified:
    """Classify the rows of a file and write a table of class probabilities.

    Args:
        labelled: file of labelled rows; where `rows` is none, of all rows, and rows without a label are classified.
        rows: file of unlabelled rows, or None.
        output: npz, CSV or parquet for a table, or nc for the whole tree.
        label: name of the labels.
        exclude: columns that are no features.
        ids: column or array that names the rows.
        scale: whether features are centred and divided by their standard deviation over all rows first.
        sets: level of conformal sets, or None for no sets.
        overwrite: replace also a file that ebmeta did not write.
        **options: of `ebmeta.FewShotClassifier`.

    Returns:
        What was found.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file is malformed or does not fit the other, labels of two classes are missing, there are
            too few for sets or their names have its separator, or the output is of an unknown type.
    """
    check_output(output, READS) if sets is not None else check_output(output)
    clf = FewShotClassifier(**options)
    if rows is None:
        known, y, new = _parts(labelled, label, exclude=exclude, ids=ids, flags=ROLES)
    else:
        columns: dict[str, Any] = {"exclude": exclude, "ids": ids, "flags": ROLES}
        known, new = tables_of(general_classifier(), labelled, rows, label, **columns)
        y = list(np.asarray(known.y))
    refuse_numbers(labelled, label, np.asarray(y))
    known_rows, new_rows = _named(*_scaled(known, new, scale))
    if len(set(y)) < 2 and not clf.outliers:
        raise ValueError(
            f"{labelled}: column {label!r}: expected labels of at least two classes, got '{y[0]}' alone "
            "(--outliers tells its rows from others)"
        )
    with column_errors(labelled, y=label):
        clf.fit(known_rows, y)
    if sets is not None and (odd := [c for c in map(str, clf.classes_) if SEPARATOR in c]):
        raise ValueError(
            f"{labelled}: column {label!r}: expected names of classes without {SEPARATOR!r}, which stands between "
            f"those of a set (--sets), got {odd[0]!r}"
        )
    question = OfClasses(clf, new_rows, new.ids, known.roles, {}, sets)
    with column_errors(labelled if rows is None else rows):
        found, result = answer(question, output, overwrite)
    return _classified(question, found, result)


def _named(known: Table, new: Table) -> tuple[Any, Any]:
    """Return the rows of both tables, with the names of their columns where both have them."""
    if known.features is None or new.features is None:
        return known.X, new.X
    return pd.DataFrame(known.X, columns=known.features), pd.DataFrame(new.X, columns=known.features)


def _scaled(known: Table, new: Table, scale: bool) -> tuple[Table, Table]:
    """Return features of mean 0 and standard deviation 1, if asked."""
    parts = (known.X, new.X)
    if not scale or any(X.dtype.kind not in NUMERIC or X.ndim != 2 or X.shape[1:] != known.X.shape[1:] for X in parts):
        return known, new  # which the classifier refuses
    rows = np.concatenate(parts).astype(np.float64)
    if not 0 < (reach := float(np.abs(rows).max(initial=0.0))) < HUGE:
        return known, new  # the same, or there is nothing to scale
    center, spread = rows.mean(0), (rows / reach).std(0) * reach
    spread[spread == 0] = 1.0
    return replace(known, X=(known.X - center) / spread), replace(new, X=(new.X - center) / spread)


def _parts(path: Path, label: str, **columns: Any) -> tuple[Table, list[Any], Table]:
    """Return the labelled rows of a file, their labels, and the rows without one, which keep their numbers or ids."""
    table = read_table(path, label, partly=True, **columns)
    with column_errors(path):
        X, _ = read_rows("X", table.X)
    y = np.asarray(table.y)
    labels = pd.Series(y, dtype=object)
    blank = _blank(path, label, labels)
    if blank.all():
        raise ValueError(f"{path}: expected a few rows with a label in {label!r}, got none")
    if not blank.any():
        told = " (-1 is one)" if labels.isin([-1, "-1"]).any() else ""  # which in scikit-learn is none
        raise ValueError(
            f"{path}: expected rows without a label, with an empty {label!r} (NaN or '' in an npz file), or a second "
            f"file of rows, got a label in each of {len(X)} rows{told}"
        )
    print(f"{path}: {table.roles}")
    refuse_inexact(f"{path}: column {label!r}", y)
    known = [plain(v) for v in labels[~blank]]
    if all(isinstance(v, float) and v.is_integer() for v in known):  # beside missing ones, whole numbers became floats
        known = [int(v) for v in known]
    elif all(isinstance(v, str) and v != t for v, t in zip(known, as_ids(known), strict=True)):  # written as "1.0"
        known = as_ids(known)
    ids = {name: values[blank] for name, values in table.ids.items()} or {"row": np.flatnonzero(blank)}
    return replace(table, X=X[~blank]), known, replace(table, X=X[blank], ids=ids)


def _blank(path: Path, label: str, labels: pd.Series[Any]) -> np.ndarray:
    """Return which rows have no label; refuse several ways to write that, one of which may be the name of a class."""
    texts = labels.where(labels.notna(), "").map(lambda v: v.strip() if isinstance(v, str) else v)
    ways = texts[texts.map(lambda v: isinstance(v, str) and (not v or v.casefold() in MISSING))]
    if ways.nunique() > 1:
        other = ways[ways != ways.iloc[0]]
        first, second = (
            f"{v!r} in row {row}" for row, v in ((ways.index[0], ways.iloc[0]), (other.index[0], other.iloc[0]))
        )
        raise ValueError(
            f"{path}: column {label!r}: expected one way to write a missing label, got {first} and {second}; if one of "
            "them is a class, give it another name"
        )
    return labels.index.isin(ways.index)


def _classified(question: OfClasses, found: xr.DataTree | Columns, result: dict[str, Any]) -> Classified:
    clf, rows = question.estimator, len(question.rows)
    if isinstance(found, xr.DataTree):
        last = {
            name: np.asarray(v.isel(step=-1, task=0)) for name, v in found["predictive"].items() if "step" in v.dims
        }
        probs, outlier = last["probs"], last.get("outlier")
    else:
        probs, outlier = np.stack([found[f"p_{c}"] for c in clf.classes_], 1), found.get("outlier")
    ids = next(iter(question.ids.values()), np.arange(rows))
    out = Classified(clf, question.rows, ids, probs, np.zeros(rows) if outlier is None else outlier, result)
    names = [str(c) for c in clf.classes_]
    result |= {
        "labelled": dict(zip(names, out.labelled.tolist(), strict=True)),
        "expected": dict(zip(names, out.expected.round(2).tolist(), strict=True)),
        "outliers": None if outlier is None else round(float(outlier.sum()), 2),
        "features": question.rows.shape[1],
        "probably_right": round(out.right, 5),
    }
    if question.size is not None:
        result["sets"] = {"level": question.sets, "mean_size": round(question.size, 4)}
    return out
