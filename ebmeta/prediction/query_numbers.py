r"""A random number for each query that depends on the query and its task, and not on what else a call is asked.

A stream of random numbers by place gives the first query of every call the same one: where tasks are predicted one by
one, as they come, all of them would share it, and what holds on average over it would hold for none. So the bits of the
probabilities, rounded to six digits, are mixed with the seed by the finalizer of SplitMix64 (Steele, Lea and Flood
2014). Classes and queries count in no order.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ebmeta.foundation.checks import array, at_least, checked

__all__ = ["query_numbers"]

DIGITS = 6  # what a batch of other tasks changes by rounding is no other query


@checked(probs=array(ndim=3, padded=True), seed=at_least(0), stream=at_least(0))
def query_numbers(probs: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """Return numbers that are uniform on [0, 1) for each query, shape `(T, Q)`; they mean nothing for padding.

    Args:
        probs: class probabilities, shape `(T, Q, C)`; NaN is padding.
        seed: another one gives other numbers.
        stream: likewise, for another use of the same seed.

    Examples:
        >>> probs = np.array([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.8, 0.2]]])
        >>> together = query_numbers(probs, seed=0, stream=0)
        >>> bool((query_numbers(probs[1:], 0, 0) == together[1:]).all()), len(np.unique(together))
        (True, 4)
    """
    start = np.array(np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64), dtype=np.uint64)
    rows: NDArray[np.uint64] = np.broadcast_to(start, probs.shape[:2])
    for values in np.moveaxis(np.sort(np.round(probs.astype(np.float64), DIGITS) + 0.0, -1), -1, 0):  # padding is last
        rows = np.where(np.isnan(values), rows, _mixed(rows ^ values.view(np.uint64)))
    real = ~np.isnan(probs).all(-1)
    tasks = np.where(real, _mixed(rows), np.uint64(0)).sum(1, keepdims=True, dtype=np.uint64)
    keys = _mixed(rows ^ tasks).ravel()
    again = pd.Series(keys).groupby(keys).cumcount().to_numpy().astype(np.uint64)  # copies have numbers of their own
    found: NDArray[np.float64] = (_mixed(keys ^ _mixed(again)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found.reshape(real.shape)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the output of SplitMix64 for each state."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
