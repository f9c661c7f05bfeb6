r"""Newton's steps within a region where the second-order expansion is trusted.

$$ \min_s \; g^\top s + \tfrac12 s^\top H s, \qquad \lVert s \rVert \le \rho, $$

with $\rho$ larger where an expansion has foretold the gain of its step, and smaller where it has not. A saddle is left
along its most negative curvature, also where the slope is 0. Directions without slope and curvature are no obstacle.
Source: Nocedal and Wright 2006, Numerical Optimization, chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ebmeta.random_effects.ascent import Expansion, Optimum

__all__ = ["descend_by_trust"]

Array = NDArray[np.float64]
STEPS = 300  # at most
FIRST, LEAST, MOST = 1.0, 1e-9, 1e9  # radius of the region at first, one that holds no step any more, and the largest
POOR, GOOD = 0.25, 0.75  # shares of the foretold gain: the region shrinks and grows
SHRINK, GROW = 0.25, 3.0
EDGE = 0.8  # of the radius: a step as long was held by it
SINGULAR = 1e-12  # of the largest curvature: a direction that nothing is known of
HALVINGS, CLOSE = 80, 1e-3  # of the interval of a multiplier, and its relative width at last


def descend_by_trust(
    expand: Callable[[Array], Expansion], begin: Array, free: NDArray[np.bool_], enough: float
) -> Optimum:
    """Go downhill until a step promises next to nothing.

    Args:
        expand: a function near some parameters.
        begin: parameters to start from, shape `(D,)`.
        free: False where a parameter stays as it is, shape `(D,)`.
        enough: nats that are next to nothing.

    Examples:
        >>> def saddle(x):  # minima at 0 and -1, 1
        ...     bend = np.diag([2.0, 12 * x[1] ** 2 - 4])
        ...     return Expansion(x[0] ** 2 + (x[1] ** 2 - 1) ** 2, np.array([2 * x[0], 4 * x[1] ** 3 - 4 * x[1]]), bend)
        >>> np.abs(descend_by_trust(saddle, np.array([1.0, 0.0]), np.array([True, True]), 1e-12).at).round(5)
        array([0., 1.])
    """
    at, here, radius, evaluations, promised = begin.copy(), expand(begin), FIRST, 1, np.inf
    for _ in range(STEPS):
        values, vectors = np.linalg.eigh(here.hessian[np.ix_(free, free)])
        slope = vectors.T @ here.gradient[free]
        step = _step_within(values, slope, radius)
        promised, length = -float(slope @ step + values @ step**2 / 2), float(np.linalg.norm(step))
        if promised < enough or radius < LEAST:
            break
        new = at.copy()
        new[free] += vectors @ step
        there, evaluations = expand(new), evaluations + 1
        share = (here.value - there.value) / promised
        if share < POOR:
            radius = SHRINK * length
        elif share > GOOD and length > EDGE * radius:
            radius = min(GROW * radius, MOST)
        if there.value < here.value:
            at, here = new, there
    return Optimum(at, here.value, promised < enough and radius >= LEAST, evaluations)


def _step_within(values: Array, slope: Array, radius: float) -> Array:
    """Return the best step in the basis of the curvature's directions.

    Args:
        values: curvatures, from the least, shape `(D,)`.
        slope: in the same directions.
        radius: its greatest length.
    """
    least = SINGULAR * float(np.abs(values).max(initial=0.0))
    if values.min(initial=0.0) >= -least:
        known = values > least
        newton = np.where(known, -slope / np.where(known, values, 1.0), 0.0)
        if np.linalg.norm(newton) <= radius:
            return newton
    low = max(0.0, -float(values[0])) + least
    step: Array = -slope / (values + low)
    if (length := float(np.linalg.norm(step))) < radius:  # no slope along the most negative curvature
        step[0] += np.sqrt(radius**2 - length**2)
        return step
    high = low + float(np.linalg.norm(slope)) / radius
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if np.linalg.norm(slope / (values + middle)) > radius else (low, middle)
        if high - low < CLOSE * high:
            break
    return np.asarray(-slope / (values + high))
