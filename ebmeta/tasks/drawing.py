"""Random numbers by key, ranges of numbers of rows, and the reading of rows into tensors of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ebmeta.foundation.checks import MOST_COUNT, WHOLE, at_least, checked, found
from ebmeta.foundation.memory_maps import take
from ebmeta.tasks.columns import refuse_not_finite

__all__ = ["Change", "Range", "Transform", "check_range", "exact", "gather", "generator"]

Range = int | tuple[int, int]
#: A function of (rows of one task, generator) that returns other rows.
Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
#: A function of (rows of one task, their numbers in the data, generator) that returns other rows.
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def check_range(name: str, value: Range, least: int) -> tuple[int, int]:
    """Return a number or a range of numbers as a range; raise `ValueError` where it is none, or below `least`."""
    pair: Any = (value, value) if WHOLE.fits(value) else value
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(WHOLE.fits, pair))):
        raise ValueError(f"{name}: expected an integer or a pair of integers (low, high), got {found(value)}")
    low, high = (int(v) for v in pair)
    if high >= MOST_COUNT:
        raise ValueError(f"{name}: expected a number below {MOST_COUNT}, got {found(high)}")
    if not least <= low <= high:
        raise ValueError(f"{name}: expected {least} <= low <= high, got {value}")
    return low, high


@checked(stream=at_least(0))
def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Return a random generator of batch `index`: the same for equal (seed, index, stream), everywhere."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index, stream))))


def exact(values: np.ndarray) -> np.ndarray:
    """Return numbers as floats of 32 bits where those hold each of them, else of 64.

    Examples:
        >>> [exact(np.array([1], kind)).dtype.name for kind in ("float16", "float32", "uint8", "int64", "float64")]
        ['float32', 'float32', 'float32', 'float64', 'float64']
    """
    short = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    return np.asarray(values, dtype=np.float32 if short else np.float64)


def gather(
    X: np.ndarray,
    rows: list[tuple[np.ndarray, np.ndarray]],
    transform: Transform | None,
    rng: np.random.Generator,
    change: Change | None = None,
    names: Sequence[str] | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Read each task's rows (support, query), change them as asked, and turn them into tensors."""
    flat = np.concatenate([np.concatenate(pair) for pair in rows])
    read = exact(take(X, flat))
    refuse_not_finite("X", read, names, flat)
    out, start = [], 0
    for support, query in rows:
        stop = start + len(support) + len(query)
        task = read[start:stop]
        if change is not None:
            task = change(task, flat[start:stop], rng)
        if transform is not None:
            changed = np.asarray(transform(task, rng))
            if changed.dtype.kind not in "fiub" or changed.shape[:1] != task.shape[:1]:
                got = f"shape {changed.shape} of {changed.dtype}"
                raise ValueError(f"transform: expected a function that returns {len(task)} rows of numbers, got {got}")
            task = exact(changed)
        x = torch.from_numpy(task if task.flags.c_contiguous and task.flags.writeable else task.copy("C"))
        out.append((x[: len(support)], x[len(support) :]))
        start = stop
    return out
