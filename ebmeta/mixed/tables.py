"""Tables of a fitted mixed model: coefficients, spreads and correlations, and effects of groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats

from ebmeta.mixed.propagation import Draws
from ebmeta.random_effects.covariance import Factor, correlations_of
from ebmeta.random_effects.effects import Effects
from ebmeta.random_effects.engine import Engine

__all__ = [
    "PREDICTED",
    "common_table",
    "component_values",
    "components",
    "components_table",
    "draws_table",
    "effect_table",
    "prediction_table",
    "spread_table",
]

Array = NDArray[np.float64]
STEP = 1e-5  # of the differences that give the slope of a component
ALIKE = 1 - 1e-6  # a correlation that is 1
PREDICTED = ("mean", "sd", "lower", "upper", "mean_lower", "mean_upper")  # columns of predictions
GONE = 1e-6  # of a parameter: a spread that is less of what a unit of one gives is 0


def _z(level: float) -> float:
    return float(special.ndtri((1 + level) / 2))


def common_table(
    names: Sequence[str], beta: Array, covariance: Array, level: float, freedom: Array | None = None
) -> pd.DataFrame:
    """Return estimate, standard error, their ratio and interval of each common term.

    Args:
        names: of the terms.
        beta: estimates, shape `(P,)`.
        covariance: of these.
        level: of the intervals.
        freedom: degrees of freedom of each term, a column `df`, where intervals are those of Student's t.
    """
    se = np.sqrt(np.diag(covariance))
    reach = se * (_z(level) if freedom is None else stats.t.ppf((1 + level) / 2, freedom))
    columns = {"estimate": beta, "std_error": se, "z": beta / se}
    columns |= {} if freedom is None else {"df": freedom}
    columns |= {"lower": beta - reach, "upper": beta + reach}
    return pd.DataFrame(columns, index=pd.Index(list(names), name="term"))


def component_values(
    factors: Sequence[Factor], thetas: Sequence[Array], sigma: float, learned: dict[str, float]
) -> dict[tuple[str, str], float]:
    """Return spreads, correlations and what else the likelihood has learned, by factor and name."""
    values: dict[tuple[str, str], float] = {}
    for factor, theta in zip(factors, thetas, strict=True):
        sd, correlation = correlations_of(factor.covariance(theta, sigma))
        values |= {(factor.name, f"sd({term})"): float(s) for term, s in zip(factor.terms, sd, strict=True)}
        values |= {
            (factor.name, f"cor({factor.terms[i]}, {factor.terms[j]})"): float(correlation[i, j])
            for i, j in factor.pairs()
        }
    return values | {("residual", name): value for name, value in learned.items()}


def components(
    factors: Sequence[Factor], thetas: Sequence[Array], sigma: float, learned: dict[str, float]
) -> pd.Series:
    """Return the same as a series."""
    values = component_values(factors, thetas, sigma, learned)
    index = pd.MultiIndex.from_tuples(list(values), names=["factor", "component"])
    return pd.Series(list(values.values()), index=index, dtype=float)


def _scale(name: str) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Return the scale on which an interval is symmetric, and the way back."""
    return (np.arctanh, np.tanh) if name.startswith("cor(") else (np.log, np.exp)


def spread_table(read: Callable[[Array], pd.Series], at: Array, covariance: Array, level: float) -> pd.DataFrame:
    """Return estimate, standard error and interval of each component.

    Intervals are symmetric on the scale of logarithms, for correlations on that of Fisher; a spread that is not two
    standard errors above 0 has a lower end of 0. A correlation next to a spread of 0, or one that is 1 or -1, may be
    anything, and the interval says so. A component has none where the variance of a parameter that it depends on is
    NaN.

    Args:
        read: components as a function of the parameters.
        at: the parameters, shape `(D,)`.
        covariance: of the parameters.
        level: of the intervals.
    """
    value = read(at)
    spreads = np.array([name.startswith("sd(") for _, name in value.index])
    ends = [(read(at + step).to_numpy(), read(at - step).to_numpy()) for step in STEP * np.eye(len(at))]
    slope = np.nan_to_num(np.stack([(high - low) / (2 * STEP) for high, low in ends], 1))
    unknown, covariance = np.isnan(np.diag(covariance)), np.nan_to_num(covariance)
    se = np.sqrt(np.einsum("ci,ij,cj->c", slope, covariance, slope).clip(0))
    se[(slope[:, unknown] != 0).any(1)] = np.nan
    moved = np.abs(np.stack(ends) - value.to_numpy()).max((0, 1)) / STEP  # spreads of terms have units of their own
    gone = spreads & (value.to_numpy() <= GONE * moved)
    if gone.any():  # a spread of 0 rises on either side
        rise = np.stack([(high + low) / (2 * STEP) for high, low in ends], 1)[gone]
        se[gone] = np.sqrt(np.einsum("ci,i->c", rise**2, np.diag(covariance)))
    rows = []
    for (_, name), v, s in zip(value.index, value.to_numpy(), se, strict=True):
        to, back = _scale(name)
        if not np.isfinite(v + s):
            rows.append((v, np.nan, np.nan, np.nan))
            continue
        if name.startswith("cor(") and (s > 1 or abs(v) > ALIKE):  # next to a spread of 0, or at its end
            rows.append((v, np.nan, -1.0, 1.0))
            continue
        if not name.startswith("cor(") and v <= 2 * s:
            rows.append((v, s, 0.0, v + _z(level) * s))
            continue
        inner = min(v, 1 - 1e-12) if name.startswith("cor(") else v
        width = _z(level) * s / (max(1 - v**2, 1e-12) if name.startswith("cor(") else v)
        low, high = back(to(np.array(max(inner, -1 + 1e-12))) + np.array([-width, width]))
        rows.append((v, s, float(low), float(high)))
    return pd.DataFrame(rows, index=value.index, columns=["estimate", "std_error", "lower", "upper"])


