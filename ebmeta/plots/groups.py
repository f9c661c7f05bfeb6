"""Figures of the groups of mixed models: effects with their intervals, their shrinkage, and the lines of groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import special

from ebmeta.formula.design import rows_of
from ebmeta.foundation.checks import at_least, checked, found
from ebmeta.foundation.telling import named
from ebmeta.mixed.result import MixedModel
from ebmeta.plots.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["caterpillar", "group_lines", "normal_quantiles", "shrinkage"]

MOST_NAMES = 60  # of groups that a figure has room for
BAND = 0.2  # opacity
TOLD = 1e-9  # of the information of the prior: less is none


def _effects(fit: MixedModel, factor: str | None, term: str) -> pd.DataFrame:
    """Return the effects of one term, from the least to the largest."""
    table = fit.group_effects
    names = table.index.unique("factor").tolist()
    factor = names[0] if factor is None else factor
    if factor not in names:
        raise ValueError(f"factor: expected one of {', '.join(names)}, got {found(factor)}")
    terms = table.loc[factor].index.unique("term").tolist()
    if term not in terms:
        raise ValueError(f"term: expected one of {', '.join(terms)}, got {found(term)}")
    effects: Any = table.xs((factor, term), level=("factor", "term"))
    out: pd.DataFrame = effects.sort_values("mean")
    return out


@checked()
def caterpillar(fit: MixedModel, term: str = "Intercept", *, factor: str | None = None, ax: Axes | None = None) -> Axes:
    """Plot the effect of every group with its interval, from the least to the largest.

    Args:
        fit: a fitted mixed model.
        term: random term.
        factor: grouping factor; the first by default.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if there is no such term or factor.
    """
    table = _effects(fit, factor, term)
    ax = axes_or_new(ax, 4.8, 1.2 + 0.16 * min(len(table), MOST_NAMES))
    place = np.arange(len(table))
    mean, low, high = (table[name].to_numpy() for name in ("mean", "lower", "upper"))
    ax.errorbar(mean, place, xerr=[mean - low, high - mean], fmt="o", markersize=3, linewidth=1)
    ax.axvline(0.0, color="0.7", linewidth=1)
    ax.set(xlabel=f"effect of a group on {term}, 95% interval", ylim=(-1, len(table)))
    _name(ax, table.index)
    return ax


@checked()
def normal_quantiles(
    fit: MixedModel, term: str = "Intercept", *, factor: str | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the effects of groups against the quantiles of a normal distribution: a line where the model fits.

    Arguments as of `caterpillar`.
    """
    table = _effects(fit, factor, term)["mean"].to_numpy()
    ax = axes_or_new(ax)
    normal = special.ndtri((np.arange(len(table)) + 0.5) / len(table))
    ax.plot(normal, table, "o", markersize=3)
    ax.plot(normal, table.mean() + table.std() * normal, color="0.7", linewidth=1)
    ax.set(xlabel="normal quantile", ylabel=f"effect of a group on {term}")
    return ax


@checked()
def shrinkage(fit: MixedModel, term: str = "Intercept", *, ax: Axes | None = None) -> Axes:
    r"""Plot what each group says by itself (no pooling), and where the model draws it (partial pooling).

    With posterior mean $m$ and covariance $C$ of the effects of a group and their covariance $\Sigma$ between groups,
    its own rows say $(C^{-1} - \Sigma^{-1})^{-1} C^{-1} m$: for normal labels the least-squares estimate of the group,
    the common terms known. Groups whose rows alone say nothing of the term have no such point.

    Args:
        fit: a fitted mixed model of one grouping factor.
        term: random term.
        ax: where to draw; a new figure by default.

    Returns:
        The axes: open circles for no pooling, filled ones for partial pooling, and a line where all groups are alike.

    Raises:
        ValueError: if there is no such term, or there are several grouping factors.
    """
    table = _effects(fit, None, term)
    if len(fit.engine.factors) > 1:
        raise ValueError(f"fit: expected one grouping factor, got {', '.join(f.name for f in fit.engine.factors)}")
    place = fit.engine.factors[0].terms.index(term)
    common = fit.fixed_effects["estimate"].get(term, 0.0)
    alone = pd.Series(_alone(fit)[:, place], index=fit.engine.rows.groupings[0].labels)[table.index] + common
    pooled = table["mean"] + common
    ax = axes_or_new(ax, 4.8, 1.2 + 0.16 * min(len(table), MOST_NAMES))
    rows = np.arange(len(table))
    ax.hlines(rows, alone, pooled, color="0.8", linewidth=1, zorder=1)
    ax.plot(alone, rows, "o", markersize=4, markerfacecolor="none", color="0.5", label="no pooling")
    ax.plot(pooled, rows, "o", markersize=4, label="partial pooling")
    ax.axvline(common, color="0.7", linewidth=1, linestyle="--", label="all alike")
    ax.set(xlabel=f"{term} of a group", ylim=(-1, len(table)))
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    _name(ax, table.index)
    return ax


