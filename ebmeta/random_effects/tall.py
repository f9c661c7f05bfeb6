r"""Tall matrices part by part, so that what is made of them fits a processor's cache.

The triangular factor $R$ of $X = QR$ comes of that of the rows so far on top of the next rows, without $Q$. Source:
Demmel, Grigori, Hoemmen and Langou 2012, Communication-optimal parallel and sequential QR and LU factorizations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["CELLS", "check_terms", "orthonormal", "parts_of", "triangle"]

Array = NDArray[np.float64]
CELLS = 2**16  # numbers of a part: half a megabyte
DEPENDENT = 1e-9  # of a term's length: less is left of one that is a combination of others


def parts_of(length: int, width: int) -> Iterator[slice]:
    """Yield slices of so many rows of so many columns, each of a size that fits a cache.

    Examples:
        >>> list(parts_of(50_000, 2))
        [slice(0, 32768, None), slice(32768, 50000, None)]
    """
    step = max(CELLS // max(width, 1), 1)
    for begin in range(0, length, step):
        yield slice(begin, min(begin + step, length))


def triangle(parts: Iterable[Array], width: int) -> Array:
    """Return the triangular factor of a matrix, shape `(min(N, P), P)`.

    Args:
        parts: some rows at a time, shape `(n, P)`.
        width: $P$.

    Examples:
        >>> np.abs(triangle([np.array([[3.0]]), np.array([[4.0]])], 1))
        array([[5.]])
    """
    out = np.zeros((0, width))
    for part in parts:
        out = np.asarray(np.linalg.qr(np.vstack([out, part]), mode="r"))
    return out


def orthonormal(x: Array, names: list[str]) -> tuple[Array, Array]:
    """Return orthonormal columns that span those of `x`, and the triangular factor that gives `x` back.

    Raises:
        ValueError: as for `check_terms`.
    """
    q, r = np.linalg.qr(x)
    check_terms(r, names)
    return q, r


def check_terms(r: Array, names: list[str]) -> None:
    """Raise `ValueError` where a term is a combination of those before it, by the triangular factor of all."""
    bad = np.abs(np.diag(r)) <= DEPENDENT * np.sqrt((r**2).sum(0))[: len(r)]
    if len(r) < r.shape[1] or bad.any():
        name = names[int(np.argmax(bad)) if bad.any() else len(r)]
        raise ValueError(
            f"term {name!r}: expected one that is no combination of the terms before it, got values that these "
            "determine (leave it out)"
        )
