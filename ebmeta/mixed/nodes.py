"""Nodes of an average over a standard normal distribution of some dimensions."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Nodes", "check_nodes", "nodes_of", "rough_nodes"]

Array = NDArray[np.float64]
#: Nodes of one dimension for a tensor rule of one, two or three, from the coarsest.
SIDES = {1: (11, 25, 51), 2: (7, 13, 21), 3: (5, 9, 13)}
CHECKS = {1: (17, 35), 2: (11, 17), 3: (7, 11)}  # nodes of one dimension of the rules that check these
ROUGH, MOST_ROUGH = 3, 4  # nodes of a dimension for first steps, and dimensions that they do for
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


@cache
def rough_nodes(num_dims: int) -> Nodes:
    """Return a rule that leads near a maximum: three nodes a dimension, where that is much cheaper than `nodes_of`."""
    return _tensor(num_dims, ROUGH) if 1 < num_dims <= MOST_ROUGH else nodes_of(num_dims, 0)


@cache
def check_nodes(num_dims: int, fineness: int) -> Nodes:
    """Return a rule that tells how exact that of `nodes_of` is: a little finer."""
    return _tensor(num_dims, CHECKS[num_dims][fineness]) if num_dims in CHECKS else nodes_of(num_dims, fineness + 1)


def _tensor(num_dims: int, side: int) -> Nodes:
    points, weights = np.polynomial.hermite_e.hermegauss(side)
    grid = np.stack([v.ravel() for v in np.meshgrid(*[points] * num_dims, indexing="ij")], 1)
    product = sum(v.ravel() for v in np.meshgrid(*[np.log(weights / weights.sum())] * num_dims, indexing="ij"))
    return Nodes(grid, np.asarray(product), f"adaptive Gauss-Hermite quadrature, {len(grid)} nodes a group")


@cache
def nodes_of(num_dims: int, fineness: int = 0) -> Nodes:
    """Return a rule of a number of dimensions, the finer the larger `fineness`, from 0 to 2.

    Examples:
        >>> rule = nodes_of(2)
        >>> len(rule.points), round(float(np.exp(rule.log_weights) @ rule.points[:, 0] ** 4), 6)
        (49, 3.0)
    """
    if num_dims in SIDES:
        return _tensor(num_dims, SIDES[num_dims][fineness])
    sobol = torch.quasirandom.SobolEngine(num_dims, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    uniform = sobol.draw(DRAWS[fineness]).double().clamp(EDGE, 1 - EDGE)
    normal = torch.special.ndtri(uniform).numpy()
    return Nodes(
        normal, np.full(len(normal), -np.log(len(normal))), f"importance weights of {len(normal)} even draws a group"
    )
