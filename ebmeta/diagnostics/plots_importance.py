"""Figures of the tails of importance ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import xarray as xr

from ebmeta.diagnostics.importance import GOOD, USABLE
from ebmeta.foundation.checks import checked, dataset
from ebmeta.plots.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["khat_by_step"]


@checked(
    checks=dataset("what check_posteriors returned", khat=("step", "task"), khat_rows=("step", "task"), step=("step",))
)
def khat_by_step(checks: xr.Dataset, variable: Literal["khat", "khat_rows"] = "khat", ax: Axes | None = None) -> Axes:
    r"""Plot the distribution of $\hat k$ over tasks for every refinement step, with the lines of 0.5 and 0.7.

    Args:
        checks: what `check_posteriors` returned.
        variable: "khat", or "khat_rows" for the span of all rows.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, with boxes at the median, quartiles, eighths and so on of each step.

    Raises:
        ValueError: if there is no such variable.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    table = checks[variable].to_series().reset_index()
    sns.boxenplot(table, x="step", y=variable, showfliers=False, color=sns.color_palette("deep")[0], ax=ax)
    for level, style, words in ((GOOD, ":", "draws stand for it"), (USABLE, "--", "weights correct them")):
        ax.axhline(level, color="0.4", linewidth=1, linestyle=style, zorder=0)
        ax.annotate(
            f"below {level}: {words}",
            (1, level),
            (-2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize="x-small",
            color="0.3",
        )
    ax.set(xlabel="refinement step", ylabel=r"Pareto $\hat k$")
    sns.despine(ax=ax)
    return ax
