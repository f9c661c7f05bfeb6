"""Reading some rows of arrays that may be files larger than memory."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

__all__ = ["take"]

LARGE = 1 << 28  # bytes of a file beyond which the pages that reading brought in are let go
AT_ONCE = 2048  # rows: a page of a file comes with its neighbours


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a copy of some rows of an array.

    What is read of a memory map stays resident, with the pages around it, as long as the system has memory to spare. Of
    a large one it is let go here, so that resident memory does not grow with the rows that were ever read.

    Args:
        array: an array or a memory map, shape `(N, ...)`.
        rows: their numbers, shape `(R,)`.

    Examples:
        >>> take(np.arange(6).reshape(3, 2), np.array([2, 0])).tolist()
        [[4, 5], [0, 1]]
    """
    file = _file(array)
    if file is None:
        return np.asarray(array[rows])
    out = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for first in range(0, len(rows), AT_ONCE):
        out[first : first + AT_ONCE] = array[rows[first : first + AT_ONCE]]
        file.madvise(mmap.MADV_DONTNEED)
    return out


def _file(array: np.ndarray) -> mmap.mmap | None:
    """Return the large file that an array is a view of, where letting go of its pages loses nothing; None elsewhere."""
    shared = False
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap):
            shared = owner.mode != "c"  # a copy on write has changes that no file has
        owner = owner.base  # an array, or what owns its memory
    if not (shared and isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and len(owner) > LARGE):
        return None
    return owner
