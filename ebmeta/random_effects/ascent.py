"""A criterion of some parameters, and the way to its maximum."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

__all__ = ["Criterion", "Expansion", "Optimum", "jacobian"]

Array = NDArray[np.float64]

FAR = 1e15  # stands for a loss that cannot be computed
STEP = 1e-4  # of the differences of gradients that give curvatures
ENOUGH = 1e-6  # nats that are next to nothing
CLOSE = 1e-3  # nats that a maximum may leave
ROUNDS = 10  # of an optimiser, at most
POLISH, HALVINGS = 20, 15  # Newton steps, and halvings of one, at most
NOISE = 0.05  # nats that a value may rise by where the slope still falls: the rule of an average is rough
SINGULAR = 1e-10  # of the largest curvature: a direction that nothing is known of


class Optimum(NamedTuple):
    """Where an ascent ended.

    Args:
        at: the parameters, shape `(D,)`.
        value: minus the log criterion in nats.
        converged: whether Newton's step would gain next to nothing.
        evaluations: of the criterion.
    """

    at: Array
    value: float
    converged: bool
    evaluations: int


class Expansion(NamedTuple):
    """A criterion near some parameters.

    Args:
        value: minus the log criterion in nats.
        gradient: of it, shape `(D,)`.
        hessian: of it, shape `(D, D)`.
    """

    value: float
    gradient: Array
    hessian: Array

    def or_far(self) -> Expansion:
        """Return the same, or a loss above all others where it could not be computed."""
        if all(np.isfinite(part).all() for part in self):
            return self
        return Expansion(FAR, np.zeros(len(self.gradient)), np.eye(len(self.gradient)))


class Criterion(ABC):
    """A function of some parameters, to be made as large as can be."""

    #: Number of parameters.
    num_parameters: int
    #: Whether a Hessian costs about as much as a gradient, so that Newton's steps lead to the maximum from the start.
    newton: ClassVar[bool] = False
    #: Nats that are next to nothing: an ascent ends where one of Newton's steps promises no more.
    enough: ClassVar[float] = ENOUGH

    def __init__(self) -> None:
        self._curved: tuple[Array, Array] | None = None

    @abstractmethod
    def loss(self, at: Array) -> tuple[float, Array]:
        """Return minus the log criterion in nats, and its gradient."""

    def lower_bounds(self) -> Array:
        """Return the least values of the parameters."""
        return np.full(self.num_parameters, -math.inf)

    def upper_bounds(self) -> Array:
        """Return the largest values of the parameters."""
        return np.full(self.num_parameters, math.inf)

    def reach(self) -> Array:
        """Return how far one of Newton's steps may go."""
        return np.full(self.num_parameters, math.inf)

    def expansion(self, at: Array) -> Expansion:
        """Return the criterion near some parameters."""
        return Expansion(*self.loss(at), self.curvature(at))

    def curvature(self, at: Array) -> Array:
        """Return the Hessian of the loss, shape `(D, D)`."""
        if self._curved is None or not np.array_equal(self._curved[0], at):
            self._curved = at.copy(), self._hessian(at)
        return self._curved[1]

    def _hessian(self, at: Array) -> Array:
        return jacobian(lambda point: self.loss(point)[1], at)

    def ascend(self, begin: Array, held: NDArray[np.bool_]) -> Optimum:
        """Go uphill by Newton's steps where these are cheap, and otherwise, or where they fail, first without."""
        found = Optimum(begin, math.inf, False, 0)
        if self.newton:
            found = self.polished(found, held)
        if found.converged:
            return found
        other = self._descend(begin, held)
        return self.polished(other._replace(evaluations=found.evaluations + other.evaluations), held)

    def polished(self, found: Optimum, held: NDArray[np.bool_], enough: float | None = None) -> Optimum:
        """Go on by Newton's steps until one would gain next to nothing.

        Args:
            found: where to start.
            held: True where a parameter stays as it is.
            enough: nats that are next to nothing, in place of those of the criterion.
        """
        enough = self.enough if enough is None else enough
        at, evaluations = found.at, found.evaluations + self._price
        here = self.expansion(at)
        step, gain = self._step(at, here, held)
        for _ in range(POLISH):
            if not enough < gain < math.inf:
                break
            for share in 0.5 ** np.arange(HALVINGS):
                new = np.clip(at + share * step, self.lower_bounds(), self.upper_bounds())
                evaluations += self._price
                there = self.expansion(new)
                ahead, left = self._step(new, there, held)
                if there.value < here.value or (there.value < here.value + NOISE and left < gain):
                    break
            else:
                break
            at, here, step, gain = new, there, ahead, left
        return Optimum(at, here.value, abs(gain) < CLOSE, evaluations)

    def _step(self, at: Array, here: Expansion, held: NDArray[np.bool_]) -> tuple[Array, float]:
        """Return Newton's step within reach, and the nats that a whole one promises."""
        low, high = self.lower_bounds(), self.upper_bounds()
        free = ~held & ((at > low) | (here.gradient < 0)) & ((at < high) | (here.gradient > 0))
        step, slope = np.zeros(len(at)), here.gradient[free]
        values, vectors = np.linalg.eigh(here.hessian[np.ix_(free, free)])
        bend = np.abs(values).clip(SINGULAR * np.abs(values).max(initial=0.0))  # down from a saddle too
        step[free] = -vectors @ (vectors.T @ slope / bend)
        gain = -float(slope @ step[free]) / 2
        return step / max(1.0, float((np.abs(step) / self.reach()).max())), gain

    def left(self, at: Array) -> float:
        """Return the nats that Newton's step would still gain."""
        return abs(self._step(at, self.expansion(at), np.zeros(len(at), dtype=bool))[1])

    @property
    def _price(self) -> int:
        """Evaluations of the criterion that a Hessian takes."""
        return 1 if self.newton else 2 * self.num_parameters + 1

    def _descend(self, begin: Array, held: NDArray[np.bool_]) -> Optimum:
        at, low, high = begin.copy(), self.lower_bounds()[~held], self.upper_bounds()[~held]
        if held.all():
            return Optimum(at, self.loss(at)[0], True, 1)

        def loss(values: Array) -> tuple[float, Array]:
            at[~held] = values
            value, gradient = self.loss(at)
            return value, gradient[~held]

        options = {"maxiter": 500, "maxls": 50, "ftol": 1e-13, "gtol": 1e-5, "maxcor": 30}
        value, where, evaluations = math.inf, begin[~held], 0
        for _ in range(ROUNDS):  # a step far too long may end a round; the next one has an empty memory
            found = optimize.minimize(
                loss, where, jac=True, method="L-BFGS-B", bounds=optimize.Bounds(low, high), options=options
            )
            gain, value, where = value - float(found.fun), float(found.fun), found.x
            evaluations += int(found.nfev)
            if gain < ENOUGH or (
                found.success and np.abs(found.jac[(where > low) & (where < high)]).max(initial=0) < 1
            ):
                break
        at[~held] = where
        return Optimum(at, value, False, evaluations)


def jacobian(gradient: Callable[[Array], Array], at: Array) -> Array:
    """Return the Hessian of a function from differences of its gradient, shape `(D, D)`."""
    columns = []
    for place, size in enumerate(STEP * np.maximum(np.abs(at), 1.0)):
        step = size * np.eye(len(at))[place]
        columns.append((gradient(at + step) - gradient(at - step)) / (2 * size))
    both: Array = np.stack(columns)
    return (both + both.T) / 2
