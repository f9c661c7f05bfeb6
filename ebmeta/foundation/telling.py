"""Warnings, which point to the line of the caller's own code however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings

__all__ = ["tell"]

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
