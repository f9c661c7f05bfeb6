"""Figures of simulation-based calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ebmeta.diagnostics.simulation_result import SimulationCalibration
from ebmeta.diagnostics.uniformity import Band, ecdf_band
from ebmeta.foundation.checks import checked
from ebmeta.plots.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ecdf_difference", "expected_coverage"]


def _band(found: SimulationCalibration, together: int) -> Band:
    return ecdf_band(found.pit.sizes["task"], found.alpha / together)


@checked()
def ecdf_difference(
    found: SimulationCalibration, quantities: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    r"""Plot $\hat F(u) - u$ of each test quantity, and the band that all stay in together if the posterior is exact.

    A curve that rises first is too narrow a posterior, one that falls first too wide, a hill or a valley a shift. For
    regions and surprises a valley is too narrow.

    Args:
        found: what `simulation_based_calibration` returned.
        quantities: which quantities; all by default. The band is that of all in any case.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if a quantity is unknown.
    """
    import seaborn as sns

    known = [str(name) for name in found.pit["quantity"].values]
    chosen = known if quantities is None else list(quantities)
    if not chosen:
        raise ValueError(f"quantities: expected some of {known}, got none")
    if strange := [name for name in chosen if name not in known]:
        raise ValueError(f"quantities: expected some of {known}, got {strange[0]!r}")
    ax, band = axes_or_new(ax, height=3.6), _band(found, len(known))
    ax.fill_between(band.points, band.low - band.points, band.high - band.points, color="0.9", step=None, zorder=0)
    ax.axhline(0, color="0.6", linewidth=1, zorder=1)
    points = np.linspace(0, 1, 201)
    for name, color in zip(chosen, sns.color_palette("husl", len(chosen)), strict=True):
        u = np.sort(found.pit.sel(quantity=name).values)
        share = np.searchsorted(u, points, side="right") / len(u)
        ax.plot(points, share - points, color=color, linewidth=1.3, label=name)
    ax.set(xlabel="posterior probability below the truth", ylabel="share of tasks − expected", xlim=(0, 1))
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(ax=ax)
    return ax


@checked()
def expected_coverage(found: SimulationCalibration, ax: Axes | None = None) -> Axes:
    """Plot how often regions of highest posterior density hold the true weights, against their mass.

    Below the diagonal the posterior is too narrow, above it too wide.

    Args:
        found: what `simulation_based_calibration` returned.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, with the band of an exact posterior.
    """
    import seaborn as sns

    ax, band = axes_or_new(ax, height=3.6), _band(found, 1)
    ax.fill_between(band.points, band.low, band.high, color="0.9", zorder=0)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, zorder=1)
    mass = np.linspace(0, 1, 201)
    ax.plot(mass, found.coverage(mass), color=sns.color_palette("deep")[0], linewidth=1.6)
    ax.set(xlabel="mass of the region", ylabel="share of tasks with the truth inside", xlim=(0, 1), ylim=(0, 1))
    ax.set_aspect("equal")
    sns.despine(ax=ax)
    return ax
