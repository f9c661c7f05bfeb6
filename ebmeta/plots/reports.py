"""Figures of the report of all checks, for readers who know none of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ebmeta.foundation.checks import array, checked
from ebmeta.plots.axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["effective_draws", "factor_histogram", "promises"]

BETTER, WORSE, QUIET = "#2f7d5b", "#b3261e", "#8a929e"
MOST = 1e3  # a factor above this, or below its inverse, is drawn as that
TICKS = np.array([0.001, 0.01, 0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 100, 1000])


@checked(gain=array(ndim=1))
def factor_histogram(gain: np.ndarray, what: str, ax: Axes | None = None) -> Axes:
    """Plot how much more probability the truth gets in each task: a bar is a number of tasks, green where it gains.

    Args:
        gain: gain in log probability of each task, nats per query, shape `(T,)`.
        what: what probabilities are compared with, for the label of the axis.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, with factors on a logarithmic scale.
    """
    import seaborn as sns

    ax = axes_or_new(ax, height=2.6)
    factor = np.exp(np.clip(gain, -np.log(MOST), np.log(MOST)))
    reach = max(2.0, *factor, *(1 / factor)) * 1.02
    edges = np.geomspace(1 / reach, reach, 41)  # an even number of bins, so that 1 is an edge
    low, high = max(1 / reach, factor.min() / 1.3), min(reach, factor.max() * 1.3)
    for part, color in ((factor[factor < 1], WORSE), (factor[factor >= 1], BETTER)):
        ax.hist(part, edges.tolist(), color=color, alpha=0.85)
    ax.axvline(1, color="black", linewidth=1)
    ax.set(xscale="log", xlabel=f"times the probability {what}", ylabel="tasks", xlim=(min(low, 0.8), max(high, 1.25)))
    ends = ax.get_xlim()
    shown = TICKS[(ends[0] <= TICKS) & (ends[1] >= TICKS)]
    ax.set_xticks(shown, [f"{tick:g}" for tick in shown])
    ax.set_xticks([], minor=True)
    for share, words, color, x, side in (
        ((factor < 1).mean(), "worse off", WORSE, 0.0, "left"),
        ((factor >= 1).mean(), "better off, or as before", BETTER, 1.0, "right"),
    ):
        text = f"{share:.0%} of tasks {words}"
        ax.text(x, 1.02, text, color=color, ha=side, va="bottom", fontsize="small", transform=ax.transAxes)
    sns.despine(ax=ax)
    return ax


@checked()
def promises(
    accuracy: float, over_tasks: float, over_classes: float | None, bound: float | None, ax: Axes | None = None
) -> Axes:
    """Plot an accuracy with its intervals over tasks and over classes, and what it does not fall below.

    Args:
        accuracy: mean over tasks.
        over_tasks: half width of its interval for other tasks of these classes.
        over_classes: half width for other classes; None where unknown.
        bound: certified lower bound for new classes; None where nothing is promised.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, in percent, with a line each, of which the lowest is the weakest promise.
    """
    import seaborn as sns

    ax = axes_or_new(ax, width=5.6, height=2.0)
    lines: list[tuple[str, tuple[float, float] | None, str]] = [
        ("other tasks of these classes", (accuracy - over_tasks, accuracy + over_tasks), "#2f4b7c"),
        (
            "other classes, as they vary here",
            None if over_classes is None else (accuracy - over_classes, accuracy + over_classes),
            "#5b7db1",
        ),
        ("promised for new classes", None if bound is None else (bound, 1.0), QUIET),
    ]
    for place, (_, ends, color) in enumerate(lines):
        if ends is not None:
            span = 100 * np.clip(ends, 0, 1)
            ax.plot(span, [place, place], color=color, linewidth=7, solid_capstyle="butt")
        else:
            ax.text(50, place, "too few classes to say", ha="center", va="center", fontsize="small", color=QUIET)
    ax.axvline(100 * accuracy, color="black", linewidth=1, linestyle="--")
    ax.set_yticks(range(len(lines)), [name for name, *_ in lines])
    ax.set(xlim=(0, 100), ylim=(2.6, -0.6), xlabel="rows that it gets right, %")
    ax.tick_params(axis="y", length=0)
    sns.despine(ax=ax, left=True)
    return ax


@checked(share=array(ndim=1))
def effective_draws(share: np.ndarray, even: float, ax: Axes | None = None) -> Axes:
    """Plot how many in a hundred draws from each posterior count, if they are weighed by Bayes' rule.

    Args:
        share: effective share of draws of each task, in [0, 1], shape `(T,)`.
        even: share above which there is nothing to mend, drawn as a line.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.
    """
    import seaborn as sns

    ax = axes_or_new(ax, height=2.6)
    ax.hist(100 * share, np.linspace(0, 100, 21).tolist(), color="#2f4b7c", alpha=0.85)
    ax.axvline(100 * even, color="black", linewidth=1, linestyle="--")
    ax.set(xlim=(0, 100), xlabel="draws in a hundred that count", ylabel="tasks")
    sns.despine(ax=ax)
    return ax
