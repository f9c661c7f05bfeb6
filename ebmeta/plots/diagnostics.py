"""Figures of diagnostics, each of the Dataset that a diagnostic returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from ebmeta.foundation.checks import checked, dataset
from ebmeta.plots.axes import axes_or_new
from ebmeta.prediction.arviz import GOOD, USABLE
from ebmeta.prediction.calibration import Z95

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gap_plot", "khat_by_step", "rate_distortion_plot", "synthetic_gradient_plot", "update_plot"]

Distortion = Literal["predictive_nll", "expected_nll"]
CURVES = {f"{d}_nll{h}": ("model", "step") for d in ("expected", "predictive") for h in ("", "_half_width")}


@checked(
    data=dataset(
        "what rate_distortion returned",
        rate=("model", "step"),
        **CURVES,
        beta=("model",),
    )
)
def rate_distortion_plot(data: xr.Dataset, distortion: Distortion = "predictive_nll", ax: Axes | None = None) -> Axes:
    r"""Plot distortion against rate: a line through the last step of each model, in order of $\beta$.

    Faint lines lead from the initial posterior of each model, over its steps, to the last.

    Args:
        data: what `rate_distortion` returned.
        distortion: "predictive_nll" or "expected_nll".
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if `distortion` is neither.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    data = data.sortby("beta")
    rate, loss = data["rate"].values, data[distortion].values
    last = np.isfinite(rate).sum(1) - 1
    rows = np.arange(len(last))
    for r, v in zip(rate, loss, strict=True):
        ax.plot(r, v, color="0.8", marker=".", linewidth=1, zorder=1)
    color = sns.color_palette("deep")[0]
    half = data[f"{distortion}_half_width"].values[rows, last]
    ax.errorbar(rate[rows, last], loss[rows, last], half, color=color, fmt="none", zorder=2)
    sns.lineplot(x=rate[rows, last], y=loss[rows, last], marker="o", color=color, sort=False, estimator=None, ax=ax)
    for m, k in zip(rows, last, strict=True):
        text = rf"$\beta$ = {data['beta'].values[m]:g}"
        ax.annotate(text, (rate[m, k], loss[m, k]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xlabel="rate (nats per task)", ylabel=f"{distortion.split('_')[0]} NLL (nats per query)")
    sns.despine(ax=ax)
    return ax


@checked(
    data=dataset(
        "what generalization_gap returned",
        rows=("rows",),
        step=("step",),
        gap=("rows", "step"),
        gap_half_width=("rows", "step"),
        bound_rate=("rows", "step"),
    )
)
def gap_plot(
    data: xr.Dataset, rows: Literal["support", "query"] = "support", ax: Axes | None = None, *, bounds: bool = True
) -> Axes:
    """Plot the gap and its bounds against the refinement step.

    Args:
        data: what `generalization_gap` returned.
        rows: "support" or "query".
        ax: where to draw; a new figure by default.
        bounds: draw the bounds too, which say nothing where they are far above.

    Returns:
        The axes.

    Raises:
        ValueError: if `rows` is neither.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    part, steps = data.sel(rows=rows), data["step"].values
    names = {"bound_rate": "bound by the rate", "bound_information": "bound by the information", "gap": "gap"}
    shown = {key: text for key, text in names.items() if key in part and (bounds or key == "gap")}
    for (key, text), color in zip(shown.items(), sns.color_palette("deep"), strict=False):
        sns.lineplot(x=steps, y=part[key].values, marker="o", label=text, color=color, ax=ax)
        if key == "gap":
            ax.errorbar(steps, part["gap"].values, part["gap_half_width"].values, fmt="none", color=color)
    unit = data["gap"].attrs["units"].replace("1", "share of wrong answers")
    ax.set(xlabel="refinement step", ylabel=f"extra cost of new rows ({unit})", xticks=steps)
    if not bounds:
        ax.set_ylim(min(0.0, ax.get_ylim()[0]), None)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


@checked(
    data=dataset(
        "what synthetic_gradients returned",
        step=("step",),
        gain=("step",),
        gradient_cosine_by_task=("step", "task"),
        move_cosine_by_task=("step", "task"),
    )
)
def synthetic_gradient_plot(data: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot the cosines of each step, with mean and middle 90% of the tasks, and its gain below.

    Args:
        data: what `synthetic_gradients` returned.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.
    """
    import pandas as pd
    import seaborn as sns

    ax = axes_or_new(ax, width=5.6)
    names = {"gradient_cosine_by_task": "synthetic gradient", "move_cosine_by_task": "move of the location"}
    steps = data["step"].values
    frames = [
        pd.DataFrame({"cosine": data[name].values.ravel(), "of": text, "step": np.repeat(steps, data.sizes["task"])})
        for name, text in names.items()
    ]
    frame = pd.concat(frames, ignore_index=True)
    style = {"errorbar": ("pi", 90), "dodge": 0.25, "linestyle": "none", "err_kws": {"linewidth": 1.2}}
    sns.pointplot(frame, x="step", y="cosine", hue="of", palette="deep", native_scale=True, ax=ax, **style)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    gains = [f"{k}\n{gain:+.3f} nats" for k, gain in zip(steps, data["gain"].values, strict=True)]
    ax.set_xticks(steps, gains)
    ax.set(xlabel="refinement step, and its gain per query", ylabel="cosine with the true gradient", ylim=(-1.05, 1.05))
    sns.move_legend(ax, "lower right", title=None, frameon=False)
    sns.despine(ax=ax)
    return ax


@checked(data=dataset("what posterior_updates returned", moved=("step", "task"), expected=("step", "task")))
def update_plot(data: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot how far the posterior of each task moved against how far it should move; on the line the two agree.

    A single task moves by chance more or less than it should. So there are also means over fifths of the tasks, in
    order of how far they should move, with 95% intervals.

    Args:
        data: what `posterior_updates` returned.
        ax: where to draw; a new figure by default.

    Returns:
        The axes, with both root mean squares on logarithmic scales, after the last step.
    """
    import seaborn as sns
    from matplotlib.ticker import LogLocator

    ax = axes_or_new(ax)
    last = data.isel(step=-1)
    squares = [last[name].clip(min=1e-12).values for name in ("expected", "moved")]
    expected, moved = (v**0.5 for v in squares)
    sns.scatterplot(x=expected, y=moved, s=12, alpha=0.35, linewidth=0, ax=ax)
    parts = [part for part in np.array_split(np.argsort(expected, kind="stable"), 5) if len(part) > 1]
    for part in parts:
        x, y = (float(v[part].mean()) for v in squares)
        half = Z95 * float(squares[1][part].std(ddof=1)) / len(part) ** 0.5
        low, high = max(y - half, y / 100) ** 0.5, (y + half) ** 0.5
        error = [[y**0.5 - low], [high - y**0.5]]
        ax.errorbar(x**0.5, y**0.5, error, fmt="o", color="#1c2330", markersize=6, capsize=3, zorder=3)
    ends = np.array([min(expected.min(), np.quantile(moved, 0.05)), max(expected.max(), moved.max())])
    ends = ends * np.array([1 / 1.2, 1.2])
    ax.plot(ends, ends, color="0.5", linestyle="--", linewidth=1)
    ax.set(xscale="log", yscale="log", ylim=ends, xlim=(expected.min() / 1.2, expected.max() * 1.2))
    for x, y, side, words in ((0.02, 0.98, "left", "too sure"), (0.98, 0.02, "right", "too modest")):
        ax.text(x, y, words, transform=ax.transAxes, ha=side, va="top" if y > 0.5 else "bottom", color="0.4")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:.3g}")
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter("{x:.3g}")
    ax.set(xlabel="move that the posterior expects", ylabel="move when labels are known")
    sns.despine(ax=ax)
    return ax


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
