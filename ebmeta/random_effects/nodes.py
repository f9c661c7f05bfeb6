"""Nodes of an average over a standard normal distribution of some dimensions."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from scipy.stats import multivariate_normal, multivariate_t

__all__ = ["CHECKS", "HEAVY", "Nodes", "check_nodes", "log_heavy", "nodes_of", "rough_nodes"]

Array = NDArray[np.float64]
#: Nodes of one dimension for a tensor rule of one, two or three, from the coarsest.
SIDES = {1: (11, 25, 51), 2: (7, 13, 21), 3: (5, 9, 13), 4: (4, 6, 8), 5: (3, 4, 6)}
#: Nodes of one dimension of the rules that check these.
CHECKS = {1: (17, 35), 2: (11, 17), 3: (7, 11), 4: (5, 7), 5: (4, 5)}
ROUGH, MOST_ROUGH = 3, 4  # nodes of a dimension for first steps, and dimensions that they do for
DRAWS = (256, 2048, 8192)  # where a tensor rule has too many nodes
TAILS = 10.0  # degrees of freedom of draws for labels whose effects may have heavier tails than a normal one
EDGE = 1e-12  # of probability
HEAVY, SIDE, CHECK = 3, 51, 35  # fineness of the rule for heavy tails, its points, and those of the one that checks it
FREEDOM, ENDS = 3.0, 6.0  # of the distribution of its points, which reach to sinh(6), about 200 widths


class Nodes(NamedTuple):
    """A rule.

    Args:
        points: shape `(S, K)`.
        log_weights: shape `(S,)`; the weights add up to 1, of draws with tails about so.
        words: what it is.
        checked: what is said of the rule that checks it.
        heavy: whether the points are of a $t$ distribution of `FREEDOM` degrees of freedom, around several maxima.
    """

    points: Array
    log_weights: Array
    words: str
    checked: str = "a finer rule differs"
    heavy: bool = False


@cache
def rough_nodes(num_dims: int, tails: bool = False) -> Nodes:
    """Return a rule that leads near a maximum: three nodes a dimension, where that is much cheaper than `nodes_of`."""
    return _tensor(num_dims, ROUGH) if 1 < num_dims <= MOST_ROUGH else nodes_of(num_dims, 0, tails)


@cache
def check_nodes(num_dims: int, fineness: int, tails: bool = False) -> Nodes:
    """Return a rule that tells how exact that of `nodes_of` is: a little finer; of draws others, in the end as many."""
    if fineness == HEAVY:
        return _heavy(CHECK)
    if num_dims in CHECKS:
        return _tensor(num_dims, CHECKS[num_dims][fineness])
    return _draws(num_dims, DRAWS[min(fineness + 1, len(DRAWS) - 1)], tails, 1)


def _tensor(num_dims: int, side: int) -> Nodes:
    points, weights = np.polynomial.hermite_e.hermegauss(side)
    grid = np.stack([v.ravel() for v in np.meshgrid(*[points] * num_dims, indexing="ij")], 1)
    product = sum(v.ravel() for v in np.meshgrid(*[np.log(weights / weights.sum())] * num_dims, indexing="ij"))
    return Nodes(grid, np.asarray(product), f"adaptive Gauss-Hermite quadrature, {len(grid)} nodes a group")


def _heavy(side: int) -> Nodes:
    """Return even points of the inverse hyperbolic sine, which are as dense in tails as near a maximum."""
    t = np.linspace(-ENDS, ENDS, side)
    log_weights = log_heavy(np.sinh(t)) + np.log(np.cosh(t))
    words = f"quadrature over heavy tails around {side} nodes of each of five places a group"
    return Nodes(np.sinh(t)[:, None], log_weights - np.logaddexp.reduce(log_weights), words, heavy=True)


def log_heavy(z: Array) -> Array:
    """Return the log density of points of a heavy rule, over the constant of a normal one."""
    constant = math.lgamma((FREEDOM + 1) / 2) - math.lgamma(FREEDOM / 2) + math.log(2 / FREEDOM) / 2
    out: Array = constant - (FREEDOM + 1) / 2 * np.log1p(z**2 / FREEDOM)
    return out


@cache
def nodes_of(num_dims: int, fineness: int = 0, tails: bool = False) -> Nodes:
    """Return a rule of a number of dimensions, finer with `fineness` from 0 to 2; 3 is for heavy tails.

    Args:
        num_dims: number of dimensions.
        fineness: see above.
        tails: whether draws, which a rule of six dimensions or more has, are those of a Student-t.

    Examples:
        >>> rule = nodes_of(2)
        >>> len(rule.points), round(float(np.exp(rule.log_weights) @ rule.points[:, 0] ** 4), 6)
        (49, 3.0)
    """
    if fineness == HEAVY:
        return _heavy(SIDE)
    if num_dims in SIDES:
        return _tensor(num_dims, SIDES[num_dims][fineness])
    return _draws(num_dims, DRAWS[fineness], tails, 0)


def _draws(num_dims: int, number: int, tails: bool, seed: int) -> Nodes:
    """Return even draws of a normal distribution, or of a Student-t with weights that make a normal one of it."""
    sobol = torch.quasirandom.SobolEngine(num_dims + tails, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    uniform = sobol.draw(number).double().clamp(EDGE, 1 - EDGE)
    points = torch.special.ndtri(uniform[:, :num_dims]).numpy()
    log_weights = np.full(number, -np.log(number))
    if tails:
        points = points * np.sqrt(TAILS / special.chdtri(TAILS, uniform[:, -1].numpy()))[:, None]
        log_weights += multivariate_normal(np.zeros(num_dims)).logpdf(points)
        log_weights -= multivariate_t(np.zeros(num_dims), df=TAILS).logpdf(points)
    return Nodes(points, log_weights, f"importance weights of {number} even draws a group", "other draws differ")
