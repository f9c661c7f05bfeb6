"""Fingerprints by which a checkpoint recognises the data, the settings and the seed that it was made with."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ebmeta.foundation.memory_maps import take

__all__ = ["fingerprint"]

LARGEST = 1 << 30  # bytes up to which an array is read in full; larger ones are read at equally spaced rows
ROWS = 1 << 14
CHUNK = 1 << 24


def fingerprint(*parts: Any) -> str:
    """Return a checksum of arrays and plain values: equal for equal content, in every process.

    Args:
        parts: arrays, of which type, shape and content count, and values, whose text counts.

    Examples:
        >>> fingerprint(np.arange(3), 1) == fingerprint(np.arange(3), 1)
        True
        >>> fingerprint(np.arange(3), 1) == fingerprint(np.arange(3), 2)
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(f"array {part.dtype} {part.shape} ".encode())
            _add(digest, part)
        else:
            digest.update(f"{part!r} ".encode())
    return digest.hexdigest()


def _add(digest: Any, array: np.ndarray) -> None:
    if array.ndim == 0 or array.nbytes <= CHUNK:
        digest.update(array.tobytes())
        return
    if array.nbytes > LARGEST:
        array = take(array, np.linspace(0, len(array) - 1, min(len(array), ROWS)).astype(int))
    step = max(1, CHUNK * len(array) // array.nbytes)
    for first in range(0, len(array), step):
        digest.update(array[first : first + step].tobytes())
