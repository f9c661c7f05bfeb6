"""Rows of classes with labels as codes, the rows of each class, and how far classes spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.utils.multiclass import type_of_target

from ebmeta.foundation.checks import checked
from ebmeta.foundation.fingerprint import fingerprint
from ebmeta.tasks.columns import read_keys

__all__ = ["ClassRows", "class_codes", "members"]

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

    @cached_property
    def means(self) -> np.ndarray:
        r"""Mean of each class in 64-bit floats, $\bar x_c$, shape `(C, ...)`."""
        return np.stack([np.asarray(self.X[m], dtype=np.float64).mean(0) for m in self.members])

    @cached_property
    def difficulty(self) -> float:
        r"""Spread of a class's members over the spread of the classes, $\sqrt{\mathrm{tr} S_w / \mathrm{tr} S_b}$."""
        within = [float(np.square(self.X[m] - mean).sum()) for m, mean in zip(self.members, self.means, strict=True)]
        freedom = max(1, len(self.codes) - len(self.members))
        between = float(self.means.var(0, ddof=1).sum()) if len(self.means) > 1 else 0.0
        return math.sqrt(sum(within) / freedom / between) if between > 0 else math.inf


@checked()
def class_codes(y: Any, name: str = "y") -> tuple[np.ndarray, np.ndarray]:
    """Turn class labels of any kind (integers, strings, booleans) into codes.

    Args:
        y: labels, shape `(N,)`.
        name: how an error message calls them.

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
        labels = read_keys(name, y)
    except ValueError as error:
        raise ValueError(f"{wanted}, got none or others: {str(error).removeprefix(f'{name}: ')}") from None
    array = y if isinstance(y, np.ndarray) and y.dtype.kind in "biufUS" else np.array(labels)
    if not array.size:
        kind = "empty"
    elif array.dtype.kind == "c":
        kind = "complex (Complex data not supported)"  # scikit-learn's words
    elif array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and not _told_apart(array)):
        kind = "infinite or other"
    elif array.ndim == 1 and (array.dtype.kind != "f" or (array == array.round()).all()):
        kind = "multiclass"  # one label of each of many classes is no regression, as scikit-learn would warn
    else:
        kind = type_of_target(array)
    if array.ndim != 1 or kind not in ("binary", "multiclass"):
        raise ValueError(f"{wanted}, got {kind} labels of shape {array.shape} and type {array.dtype}")
    classes, codes = np.unique(array, return_inverse=True)
    return classes, codes


def members(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each class or group, by code."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


def _told_apart(labels: np.ndarray) -> bool:
    return bool((np.abs(labels.astype(np.float64)) < MOST_CLASS).all())
