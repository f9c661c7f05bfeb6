"""Features that are damaged: of whole tasks, or of one class of the support."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

import ebmeta
from lib.kinds import Kind

__all__ = ["outsiders"]


def dropped(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lose three dimensions in ten."""
    return x * (rng.uniform(size=x.shape[-1]) > 0.3)


def squared(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply another nonlinearity, at the same size."""
    return x**2 * (x.mean() / (x**2).mean())


def blended(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Average each row with a random other one."""
    return (x + x[rng.permutation(len(x))]) / 2


DAMAGE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "dropped": dropped,
    "squared": squared,
    "blended": blended,
}


def outsiders(kind: Kind) -> dict[str, ebmeta.EpisodeSampler]:
    """Return tasks by kind of damage: of every row, or of the first row, a class of a 1-shot support."""
    plain = kind.sampler("test", 12)
    out = {"none": plain}
    for name, change in DAMAGE.items():
        whole = copy.copy(plain)
        whole.transform = change
        part = copy.copy(plain)
        shots = kind.n_shot

        def one_class(x: np.ndarray, rng: np.random.Generator, change: Any = change, shots: int = shots) -> np.ndarray:
            return np.concatenate([change(x, rng)[:shots], x[shots:]])

        part.transform = one_class
        out |= {name: whole, f"{name}_one_class": part}
    return out
