"""The numbers of rows that an engine fits or predicts: labels, terms, groups and weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grouping", "Rows"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grouping:
    """One grouping factor of rows.

    Args:
        codes: number of the group of each row, shape `(N,)`.
        labels: names of the groups.
        z: values of the random terms, shape `(N, K)`.
    """

    codes: NDArray[np.int64]
    labels: NDArray[np.object_]
    z: Array


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in the order of the frame, without those that lack a value.

    Args:
        y: labels, shape `(N,)`; NaN where there is none.
        x: values of the common terms, shape `(N, P)`.
        groupings: one for each grouping factor.
        offset: added to the linear predictor, shape `(N,)`.
        size: trials, exposure or readings, shape `(N,)`, or None.
        weights: how often a row counts, or its inverse variance for normal labels, shape `(N,)`, or None.
    """

    y: Array
    x: Array
    groupings: tuple[Grouping, ...]
    offset: Array
    size: Array | None = None
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.bool_]) -> Rows:
        """Return some of the rows; groups keep their numbers."""
        kept = tuple(Grouping(g.codes[rows], g.labels, g.z[rows]) for g in self.groupings)
        size, weights = (None if v is None else v[rows] for v in (self.size, self.weights))
        return Rows(self.y[rows], self.x[rows], kept, self.offset[rows], size, weights)

    def joined(self, more: Rows) -> Rows:
        """Return the rows and others after them, whose groups are numbered as these and named there."""
        pairs = zip(self.groupings, more.groupings, strict=True)
        groupings = (
            Grouping(np.concatenate([a.codes, b.codes]), b.labels, np.concatenate([a.z, b.z])) for a, b in pairs
        )

        def both(name: str) -> Array | None:
            parts = [getattr(rows, name) for rows in (self, more)]
            ones = [np.ones(len(self)), np.ones(len(more))]
            none = all(part is None for part in parts)
            known = [one if part is None else part for part, one in zip(parts, ones, strict=True)]
            return None if none else np.concatenate(known)

        y, x, offset = (np.concatenate([getattr(self, n), getattr(more, n)]) for n in ("y", "x", "offset"))
        return Rows(y, x, tuple(groupings), offset, both("size"), both("weights"))

    def regrouped(self, place: int, codes: NDArray[np.int64], labels: NDArray[np.object_]) -> Rows:
        """Return the rows with other groups of one grouping factor."""
        groupings = list(self.groupings)
        groupings[place] = Grouping(codes, labels, groupings[place].z)
        return replace(self, groupings=tuple(groupings))

    def with_terms(self, place: int, z: Array) -> Rows:
        """Return the rows with other random terms of one grouping factor."""
        groupings = list(self.groupings)
        groupings[place] = replace(groupings[place], z=z)
        return replace(self, groupings=tuple(groupings))
