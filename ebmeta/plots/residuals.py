"""Figures of how a mixed model fits its rows: labels against fitted means, and quantiles of residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from ebmeta.foundation.checks import checked
from ebmeta.mixed.result import MixedModel
from ebmeta.plots.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["observed_against_fitted", "residual_quantiles"]

MOST = 1000  # rows in a figure
SETS = 1000  # of even draws that a band is found by
LEFT = 0.05  # of right models leave it


def _band(number: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the ends of the band of sorted normal numbers, each of shape `(number,)`.

    The $i$-th of $n$ sorted even numbers is Beta$(i, n + 1 - i)$. All have central intervals of one level, such that a
    set has 95% of staying in all of them. Source: Aldor-Noiman, Brown, Buja, Rolke and Stine 2013.
    """
    rank, rng = np.arange(1, number + 1), np.random.default_rng(0)
    places = special.betainc(rank, number + 1 - rank, np.sort(rng.random((SETS, number)), 1))
    level = np.quantile(2 * np.minimum(places, 1 - places).min(1), LEFT)
    low, high = (special.betaincinv(rank, number + 1 - rank, p) for p in (level / 2, 1 - level / 2))
    return special.ndtri(low), special.ndtri(high)


def _some(table: pd.DataFrame) -> pd.DataFrame:
    """Return at most so many rows, drawn at random and always the same."""
    rows = np.arange(len(table))
    chosen = np.random.default_rng(0).choice(rows, MOST, replace=False) if len(table) > MOST else rows
    return table.iloc[np.sort(chosen)]


@checked()
def observed_against_fitted(fit: MixedModel, *, ax: Axes | None = None) -> Axes:
    """Plot the labels of rows against their fitted means, with the line on which both are equal.

    Args:
        fit: a fitted mixed model; of more than 1,000 rows some are drawn.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.
    """
    table = _some(fit.residuals)
    ax = axes_or_new(ax)
    ax.plot(table["fitted"], table["label"], "o", markersize=3, alpha=0.6)
    ends = [float(table["fitted"].min()), float(table["fitted"].max())]
    ax.plot(ends, ends, color="0.6", linewidth=1, zorder=1)
    ax.set(xlabel="fitted mean", ylabel=fit.design.formula.response)
    return ax


@checked()
def residual_quantiles(fit: MixedModel, *, ax: Axes | None = None) -> Axes:
    """Plot quantile residuals against normal quantiles, with the band that all stay in with probability 95%.

    Residuals are those of each row given the others of its group (`MixedModel.residuals`). Above the line on the right,
    or below it on the left, labels lie further out than the model has it. Rows of a group are not quite independent,
    and parameters are estimated, so the band is somewhat too wide.

    Args:
        fit: a fitted mixed model; of more than 1,000 rows some are drawn.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.
    """
    values = np.sort(_some(fit.residuals)["quantile"].to_numpy())
    ax, (low, high) = axes_or_new(ax), _band(len(values))
    normal = special.ndtri((np.arange(len(values)) + 0.5) / len(values))
    ax.fill_between(normal, low, high, color="0.9", zorder=0)
    ax.plot(normal[[0, -1]], normal[[0, -1]], color="0.6", linewidth=1, zorder=1)
    ax.plot(normal, values, "o", markersize=3)
    ax.set(xlabel="normal quantile", ylabel="quantile residual", xlim=(1.1 * normal[0], 1.1 * normal[-1]))
    return ax
