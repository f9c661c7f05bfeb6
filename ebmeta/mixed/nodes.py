"""Nodes of an average over a standard normal distribution of some dimensions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Nodes", "nodes_of"]

Array = NDArray[np.float64]
#: Nodes of one dimension for a tensor rule of one, two or three, from the coarsest.
SIDES = {1: (11, 25, 51), 2: (7, 13, 21), 3: (5, 9, 13)}
DRAWS = (256, 2048, 8192)  # where a tensor rule has too many nodes
EDGE = 1e-12  # of probability


class Nodes(NamedTuple):
    """A rule.

    Args:
        points: shape `(S, K)`.
        log_weights: shape `(S,)`; the weights add up to 1.
        words: what it is.
    """

    points: Array
    log_weights: Array
    words: str


def nodes_of(num_dims: int, fineness: int = 0) -> Nodes:
    """Return a rule of a number of dimensions, the finer the larger `fineness`, from 0 to 2.

    Examples:
        >>> rule = nodes_of(2)
        >>> len(rule.points), round(float(np.exp(rule.log_weights) @ rule.points[:, 0] ** 4), 6)
        (49, 3.0)
    """
    if num_dims in SIDES:
        side = SIDES[num_dims][fineness]
        points, weights = np.polynomial.hermite_e.hermegauss(side)
        grid = np.stack([v.ravel() for v in np.meshgrid(*[points] * num_dims, indexing="ij")], 1)
        product = sum(v.ravel() for v in np.meshgrid(*[np.log(weights / weights.sum())] * num_dims, indexing="ij"))
        return Nodes(grid, np.asarray(product), f"adaptive Gauss-Hermite quadrature, {len(grid)} nodes a group")
    sobol = torch.quasirandom.SobolEngine(num_dims, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    uniform = sobol.draw(DRAWS[fineness]).double().clamp(EDGE, 1 - EDGE)
    normal = torch.special.ndtri(uniform).numpy()
    return Nodes(
        normal, np.full(len(normal), -np.log(len(normal))), f"importance weights of {len(normal)} even draws a group"
    )
