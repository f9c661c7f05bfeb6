r"""Intervals by the profile of the likelihood.

The interval of a quantity $c(\theta)$ holds all its values with which some parameters are likely enough,

$$ \Big[ \min c(\theta), \; \max c(\theta) \Big] \quad \text{over} \quad
   \log p(y \mid \hat\theta) - \log p(y \mid \theta) \le \tfrac12 \chi^2_{1, \text{coverage}} . $$

Coefficients of normal labels are no parameters of the criterion: the others known, a coefficient that is $t$ standard
errors off costs $\tfrac12 t^2$ nats, so that $t$ is one parameter more. A spread has the end 0 where the model without
its term is likely enough, and its correlations may then be anything. Source: Venzon and Moolgavkar 1988, A method for
computing profile-likelihood-based confidence intervals.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from ebmeta.foundation.checks import found
from ebmeta.foundation.telling import tell
from ebmeta.mixed.tables import component_values
from ebmeta.random_effects.ascent import Optimum
from ebmeta.random_effects.boundary import Boundary
from ebmeta.random_effects.engine import Engine

__all__ = ["COMMON", "Region", "profiled"]

Array = NDArray[np.float64]
Key = tuple[str, str]
Quantity = Callable[[Array], float]  # of a point of a region
Ends = tuple[float | None, float | None]  # of an interval, None where they are not known

COMMON = "common"  # what coefficients have in place of a grouping factor
STEP = 1e-5  # of the differences that give the slope of a quantity, of the size of the region
WIDEST = 5.0  # half length of the region in a direction that little is known of, in units of parameters
FARTHEST = 100.0  # from the maximum, in sizes of the region
CLOSE = 1e-3  # of half the length of an interval: an end may be so far off
FLAT = 1e-8  # slope of a quantity that has none
ALIKE = 1 - 1e-6  # a correlation that is 1
LEAST = 1e-9  # nats of a region
STEPS, PATIENT = 50, 15  # of the optimiser, at most; and steps after which an end that is close enough is taken
ENOUGH = 1e-7  # of half the length of an interval: an optimiser that gains no more has ended


class Region:
    r"""Parameters that are likely enough, about a ball of radius 1 around the maximum.

    Args:
        engine: the criterion, a likelihood.
        optimum: its maximum.
        coverage: of the intervals.
    """

    def __init__(self, engine: Engine, optimum: Optimum, coverage: float) -> None:
        self.engine, self.optimum = engine, optimum
        self.nats = max(float(stats.chi2.ppf(coverage, 1)) / 2, LEAST)
        self.reach = math.sqrt(2 * self.nats)
        # Parameters that ran off, on the scale of logarithms, and known ones.
        self.ended = engine.unknown(optimum.at) | engine.given(optimum.at)
        self.scale, known = np.diag(np.abs(optimum.at)), np.ix_(~self.ended, ~self.ended)
        values, vectors = np.linalg.eigh(engine.curvature(optimum.at)[known])
        self.scale[known] = vectors * np.minimum(self.reach / np.sqrt(np.abs(values).clip(1e-300)), WIDEST)
        self.low, self.high = engine.lower_bounds(), engine.upper_bounds()
        self.low[: engine.num_theta] = -self.high[: engine.num_theta]  # the sign of a column of a factor says nothing
        self.middle = np.zeros(len(optimum.at) + 1)

    def at(self, point: Array) -> Array:
        """Return the parameters of a point, shape `(D + 1,)`, whose last coordinate is none of them."""
        out: Array = np.clip(self.optimum.at + self.scale @ point[:-1], self.low, self.high)
        return out

    def room(self, point: Array) -> tuple[float, Array]:
        """Return how likely a point is, from 1 at the maximum to 0 at the border, and the slope of that."""
        value, gradient = self.engine.loss(self.at(point))
        slope = np.append(self.scale.T @ gradient / self.nats, 2 * point[-1])
        return 1 - (value - self.optimum.value) / self.nats - float(point[-1]) ** 2, -slope

    def end(self, quantity: Quantity, sign: float) -> float:
        """Return the least or the largest value of a quantity: infinite without an end, NaN where none is found.

        Args:
            quantity: function of a point.
            sign: 1 for the largest, and -1 for the least.
        """
        base, slope = quantity(self.middle), _slope(quantity, self.middle)
        length = float(np.sqrt(slope @ slope))
        axes = [s * axis for axis in np.eye(len(slope)) for s in (-1.0, 1.0)]
        start = sign * slope / length if length > FLAT else max(axes, key=lambda point: sign * quantity(point))
        unit = length if length > FLAT else 1.0
        inside = {"type": "ineq", "fun": lambda p: self.room(p)[0], "jac": lambda p: self.room(p)[1]}
        steps = itertools.count(1)

        def watch(point: Array) -> None:
            if next(steps) >= PATIENT and self._is_end(quantity, sign, point):
                raise _EndError(point)

        try:
            point = optimize.minimize(
                lambda point: -sign * (quantity(point) - base) / unit,
                start,
                jac=lambda point: -sign * _slope(quantity, point) / unit,
                method="SLSQP",
                constraints=inside,
                bounds=[(-FARTHEST, FARTHEST)] * len(start),
                callback=watch,
                options={"maxiter": STEPS, "ftol": ENOUGH},
            ).x
        except _EndError as found:
            point = found.point
        at = self.at(point)
        if (((at == self.low) | (at == self.high)) & ~self.ended).any():
            return sign * math.inf
        return quantity(point) if self._is_end(quantity, sign, point) else math.nan

    def _is_end(self, quantity: Quantity, sign: float, point: Array) -> bool:
        """Return whether a point is on the border, and uphill is straight out."""
        (room, inward), rest = self.room(point), _slope(quantity, point)
        length = max(float(np.sqrt((rest @ rest) * (inward @ inward))), FLAT)
        return abs(room) < CLOSE and -sign * float(rest @ inward) / length > 1 - CLOSE


class _EndError(Exception):
    """Ends an optimiser at a point that is good enough."""

    def __init__(self, point: Array) -> None:
        super().__init__()
        self.point = point.copy()


def profiled(
    region: Region, names: Sequence[str], boundary: Sequence[Boundary], spreads: pd.DataFrame, wanted: Sequence[str]
) -> pd.DataFrame:
    """Return estimate and interval of coefficients and components, by factor and name.

    Args:
        region: parameters that are likely enough.
        names: of the common terms.
        boundary: tests of the spreads against 0.
        spreads: table of the components.
        wanted: names of terms and components; all where there are none.

    Raises:
        ValueError: if there is no such name.
    """
    quantities = _coefficients(region, names) | _components(region)
    known = list(dict.fromkeys(name for _, name in quantities))
    if strange := [name for name in wanted if name not in known]:
        raise ValueError(f"names: expected some of {', '.join(known)}, got {found(strange[0])}")
    ends = _known_ends(region, boundary, spreads)
    rows = {
        key: (quantity(region.middle), *_both_ends(region, quantity, ends.get(key, (None, None))))
        for key, quantity in quantities.items()
        if not wanted or key[1] in wanted
    }
    index = pd.MultiIndex.from_tuples(list(rows), names=["factor", "component"])
    table = pd.DataFrame(list(rows.values()), index=index, columns=["estimate", "lower", "upper"])
    _tell_of_gaps(table)
    return table


def _tell_of_gaps(table: pd.DataFrame) -> None:
    """Warn of ends that were not found."""
    names = [name for _, name in table.index.tolist()]
    gaps = [f"{end} end of {n}" for end in ("lower", "upper") for n, v in zip(names, table[end], strict=True) if v != v]
    if gaps:
        tell(
            f"confint: found no {', no '.join(gaps)} in {STEPS} steps: the likelihood is next to flat, or its maximum "
            "next to a correlation of 1 or -1, as of features far from 0, or of more random terms than so many groups "
            "can tell (centre features, or fit fewer terms; propagate() has intervals of all)"
        )


def _both_ends(region: Region, quantity: Quantity, known: Ends) -> list[float]:
    """Return both ends of an interval; with an end that is 0 or infinite, the other is sought among logarithms."""
    if known in ((0.0, None), (None, math.inf)) and quantity(region.middle) > 0:
        other = region.end(lambda point: math.log(quantity(point)), 1.0 if known[1] is None else -1.0)
        return [math.exp(other) if end is None else end for end in known]
    return [region.end(quantity, s) if end is None else end for end, s in zip(known, (-1.0, 1.0), strict=True)]


def _coefficients(region: Region, names: Sequence[str]) -> dict[Key, Quantity]:
    engine = region.engine

    def value(k: int, point: Array) -> float:
        at = region.at(point)
        error = math.sqrt(engine.common_given(at)[k, k])
        return float(engine.coefficients(at)[k]) + region.reach * float(point[-1]) * error

    return {(COMMON, name): functools.partial(value, k) for k, name in enumerate(names)}


def _components(region: Region) -> dict[Key, Quantity]:
    engine = region.engine

    def value(key: Key, point: Array) -> float:
        at = region.at(point)
        return component_values(engine.factors, engine.thetas(at), *engine.scales(at))[key]

    at = region.optimum.at
    keys = component_values(engine.factors, engine.thetas(at), *engine.scales(at))
    return {key: functools.partial(value, key) for key in keys}


def _known_ends(region: Region, boundary: Sequence[Boundary], spreads: pd.DataFrame) -> dict[Key, Ends]:
    """Return ends of intervals that need no optimiser, None for the others."""
    out: dict[Key, Ends] = {}
    gone = {(test.factor, test.term) for test in boundary if test.gain <= region.nats}
    out |= {(factor, f"sd({term})"): (0.0, None) for factor, term in gone}
    middle = dict(zip(spreads.index.tolist(), spreads["estimate"].to_numpy(dtype=float), strict=True))
    for factor in region.engine.factors:
        for i, j in factor.pairs():
            one, other = factor.terms[i], factor.terms[j]
            key = factor.name, f"cor({one}, {other})"
            if {(factor.name, one), (factor.name, other)} & gone:
                out[key] = (-1.0, 1.0)
            elif abs(middle[key]) > ALIKE:
                out[key] = (-1.0, None) if middle[key] < 0 else (None, 1.0)
    vague = spreads["std_error"].isna().to_numpy()
    for (kind, name), value in itertools.compress(middle.items(), vague):
        if kind == "residual":  # a parameter that ran off to its end
            out[kind, name] = (0.0, None) if value < 1 else (None, math.inf)
    return out


def _slope(quantity: Quantity, point: Array) -> Array:
    steps = STEP * np.eye(len(point))
    return np.array([(quantity(point + step) - quantity(point - step)) / (2 * STEP) for step in steps])