def _alone(fit: MixedModel) -> np.ndarray:
    """Return the effects that the rows of each group say by themselves, NaN where they say nothing, `(G, K)`."""
    (factor,), estimate, (effects,) = fit.engine.factors, fit.estimate, fit.engine.effects(fit.optimum.at)
    prior = factor.covariance(estimate.theta, estimate.sigma)
    own, vectors = np.linalg.eigh(prior)
    kept = vectors[:, own > TOLD * own.max(initial=0.0)]  # a spread of 0 leaves nothing to say
    inner = kept.T @ prior @ kept
    covariance = np.einsum("ka,gkl,lb->gab", kept, effects.covariance, kept)
    out = np.full(effects.mean.shape, np.nan)
    for g, (mean, posterior) in enumerate(zip(effects.mean @ kept, covariance, strict=True)):
        information = np.linalg.inv(posterior) - np.linalg.inv(inner)
        values = np.linalg.eigvalsh(information)
        if len(values) and values[0] > TOLD * np.abs(np.linalg.inv(inner)).max():
            out[g] = kept @ np.linalg.solve(information, np.linalg.solve(posterior, mean))
    return out


def _name(ax: Axes, names: pd.Index[Any]) -> None:
    """Name the rows of a figure, where there is room."""
    if len(names) <= MOST_NAMES:
        ax.set_yticks(np.arange(len(names)), [str(name) for name in names], fontsize="small")
    else:
        ax.set_yticks([])


@checked(num_groups=at_least(1))
def group_lines(fit: MixedModel, data: Any, x: str, *, num_groups: int = 12, ax: Axes | None = None) -> Axes:
    """Plot labels and predicted means of some groups along one column, with 90% bands of the means.

    Args:
        fit: a fitted mixed model of one grouping factor and a response that is a column.
        data: rows, a frame of pandas, polars or pyarrow, with that column; those without a group are left out.
        x: column on the horizontal axis.
        num_groups: number of groups, the first ones.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if a column is absent.
    """
    import seaborn as sns

    data = rows_of("data", data)
    factor, response = ":".join(fit.design.factors[0]), fit.design.formula.response
    for column in (x, response, *fit.design.factors[0]):
        if column not in data.columns:
            raise ValueError(f"data: expected a column {found(column)}, got {named(data.columns)}")
    if not pd.api.types.is_numeric_dtype(data[response]):
        raise ValueError(f"data: expected numbers in column {response!r}, got {data[response].dtype}")
    data = data.dropna(subset=list(fit.design.factors[0]))
    names = data[list(fit.design.factors[0])].astype(str).agg(":".join, axis=1)
    rows = data[names.isin(names.unique()[:num_groups])].sort_values(x)
    predicted = fit.predict(rows)
    ax = axes_or_new(ax)
    colors = sns.color_palette("husl", names[rows.index].nunique())
    for color, (_, part) in zip(colors, rows.groupby(names[rows.index], sort=False), strict=True):
        ax.plot(part[x], part[response], "o", color=color, markersize=3)
        own = predicted.loc[part.index]
        ax.plot(part[x], own["mean"], color=color, linewidth=1)
        ax.fill_between(part[x], own["mean_lower"], own["mean_upper"], color=color, alpha=BAND, linewidth=0)
    ax.set(xlabel=x, ylabel=response, title=f"{rows.shape[0]} rows of {len(colors)} groups of {factor}")
    return ax
