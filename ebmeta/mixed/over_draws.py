"""Coefficients, effects and linear predictors of a fit, over draws of the parameters where there are any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ebmeta.likelihood.base import Likelihood
from ebmeta.mixed.predictive import skewed
from ebmeta.mixed.propagation import Draws
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.rows import Rows

__all__ = ["averaged", "common_of", "effects_of", "linear_of", "marginal_of", "whole_of"]

Array = NDArray[np.float64]


def common_of(engine: Engine, at: Array, draws: Draws | None) -> tuple[Array, Array]:
    """Return the coefficients of the common terms and their covariance, shapes `(P,)` and `(P, P)`.

    Args:
        engine: the criterion.
        at: its maximum.
        draws: of the parameters.
    """
    if draws is None:
        return engine.coefficients(at), engine.common_covariance(at)
    each, weight = np.stack([engine.coefficients(one) for one in draws.at]), draws.weight
    inner = sum(w * engine.common_given(one) for one, w in zip(draws.at, weight, strict=True))
    mean = weight @ each
    return mean, inner + np.einsum("d,dp,dq->pq", weight, each - mean, each - mean)


def effects_of(engine: Engine, at: Array, draws: Draws | None) -> list[Effects]:
    """Return the effects of the groups of each grouping factor; arguments as for `common_of`."""
    if draws is None:
        return engine.effects(at)
    each = zip(draws.weight, draws.at, strict=True)
    return averaged((float(w), engine.effects(one), engine.common_given(one)) for w, one in each)


def marginal_of(engine: Engine, at: Array, draws: Draws | None, effects: list[Effects]) -> list[Effects]:
    r"""Return the effects of the groups with what the coefficients of the common terms leave open.

    $$\operatorname{Var}(b_g \mid y) = \operatorname{Var}(b_g \mid y, \beta) + S_g \operatorname{Var}(\beta) S_g^\top$$

    Args:
        engine: the criterion.
        at: its maximum.
        draws: of the parameters; effects over draws have it.
        effects: as of `effects_of`, with slopes $S_g$ in the coefficients.
    """
    if draws is not None:
        return effects
    common = engine.common_covariance(at)
    more = [np.einsum("gkp,pq,glq->gkl", each.slope, common, each.slope, optimize=True) for each in effects]
    return [each._replace(covariance=each.covariance + own) for each, own in zip(effects, more, strict=True)]


def linear_of(
    engine: Engine, at: Array, draws: Draws | None, effects: list[Effects], rows: Rows
) -> tuple[Sequence[Likelihood], Array, Array, Array]:
    """Return likelihoods, weights, and location and variance of the linear predictor of new rows, for each draw.

    Args:
        engine: the criterion.
        at: its maximum.
        draws: of the parameters.
        effects: of the known groups at the maximum, which draws do not need.
        rows: rows whose new groups are numbered after the known ones.
    """
    if draws is None:
        return skewed([engine.likelihood(at)], np.ones(1), engine.linear(at, effects, rows)[None])
    rows, groups = _asked(engine, rows)
    each = np.stack(
        [engine.linear(one, engine.effects(one, None, groups), rows, _root_given(engine, one)) for one in draws.at]
    )
    return skewed([engine.likelihood(one) for one in draws.at], draws.weight, each)


def _asked(engine: Engine, rows: Rows) -> tuple[Rows, NDArray[np.int64] | None]:
    """Return rows whose known groups are those that they ask about, and the numbers of these; None for all."""
    if len(engine.factors) > 1:  # whose effects depend on those of all others
        return rows, None
    own, number = rows.groupings[0], len(engine.rows.groupings[0].labels)
    known = own.codes < number
    asked = np.unique(np.append(own.codes[known], 0))  # one at least
    codes = np.where(known, np.searchsorted(asked, own.codes), own.codes - number + len(asked))
    return rows.regrouped(0, codes, np.concatenate([own.labels[asked], own.labels[number:]])), asked


def _root_given(engine: Engine, at: Array) -> Array | None:
    """Return a factor of the covariance of the coefficients, the parameters known; None where these give them."""
    return engine.common_root(at) if engine.common_given(at).any() else None


def whole_of(
    engine: Engine, at: Array, effects: list[Effects], rows: Rows
) -> tuple[Sequence[Likelihood], Array, Array, Array]:
    """Return the same as `linear_of` without draws, with what the coefficients of the common terms leave open."""
    linear = engine.linear(at, effects, rows, common=engine.common_root(at))
    return skewed([engine.likelihood(at)], np.ones(1), linear[None])


def averaged(draws: Iterable[tuple[float, list[Effects], Array]]) -> list[Effects]:
    """Return means and covariances of effects over draws of the parameters, of which one at a time is kept.

    Args:
        draws: of each draw its weight, in all 1, the effects of each grouping factor, and the covariance of the
            coefficients.
    """
    first, sums = list[Effects](), list[tuple[Array, Array]]()
    for weight, members, common in draws:
        first = first or members
        parts = [_about(own, start.mean, common, weight) for own, start in zip(members, first, strict=True)]
        sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, parts, strict=True)] if sums else parts
    return [
        Effects(start.mean + off, square - np.einsum("gk,gl->gkl", off, off), start.slope)
        for start, (off, square) in zip(first, sums, strict=True)
    ]


def _about(effects: Effects, start: Array, common: Array, weight: float) -> tuple[Array, Array]:
    """Return the weighted first and second moments of effects about a start, shapes `(G, K)` and `(G, K, K)`."""
    off = effects.mean - start
    told = np.einsum("gkp,pq,glq->gkl", effects.slope, common, effects.slope, optimize=True)
    return weight * off, weight * (effects.covariance + told + np.einsum("gk,gl->gkl", off, off))
