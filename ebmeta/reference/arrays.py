"""Conversion of tasks to plain arrays, and of draws to trees of labelled arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.trees import evaluating
from ebmeta.tasks.rows import Rows

__all__ = ["SAMPLE_STATS", "blank", "in_64_bits", "label", "rows_of", "side_by_side"]

#: Statistics of NumPyro's NUTS, and the names that ArviZ knows them by.
SAMPLE_STATS = {
    "diverging": "diverging",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "potential_energy": "lp",
    "energy": "energy",
}

Groups = Mapping[str, Mapping[str, tuple[tuple[str, ...], Any]]]


def in_64_bits() -> AbstractContextManager[None]:
    """Return a block in which JAX computes in 64 bits: labels keep their digits, and log-gammas theirs."""
    try:
        from jax import enable_x64
    except ImportError:  # its former location
        from jax.experimental import enable_x64  # type: ignore[attr-defined, no-redef]
    block: AbstractContextManager[None] = enable_x64(True)
    return block


def label(groups: Groups, coordinates: Mapping[str, Any] | None = None) -> xr.DataTree:
    """Return a tree with a coordinate on every dimension.

    Args:
        groups: by group and variable, names of the dimensions and values.
        coordinates: coordinates of some dimensions; the others are numbered from 0.
    """
    given, tree = coordinates or {}, {}
    for group, variables in groups.items():
        data = xr.Dataset({name: (dims, np.asarray(values)) for name, (dims, values) in variables.items()})
        tree[f"/{group}"] = data.assign_coords({str(d): given.get(str(d), np.arange(n)) for d, n in data.sizes.items()})
    return xr.DataTree.from_dict(tree)


def blank(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return values with padding set to NaN, or to -1 where they are whole numbers."""
    return np.where(mask, values, np.nan if values.dtype.kind == "f" else -1)


def rows_of(model: EmpiricalBayes, rows: Rows, way_mask: Tensor) -> dict[str, np.ndarray]:
    """Return `x` (the features), `y`, `mask`, `size` and `way_mask` of one side of every task.

    Args:
        model: whose predictor makes the features.
        rows: support or queries of $T$ tasks; there is no `y` where the labels are absent.
        way_mask: True where a class exists, shape `(T, C)`.
    """
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        x = model.predictor.features(rows.x.to(device), rows.mask.to(device)).double()
    size = torch.ones(rows.mask.shape, dtype=torch.float64) if rows.size is None else rows.size
    found = {"x": x, "y": rows.y, "mask": rows.mask, "size": size, "way_mask": way_mask}
    return {name: value.cpu().numpy() for name, value in found.items() if value is not None}


def side_by_side(run: Callable[..., Any], per_task: int = 1) -> Callable[..., Any]:
    """Return a compiled function that runs chains of tasks side by side, from arrays to arrays `(chain, task, ...)`.

    Chains and tasks are one dimension of the program: it takes half as long to compile as one of two.

    Args:
        run: from the key of a chain, what belongs to its task, and what all tasks share, to arrays.
        per_task: arguments after the keys `(chain, task)` that have a first dimension of tasks; others are shared.
    """
    import jax
    import jax.numpy as jnp

    def every(keys: Any, *given: Any) -> Any:
        chains, tasks = keys.shape[:2]
        own = jax.tree.map(lambda v: jnp.tile(v, (chains, *[1] * (v.ndim - 1))), given[:per_task])
        axes = (0, *[0] * per_task, *[None] * (len(given) - per_task))
        drawn = jax.vmap(run, in_axes=axes)(keys.reshape(-1, *keys.shape[2:]), *own, *given[per_task:])
        return jax.tree.map(lambda v: v.reshape(chains, tasks, *v.shape[1:]), drawn)

    out: Callable[..., Any] = jax.jit(every)
    return out
