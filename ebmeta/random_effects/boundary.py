r"""Which spreads the data cannot tell from 0, by likelihood ratios.

Under a spread of 0 the ratio of a term with $c$ correlations is half $\chi^2_c$ and half $\chi^2_{c + 1}$, since the
spread cannot be negative. A spread many standard errors above 0 needs no test. Source: Stram and Lee 1994, Variance
components testing in the longitudinal mixed effects model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ebmeta.random_effects.ascent import Optimum
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.engine import Engine

__all__ = ["Boundary", "boundary_tests", "without_spread"]

Array = NDArray[np.float64]
CLEAR = 4.0  # standard errors above 0: no test is needed


class Boundary(NamedTuple):
    """A test of one spread against 0.

    Args:
        factor: grouping factor.
        term: random term.
        gain: log likelihood that the spread brings, in nats; infinite where none was tested.
        p_value: probability of as large a gain without the spread.
    """

    factor: str
    term: str
    gain: float
    p_value: float


def boundary_tests(engine: Engine, optimum: Optimum, spreads: pd.DataFrame) -> list[Boundary]:
    """Return a test of each spread.

    Args:
        engine: the criterion.
        optimum: its maximum.
        spreads: table of the components.
    """
    out, full, top = [], engine, optimum
    for place, factor in enumerate(engine.factors):
        for k, term in enumerate(factor.terms):
            estimate, error = spreads.loc[(factor.name, f"sd({term})"), ["estimate", "std_error"]].to_numpy(dtype=float)
            if estimate > CLEAR * error > 0:
                out.append(Boundary(factor.name, term, np.inf, 0.0))
                continue
            if full.hyperprior:  # the ratio is one of likelihoods
                full = engine.rebuild(engine.rows, engine.factors)
                top = full.maximise(optimum.at)
            gain = max(without_spread(full, top, place, k).value - top.value, 0.0)
            pairs = sum(k in pair for pair in factor.pairs())
            tails = [float(stats.chi2.sf(2 * gain, c)) if c else float(gain <= 0) for c in (pairs, pairs + 1)]
            out.append(Boundary(factor.name, term, gain, sum(tails) / 2))
    return out


def without_spread(engine: Engine, optimum: Optimum, place: int, term: int) -> Optimum:
    """Return the maximum without the spread of a term.

    Args:
        engine: the criterion, a likelihood.
        optimum: its maximum.
        place: number of the grouping factor.
        term: number of its random term.
    """
    factor = engine.factors[place]
    if len(factor.terms) == 1:
        held = np.zeros(len(optimum.at), dtype=bool)
        held[: engine.num_theta] = np.concatenate([np.full(f.size, f is factor) for f in engine.factors])
        return engine.maximise(optimum.at, held)
    grouping = engine.rows.groupings[place]
    z = np.delete(grouping.z, term, 1)
    factors = list(engine.factors)
    factors[place] = factor.without(term, z)
    rest = engine.rebuild(engine.rows.with_terms(place, z), factors)
    thetas = engine.thetas(optimum.at)
    thetas[place] = _shared(factor, factors[place], thetas[place], grouping.z, term)
    start = np.concatenate([*thetas, optimum.at[engine.num_theta :]])
    return rest.maximise(start, least=optimum.value)


def _shared(factor: Factor, rest: Factor, theta: Array, z: Array, term: int) -> Array:
    """Return parameters without a term, the other terms of its block taking over what they can of it."""
    lower = factor.in_units(theta, 1.0)
    part = next(part for part in factor.slices if part.start <= term < part.stop)
    others = [k for k in range(part.start, part.stop) if k != term]
    lower[others] += np.outer(np.linalg.lstsq(z[:, others], z[:, term], rcond=None)[0], lower[term])
    return rest.triangular(rest.basis @ np.delete(lower, term, 0))