def components_table(engine: Engine, at: Array, draws: Draws | None, level: float) -> pd.DataFrame:
    """Return estimate, standard error and interval of each component of a fit.

    Args:
        engine: the criterion.
        at: its maximum.
        draws: of the parameters, where there are any.
        level: of the intervals.
    """

    def read(point: Array) -> pd.Series:
        return components(engine.factors, engine.thetas(point), *engine.scales(point))

    if draws is not None:
        return draws_table([read(one) for one in draws.at], draws.weight, level)
    return spread_table(read, at, engine.covariance(at), level)


def draws_table(values: Sequence[pd.Series], weight: Array, level: float) -> pd.DataFrame:
    """Return mean, standard deviation and central interval of each component over weighted draws."""
    table = np.stack([v.to_numpy() for v in values])
    rows = []
    for column in table.T:
        known = np.isfinite(column)
        w, v = weight[known] / weight[known].sum(), column[known]
        order = np.argsort(v)
        ends = np.interp([(1 - level) / 2, (1 + level) / 2], np.cumsum(w[order]) - w[order] / 2, v[order])
        mean = w @ v
        rows.append((mean, np.sqrt(w @ (v - mean) ** 2), *ends))
    return pd.DataFrame(rows, index=values[0].index, columns=["estimate", "std_error", "lower", "upper"])


def prediction_table(values: Array, index: pd.Index, levels: Sequence[Any] | None) -> pd.DataFrame:
    """Return mean, standard deviation and interval of new labels, and the probability of each where there is an end.

    Args:
        values: shape `(6 + C, N)`.
        index: of the rows.
        levels: names of the labels 0, 1, ... where these are ordered categories, by which the ends are then named.
    """
    names = range(len(values) - 6) if levels is None else levels
    out = pd.DataFrame(dict(zip([*PREDICTED, *(f"p({name})" for name in names)], values, strict=True)), index=index)
    if levels is not None:
        for end in ("lower", "upper"):
            out[end] = [levels[int(v)] if np.isfinite(v) else np.nan for v in out[end]]
    return out


def effect_table(
    engine: Engine, effects: Sequence[Effects], conditional: Sequence[Effects], level: float
) -> pd.DataFrame:
    """Return mean, standard deviations, interval and mode of effects, by factor, group and term (`Effects.mode`).

    Args:
        engine: the criterion.
        effects: of the groups of each factor.
        conditional: the same, all parameters and coefficients known, whose standard deviation is a column of its own.
        level: of the intervals.
    """
    parts = []
    for factor, grouping, found, given in zip(engine.factors, engine.rows.groupings, effects, conditional, strict=True):
        sd, own = (np.sqrt(np.einsum("gkk->gk", each.covariance).clip(0)) for each in (found, given))
        index = pd.MultiIndex.from_product(
            [[factor.name], grouping.labels.tolist(), factor.terms], names=["factor", "group", "term"]
        )
        mean, sd = found.mean.reshape(-1), sd.reshape(-1)
        reach = _z(level) * sd
        columns = {"mean": mean, "conditional_sd": own.reshape(-1), "sd": sd, "lower": mean - reach}
        columns |= {"upper": mean + reach}
        columns |= {} if found.mode is None else {"mode": found.mode.reshape(-1)}
        parts.append(pd.DataFrame(columns, index=index))
    return pd.concat(parts)
