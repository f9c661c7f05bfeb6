r"""Maximisation of a function, and an estimate of how much is left to gain.

An optimiser stops where a step gains little, which happens anywhere on a long narrow ridge. What is left to gain is
therefore computed from the function. With gradient $g$ and Hessian $-H$ of a log evidence,

$$ \tfrac12\, g^\top H^{-1} g \quad \text{(nats)} $$

is what Newton's step would gain. Conjugate gradients compute it from products $H v$, by differences of gradients, and
never exceed it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

__all__ = ["ENOUGH", "Maximum", "climb", "gain_left", "shortfall"]

Loss = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]

ENOUGH = 0.01  # nats: less than this is not worth looking for
FAR = 1e15  # stands for a loss that cannot be computed
MEMORY = 50  # steps that the optimiser remembers
ROUND = 500  # iterations, after which it starts with an empty memory
FINER = 1e-5, 1e-7, 1e-9  # relative change at which a round ends: no finer than needed
STEP = 1e-5  # of the differences of gradients
PRODUCTS = 60  # with the Hessian, at most
PATIENCE = 5  # of them in a row that add next to nothing
DOWN = 1e-3  # curvature below minus this, in nats: no maximum here, so look around
AROUND = 1.0, 0.3, 0.1, 0.03  # distances at which to look


class Maximum(NamedTuple):
    """Where an ascent ended.

    Args:
        at: the parameters, shape `(D,)`.
        left: what Newton's step would still gain in nats; infinite where there is no maximum nearby.
        iterations: of the optimiser.
    """

    at: NDArray[np.float64]
    left: float
    iterations: int

    @property
    def converged(self) -> bool:
        """Whether too little is left to gain to continue."""
        return self.left < ENOUGH


def climb(
    loss: Loss,
    start: NDArray[np.float64],
    max_iterations: int,
    bounds: optimize.Bounds | None = None,
    enough: float = ENOUGH,
) -> Maximum:
    """Minimise a loss by L-BFGS, in rounds until next to nothing is left to gain or the iterations are used up.

    Args:
        loss: value and gradient; what is not finite is too far.
        start: parameters, shape `(D,)`.
        max_iterations: of all rounds together.
        bounds: of each parameter, two of shape `(D,)`; none by default.
        enough: nats that are next to nothing.
    """
    bounds = optimize.Bounds(np.full(len(start), -np.inf), np.inf) if bounds is None else bounds

    def safe(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, gradient = loss(at)
        # A step too far for positive definite precisions: the line search takes a shorter one.
        good = math.isfinite(value) and bool(np.isfinite(gradient).all())
        return (value - first, gradient) if good else (FAR, np.zeros_like(at))

    at, left, used = start, math.inf if len(start) else 0.0, 0
    first = 0.0
    options = {"maxls": 50, "gtol": 1e-7, "maxcor": MEMORY, "maxfun": 10 * max_iterations}
    for finer in itertools.chain(FINER, itertools.repeat(FINER[-1])):
        if not len(at) or used >= max_iterations:
            break
        first = loss(at)[0]  # changes are relative to what a round gains: labels may have any unit
        first = first if math.isfinite(first) else 0.0
        here = options | {"maxiter": min(ROUND, max_iterations - used), "ftol": finer}
        found = optimize.minimize(safe, at, jac=True, method="L-BFGS-B", bounds=bounds, options=here)
        moved = not np.array_equal(at, found.x)
        at, used = found.x, used + max(int(found.nit), 1)
        left, there = _ahead(loss, at, (at > bounds.lb) & (at < bounds.ub))
        if left < enough or not (moved or finer > FINER[-1]):
            break
        at = there
    return Maximum(at, left, used)


def gain_left(loss: Loss, at: NDArray[np.float64]) -> float:
    """Return the gain of Newton's step in nats, or of a step along the curvature where it is not that of a maximum.

    Examples:
        >>> def loss(x):  # a narrow valley
        ...     return float(x[0] ** 2 + 1e4 * x[1] ** 2), np.array([2 * x[0], 2e4 * x[1]])
        >>> round(gain_left(loss, np.array([3.0, 0.01])), 3)
        10.0
        >>> def loss(x):  # a saddle
        ...     return float(x[0] ** 2 - x[1] ** 2), np.array([2 * x[0], -2 * x[1]])
        >>> round(gain_left(loss, np.array([0.0, 1e-9])), 3)
        1.0
    """
    return _ahead(loss, at, np.ones(len(at), dtype=bool))[0]


def shortfall(left: float) -> str:
    """Say what is left to gain.

    Examples:
        >>> shortfall(0.537), shortfall(math.inf)
        ('0.54 nats or more are left to gain', 'it rises without end')
    """
    return f"{left:.2g} nats or more are left to gain" if math.isfinite(left) else "it rises without end"


def _ahead(loss: Loss, at: NDArray[np.float64], free: NDArray[np.bool_]) -> tuple[float, NDArray[np.float64]]:
    """Return what is left to gain in nats over the free parameters, and where to go on from."""
    value, here = loss(at)
    residual = np.where(free, -here, 0.0)
    if not (math.isfinite(value) and np.isfinite(residual).all()):
        return math.inf, at
    direction, square, gained, idle = residual, float(residual @ residual), 0.0, 0
    for _ in range(min(PRODUCTS, int(free.sum()))):
        length = math.sqrt(float(direction @ direction))
        if length == 0:
            break
        unit = direction / length
        product = np.where(free, loss(at + STEP * unit)[1] - here, 0.0) / STEP
        curvature, along = float(unit @ product), float(residual @ unit)
        if not math.isfinite(curvature):
            return math.inf, at
        if curvature < -DOWN:
            around = [at + sign * far * unit for far in AROUND for sign in (1, -1)]
            drop, index = max((value - loss(there)[0], -i) for i, there in enumerate(around))
            return (max(gained, drop), around[-index]) if drop > 0 else (gained, at)
        if curvature <= 0:
            break
        step = along / curvature
        gained += along * step / 2
        residual = residual - step * product
        new = float(residual @ residual)
        idle = idle + 1 if along * step < ENOUGH / 1e3 else 0
        if new == 0 or idle == PATIENCE:
            break
        direction, square = residual + new / square * direction, new
    return gained, at
