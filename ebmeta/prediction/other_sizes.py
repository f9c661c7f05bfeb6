"""Tasks of other sizes than those that a promise was calibrated on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebmeta.foundation.telling import tell
from ebmeta.tasks.batch import TaskBatch

__all__ = ["mean_shots", "tell_of_others"]


def mean_shots(batch: TaskBatch) -> NDArray[np.float64]:
    """Return the mean number of labelled rows of a class of each task, what anchors are worth included, `(T,)`."""
    worth = batch.support_mask.sum(1).double()
    if batch.anchor_size is not None:
        worth = worth + batch.anchor_size.double().sum(1)
    shots: NDArray[np.float64] = (worth / batch.way_mask.sum(1)).cpu().numpy()
    return shots


def tell_of_others(own: NDArray[np.generic], known: tuple[float, float], what: str, most: float = 0.0) -> None:
    """Warn where a larger share of tasks than `most` has another number of something than calibration tasks had.

    Args:
        own: number of each task, shape `(T,)`.
        known: the smallest and the largest of calibration.
        what: name of what is counted, after the number.
        most: share of tasks that may have others; 0 where numbers are few.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     tell_of_others(np.array([2, 5]), (2, 3), "classes")
        >>> print(str(told[0].message)[:82])
        predict: expected tasks of 2 to 3 classes, as calibration had, got 5 in task 1: th
    """
    numbers = np.asarray(own, dtype=np.float64)
    other = (numbers < known[0]) | (numbers > known[1])
    if other.mean() > most:
        t = int(other.argmax())
        wanted = f"{known[0]:g}" if known[0] == known[1] else f"{known[0]:g} to {known[1]:g}"
        said = f"predict: expected tasks of {wanted} {what}, as calibration had, got {numbers[t]:g} in task {t}"
        tell(f"{said}: the level is promised for as many alone")
