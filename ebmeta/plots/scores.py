"""Figures of scores by step, confidence and number of classes, and over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ebmeta.foundation.checks import checked, dataset, found
from ebmeta.plots.axes import axes_or_new
from ebmeta.prediction.calibration import reliability_bins
from ebmeta.prediction.risk_coverage import risk_coverage as risk_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["coverage_by_ways", "history", "refinement", "reliability", "risk_coverage", "set_sizes"]

RARE = 0.005  # share of predictions below which the accuracy of a bin is chance
NAMES = {"nll": "NLL", "ece": "ECE", "rmse": "RMSE", "brier": "Brier score"}
TOP_LABELS = {"confidence": ("step", "task", "query"), "correct": ("step", "task", "query")}  # of an evaluation


@checked()
def refinement(evaluation: xr.Dataset, metric: str = "accuracy", ax: Axes | None = None) -> Axes:
    """Plot a metric against the refinement step, with its 95% interval.

    Args:
        evaluation: what `evaluate` returned.
        metric: name of the metric.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: if the evaluation has no such metric.
    """
    import seaborn as sns

    if metric not in evaluation or evaluation[metric].dims != ("step",) or f"{metric}_half_width" not in evaluation:
        names = [n for n in evaluation if f"{n}_half_width" in evaluation]
        raise ValueError(f"metric: expected one of {names}, got {found(metric)}")
    ax = axes_or_new(ax)
    steps = np.arange(evaluation.sizes["step"])
    mean, half = evaluation[metric].values, evaluation[f"{metric}_half_width"].values
    color = sns.color_palette("deep")[0]
    sns.lineplot(x=steps, y=mean, marker="o", ax=ax, color=color)
    ax.fill_between(steps, mean - half, mean + half, alpha=0.2, color=color, linewidth=0)
    units = evaluation[metric].attrs.get("units", "")
    name = NAMES.get(metric, metric)
    ax.set(xlabel="refinement step", ylabel=f"{name} ({units})" if units not in ("", "1") else name, xticks=steps)
    sns.despine(ax=ax)
    return ax


@checked(
    evaluation=dataset(
        "an evaluation of a classifier",
        **TOP_LABELS,
        ece=("step",),
    )
)
def reliability(evaluation: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot accuracy against confidence, before and after refinement; calibrated predictions lie on the diagonal.

    Args:
        evaluation: what `evaluate` returned for a classifier.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; marker areas grow with the share of predictions in the bin. The line leaves out bins with less than
        one prediction in 200, where accuracy is chance.

    Raises:
        ValueError: if the evaluation has no confidences.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", zorder=0)
    last = evaluation.sizes["step"] - 1
    palette = sns.color_palette("deep")
    for color, step in zip((palette[7], palette[0]), sorted({0, last}), strict=False):
        confidence = evaluation["confidence"].isel(step=step).values
        real = ~np.isnan(confidence)
        bins = reliability_bins(confidence[real], evaluation["correct"].isel(step=step).values[real])
        full = bins["count"].values > 0
        sns.scatterplot(
            x=bins["confidence"].values[full],
            y=bins["accuracy"].values[full],
            size=bins["count"].values[full],
            sizes=(15, 150),
            legend=False,
            color=color,
            ax=ax,
        )
        label = f"K = {step}: ECE {float(evaluation['ece'].isel(step=step)):.3f}"
        many = bins["count"].values >= RARE * bins["count"].values.sum()
        ax.plot(bins["confidence"].values[many], bins["accuracy"].values[many], color=color, label=label)
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    ax.legend(frameon=False, loc="upper left")
    sns.despine(ax=ax)
    return ax


@checked(
    evaluation=dataset(
        "an evaluation of a classifier",
        **TOP_LABELS,
        aurc=("step",),
    )
)
def risk_coverage(evaluation: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot the error rate of the most confident predictions against their share, before and after refinement.

    Args:
        evaluation: what `evaluate` returned for a classifier.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; the legend gives the area under each curve.

    Raises:
        ValueError: if the evaluation has no confidences.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    last = evaluation.sizes["step"] - 1
    palette = sns.color_palette("deep")
    for color, step in zip((palette[7], palette[0]), sorted({0, last}), strict=False):
        row = evaluation.isel(step=step)
        curve = risk_curve(row["confidence"].values, row["correct"].values)
        label = f"K = {step}: AURC {float(row['aurc']):.3f}"
        ax.plot(curve["coverage"].values, curve.values, color=color, label=label)
    ax.set(xlabel="share of queries answered, most confident first", ylabel="error rate", xlim=(0, 1))
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, loc="upper left")
    sns.despine(ax=ax)
    return ax


@checked(
    sets=dataset(
        "what ConformalSets.predict returned", sets=("task", "query", "way"), size=("task", "query"), ways=("task",)
    )
)
def set_sizes(sets: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot how many classes the prediction sets hold, as bars over sizes with one colour for each number of ways.

    Args:
        sets: what `ConformalSets.predict` returned.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; bars of one colour add up to 1.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    size, ways = sets["size"].values, sets["ways"].values
    kinds = np.unique(ways)
    sizes = np.arange(sets.sizes["way"] + 1)
    for k, (kind, color) in enumerate(zip(kinds, sns.color_palette("deep", len(kinds)), strict=True)):
        chosen = size[ways == kind]
        share = np.bincount(chosen[chosen >= 0], minlength=len(sizes)) / (chosen >= 0).sum()
        left = sizes + 0.8 * ((k + 0.5) / len(kinds) - 0.5)
        ax.bar(left, share, 0.8 / len(kinds), color=color, label=f"{kind} ways")
    ax.set(xlabel="classes in the set", ylabel="share of queries", xticks=sizes)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


@checked(
    report=dataset(
        "what set_coverage returned", ways=("ways",), coverage_by_ways=("ways",), coverage_half_width_by_ways=("ways",)
    )
)
def coverage_by_ways(report: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot the coverage of prediction sets against the number of ways, with 95% intervals and the level.

    Args:
        report: what `set_coverage` returned.
        ax: where to draw; a new figure by default.

    Returns:
        The axes.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    color = sns.color_palette("deep")[0]
    ax.axhline(report.attrs["level"], color="0.6", linewidth=1, linestyle="--", zorder=0)
    ways, mean = report["ways"].values, report["coverage_by_ways"].values
    ax.errorbar(ways, mean, report["coverage_half_width_by_ways"].values, fmt="o", color=color)
    ax.set(xlabel="ways", ylabel="coverage", xticks=ways)
    sns.despine(ax=ax)
    return ax


@checked(run=dataset("the history of a fit", iteration=("iteration",), nll=("iteration", "step")))
def history(run: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot the negative log likelihood over training, before and after refinement.

    Args:
        run: `FitResult.history`.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; a running mean of the training batches, and dots for validation.
    """
    import seaborn as sns

    ax = axes_or_new(ax)
    palette = sns.color_palette("deep")
    window = max(1, run.sizes["iteration"] // 50)
    last = run.sizes["step"] - 1
    for color, step in zip((palette[7], palette[0]), sorted({0, last}), strict=False):
        smooth = run["nll"].isel(step=step).rolling(iteration=window, min_periods=1).mean()
        sns.lineplot(x=run["iteration"].values, y=smooth.values, ax=ax, color=color, label=f"training, K = {step}")
        if "validation_nll" in run:
            x, y = run["validation_iteration"].values, run["validation_nll"].isel(step=step).values
            sns.scatterplot(x=x, y=y, ax=ax, color=color, label=f"validation, K = {step}")
    ax.set(xlabel="iteration", ylabel="NLL (nats per query)")
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax
