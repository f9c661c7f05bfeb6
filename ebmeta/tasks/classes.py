"""Rows of classes with labels as codes, the rows of each class, and how far classes spread.

Means and spreads of classes are those of all their rows where these fit into 256 MB. Elsewhere they are those of a
fixed random choice of the rows of each class: of as many as fit, and of at least 16. So features may be a file larger
than memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ebmeta.foundation.checks import checked
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.foundation.memory_maps import take
from ebmeta.foundation.telling import tell
from ebmeta.tasks.columns import read_keys
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.keys import kind_of_keys
from ebmeta.tasks.spellings import tell_of_twins

__all__ = ["ClassRows", "class_codes", "members"]

READ = 1 << 28  # bytes of the rows that are read for means and spreads
LEAST = 16  # rows of a class that are read in any case
MOST_CLASS = 2.0**53  # floats from here on are not distinct


@dataclass(frozen=True, eq=False)
class ClassRows:
    r"""Rows, and the class of each.

    Args:
        X: inputs, shape `(N, ...)`.
        classes: the sorted distinct labels, shape `(C,)`.
        codes: the index of each row's label among them, shape `(N,)`.
        members: the numbers of the rows of each class, in the order of `classes`.

    Examples:
        >>> codes = np.array([0, 0, 1, 1])
        >>> rows = ClassRows(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array(["a", "b"]), codes, members(codes))
        >>> rows.means.tolist(), round(rows.difficulty, 3)
        ([[1.0], [11.0]], 0.2)
    """

    X: np.ndarray
    classes: np.ndarray
    codes: np.ndarray
    members: list[np.ndarray]

    def numbered_as(self, other: ClassRows) -> bool:
        """Return whether both have the same rows, and the same number of the class of each."""
        if not np.array_equal(self.codes, other.codes):
            return False
        return self.X is other.X or self._checksum == other._checksum

    @cached_property
    def _checksum(self) -> str:
        return fingerprint(self.X)

    def _read(self) -> Iterator[np.ndarray]:
        """Yield the rows of each class in 64-bit floats, or some of them (see the head of this module)."""
        each = (
            len(self.X)
            if self.X.nbytes <= READ
            else max(LEAST, READ * len(self.X) // self.X.nbytes // len(self.members))
        )
        for code, rows in enumerate(self.members):
            some = rows if len(rows) <= each else np.sort(generator(0, code).choice(rows, each, replace=False))
            yield np.asarray(take(self.X, some), dtype=np.float64)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, float]:
        """Return the mean of each class, and the mean square of the distance of a row from that of its class."""
        means, within, freedom = [], 0.0, 0
        for rows in self._read():
            means.append(rows.mean(0))
            within += float(np.square(rows - means[-1]).sum())
            freedom += len(rows) - 1
        return np.stack(means), within / max(1, freedom)

    @property
    def means(self) -> np.ndarray:
        r"""Mean of each class in 64-bit floats, $\bar x_c$, shape `(C, ...)`."""
        return self._moments[0]

    @cached_property
    def difficulty(self) -> float:
        r"""Spread of a class's members over the spread of the classes, $\sqrt{\mathrm{tr} S_w / \mathrm{tr} S_b}$."""
        between = float(self.means.var(0, ddof=1).sum()) if len(self.means) > 1 else 0.0
        return math.sqrt(self._moments[1] / between) if between > 0 else math.inf


@checked()
def class_codes(y: Any, name: str = "y", hint: str = "leave out rows without a label") -> tuple[np.ndarray, np.ndarray]:
    """Turn class labels (integers, strings, booleans) into codes.

    A warning tells of -1, which in scikit-learn is no class but stands for rows without a label.

    Args:
        y: labels, shape `(N,)`.
        name: how an error message calls them.
        hint: what to do with rows without a label.

    Returns:
        The sorted distinct labels, and each row's index among them.

    Raises:
        ValueError: if `y` is not one column of class labels.

    Examples:
        >>> classes, codes = class_codes(["b", "a", "b"])
        >>> classes.tolist(), codes.tolist()
        (['a', 'b'], [1, 0, 1])
    """
    wanted = f"{name}: expected one column of class labels (integers, strings or booleans)"
    try:
        labels = read_keys(name, y, hint=f"; {hint}")
    except ValueError as error:
        raise ValueError(f"{wanted}: {str(error).removeprefix(f'{name}: ').removeprefix('expected ')}") from None
    array = y if isinstance(y, np.ndarray) and y.dtype.kind in "biufUS" else np.array(labels)
    cut = next((row for row, v in enumerate(labels) if isinstance(v, str) and v.endswith("\0")), None)
    if cut is not None:  # arrays of texts drop it, and two classes would be one
        raise ValueError(f"{name}: expected names of classes that do not end in NUL, got {labels[cut]!r} in row {cut}")
    if not array.size:
        kind = "empty"
    elif array.dtype.kind == "c":
        kind = "complex (Complex data not supported)"  # scikit-learn's words
    elif array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and not _told_apart(array)):
        kind = kind_of_keys(labels) or "no"
        if kind == "number":  # beyond 64 bits arrays hold objects
            kind = "huge or infinite" if all(isinstance(v, int | float) for v in labels) else type(labels[0]).__name__
    elif array.ndim == 1 and (array.dtype.kind != "f" or (array == array.round()).all()):
        kind = "multiclass"  # one label of each of many classes is no regression, as scikit-learn would warn
    else:
        from sklearn.utils.multiclass import type_of_target  # here: its import takes as long as half of torch's

        kind = type_of_target(array)
    if array.ndim != 1 or kind not in ("binary", "multiclass"):
        raise ValueError(f"{wanted}, got {kind} labels of shape {array.shape} and type {array.dtype}")
    classes, codes = np.unique(array, return_inverse=True)
    if classes.dtype.kind == "U":
        tell_of_twins(classes.tolist(), name, "classes")
    elif number := _unlabelled(classes, codes):
        told = f"{name}: -1 counts as a class like any other, of {number} rows; {hint}, or call the class by a text"
        tell(told)
    return classes, codes


def members(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each class or group, by code."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


def _unlabelled(classes: np.ndarray, codes: np.ndarray) -> int:
    """Return the number of rows of -1 where it is likely to stand for no label, else 0.

    It is not beside other numbers below 0 or one class alone, nor with 0 and 1 (negative, neutral and positive),
    unless most rows are of it.
    """
    number = int((codes == 0).sum())
    if classes.dtype.kind not in "if" or len(classes) < 3 or classes[0] != -1:
        return 0
    return number if classes.tolist() != [-1, 0, 1] or 2 * number > len(codes) else 0


def _told_apart(labels: np.ndarray) -> bool:
    return bool((np.abs(labels.astype(np.float64)) < MOST_CLASS).all())
