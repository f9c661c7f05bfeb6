"""Figures of how a mixed model fits its rows: labels against fitted means, and quantiles of residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from ebmeta.foundation.checks import checked
from ebmeta.mixed.result import MixedModel
from ebmeta.plots.axes import axes_or_new
from ebmeta.prediction.uniformity import ecdf_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["observed_against_fitted", "residual_quantiles"]

MOST = 1000  # rows in a figure
EDGE = 1e-6  # of probability, where a band ends


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
    ax, band = axes_or_new(ax), ecdf_band(len(values))
    low, high = (special.ndtri(v.clip(EDGE, 1 - EDGE)) for v in (band.low, band.high))
    ax.fill_betweenx(special.ndtri(band.points), low, high, color="0.9", zorder=0)
    normal = special.ndtri((np.arange(len(values)) + 0.5) / len(values))
    ax.plot(normal[[0, -1]], normal[[0, -1]], color="0.6", linewidth=1, zorder=1)
    ax.plot(normal, values, "o", markersize=3)
    ax.set(xlabel="normal quantile", ylabel="quantile residual", xlim=(1.1 * normal[0], 1.1 * normal[-1]))
    return ax
