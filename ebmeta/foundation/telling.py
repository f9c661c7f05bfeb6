"""Words of messages; warnings point to the line of the caller's own code however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any

__all__ = ["named", "tell"]

MOST_NAMES = 8  # in a message

PASSED = ("ebmeta", "contextlib", "functools", "torch")  # packages whose frames are no caller's


def tell(text: str) -> None:
    """Warn in one line, at the first frame outside of the package and of what decorates its functions.

    Args:
        text: what was expected, and what came.

    Examples:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     tell("y: expected two classes, got one")
        >>> print(told[0].message)
        y: expected two classes, got one
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)


def named(columns: Iterable[Any]) -> str:
    """Return the first names of columns, for a message; one with a blank at an end, or nothing but blanks, in quotes.

    Examples:
        >>> named(["shop", " price", ""])
        "shop, ' price', ''"
    """
    names = [repr(c) if isinstance(c, str) and (not c or c != c.strip()) else str(c) for c in columns]
    return ", ".join(names[:MOST_NAMES]) + ", ..." * (len(names) > MOST_NAMES)
