"""Figures of numbers that ought to be uniform, beside those that are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xarray as xr

from ebmeta.foundation.checks import array, checked
from ebmeta.plots.axes import axes_or_new
from ebmeta.prediction.calibration import Z95
from ebmeta.prediction.uniformity import Band, ecdf_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Simulated", "ecdf_difference", "expected_coverage", "pit_histogram"]

BINS = 10  # of a histogram


class Simulated(Protocol):
    """What figures need of simulation-based calibration, as `ebmeta.diagnostics.SimulationCalibration` has it."""

    @property
    def pit(self) -> xr.DataArray:
        """Numbers that are uniform where the posterior is exact; dims `(quantity, task)`."""
        ...

    @property
    def alpha(self) -> float:
        """Probability that an exact posterior does not pass, at most."""
        ...

    def coverage(self, mass: np.ndarray) -> xr.DataArray:
        """Return how often regions of these masses, shape `(M,)`, hold the true weights; dim `mass`."""
        ...


def _band(found: Simulated, together: int) -> Band:
    return ecdf_band(found.pit.sizes["task"], found.alpha / together)


@checked()
def ecdf_difference(found: Simulated, quantities: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
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
def expected_coverage(found: Simulated, ax: Axes | None = None) -> Axes:
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


@checked(u=array(ndim=2, padded=True))
def pit_histogram(u: np.ndarray, ax: Axes | None = None) -> Axes:
    """Plot how often labels fall into each tenth of the predicted range, with 95% intervals over tasks.

    Args:
        u: what `ebmeta.diagnostics.predictions.pit` returned, shape `(T, Q)`.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if a number is not from 0 to 1, or there are none.
    """
    if not ((u >= 0) & (u <= 1))[~np.isnan(u)].all() or np.isnan(u).all():
        raise ValueError("u: expected numbers from 0 to 1, or NaN for padding, got others")
    import seaborn as sns

    ax = axes_or_new(ax, height=3.4)
    tenth = np.where(np.isnan(u), -1, np.minimum(np.floor(np.nan_to_num(u) * BINS), BINS - 1))
    rows = (tenth >= 0).sum(1)
    share = np.stack([(tenth == b).sum(1) for b in range(BINS)], 1)
    mean = share.sum(0) / rows.sum()
    spread = (share - mean * rows[:, None]).std(0, ddof=1) * len(u) ** 0.5 / rows.sum() if len(u) > 1 else 0 * mean
    centre = (np.arange(BINS) + 0.5) / BINS
    ax.bar(centre, mean, width=0.9 / BINS, color=sns.color_palette("deep")[0], alpha=0.7)
    ax.errorbar(centre, mean, Z95 * spread, fmt="none", color="0.3", linewidth=1)
    ax.axhline(1 / BINS, color="0.5", linestyle="--", linewidth=1)
    ax.set(xlabel="place of the label in what was predicted", ylabel="share of labels", xlim=(0, 1))
    sns.despine(ax=ax)
    return ax
