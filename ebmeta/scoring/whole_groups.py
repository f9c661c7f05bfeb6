"""Groups that must be whole: one whose rows lie in two frames would be predicted twice, each time from half of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.tasks.columns import read_column
from ebmeta.tasks.frame_files import as_ids

__all__ = ["WholeGroups", "check_sizes", "hashes"]

ADVICE = "divide the rows by whole groups"


def hashes(groups: Sequence[Any]) -> NDArray[np.uint64]:
    """Return a number of 64 bits for each name of a group, the same in every process, shape `(G,)`.

    Examples:
        >>> hashes(["a", 31, "31"])[1:].tolist() == hashes([31.0, "31"]).tolist()
        True
    """
    names = np.array(as_ids(groups), dtype=object)
    found: NDArray[np.uint64] = pd.util.hash_array(names, categorize=False)
    return found


class WholeGroups:
    """The groups of the frames so far, 8 bytes each.

    Examples:
        >>> known = WholeGroups()
        >>> known.add(["a", "b"])
        >>> known.add(["c", "b"])
        Traceback (most recent call last):
        ValueError: group 'b': expected all its rows in one frame, got some in an earlier one; divide the rows by ...
    """

    def __init__(self) -> None:
        self._sorted: list[NDArray[np.uint64]] = []  # longest first, each at least twice the next

    def add(self, groups: Sequence[Any]) -> None:
        """Remember the distinct groups of a frame.

        Raises:
            ValueError: if one was in an earlier frame.
        """
        own = hashes(groups)
        for seen in self._sorted:
            at = np.minimum(np.searchsorted(seen, own), len(seen) - 1)
            if (again := seen[at] == own).any():
                raise ValueError(
                    f"group {groups[int(np.argmax(again))]!r}: expected all its rows in one frame, got some in an "
                    f"earlier one; {ADVICE}"
                )
        while self._sorted and len(self._sorted[-1]) < 2 * len(own):
            own = np.concatenate([self._sorted.pop(), own])
        if len(own):
            self._sorted.append(np.sort(own))


def check_sizes(groups: Sequence[Any], stated: Sequence[float] | NDArray[Any], column: str) -> None:
    """Refuse a group with other than the number of rows that a column states.

    Args:
        groups: group of each row.
        stated: how many rows its group has, for each row.
        column: name of the column that states it.

    Raises:
        ValueError: if a group has more or fewer rows, its rows state different numbers, or a row states none.

    Examples:
        >>> check_sizes(["a", "a", "b"], [2, 2, 3], "n")
        Traceback (most recent call last):
        ValueError: group 'b': expected 3 rows, as column 'n' states, got 1; divide the rows by whole groups
    """
    codes, names = pd.factorize(np.array(as_ids(groups), dtype=object))
    stated = read_column(f"column {column!r}", stated)
    wrong = np.bincount(codes, minlength=len(names))[codes] != stated
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"group {groups[row]!r}: expected {float(stated[row]):g} rows, as column {column!r} states, got "
            f"{int((codes == codes[row]).sum())}; {ADVICE}"
        )
