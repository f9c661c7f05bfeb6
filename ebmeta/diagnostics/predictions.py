r"""Checks of predictions against labels, with and without the few labels and the unlabelled rows.

A task is the unit of sampling: every interval is over tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from ebmeta.diagnostics.check import ORDER, Check, Status, interval
from ebmeta.foundation.checks import at_least, checked, some
from ebmeta.model.base import PredictiveModel
from ebmeta.plots.reports import factor_histogram
from ebmeta.plots.scores import reliability
from ebmeta.plots.uniformity import pit_histogram
from ebmeta.prediction.calibration import Z95, calibration_interval
from ebmeta.prediction.scores import task_scores
from ebmeta.prediction.trees import assemble, marginals
from ebmeta.tasks.batch import TaskBatch

__all__ = ["few_labels", "pit", "probabilities"]

NEAR, FAR = 0.03, 0.08  # of a probability: what does no harm, and what does much
LEVEL = 0.9  # of the intervals whose coverage is counted


@checked(batches=some(TaskBatch), repeats=at_least(1))
def probabilities(
    model: PredictiveModel,
    batches: Sequence[TaskBatch],
    seed: int = 0,
    scores: Sequence[xr.Dataset] | None = None,
    repeats: float = 1.0,
) -> Check:
    """Check predicted probabilities, by confidence against accuracy or by the coverage of 90% intervals.

    Args:
        model: the model.
        batches: labelled tasks.
        seed: seed of the bootstrap, and of the ties of counts.
        scores: what `task_scores` says of each batch, where it is known already.
        repeats: how often each group was drawn, see `ebmeta.prediction.scores.repeats`.

    Raises:
        ValueError: if tasks are unlabelled or do not fit the model.
    """
    if model.likelihood.categorical:
        return _confidence(scores or [task_scores(model, b) for b in batches], seed)
    return _coverage(model, batches, seed, repeats)


def _confidence(scores: Sequence[xr.Dataset], seed: int) -> Check:
    data = xr.concat([s[["confidence", "correct"]] for s in scores], "task", join="outer")
    steps = [(data["confidence"].values[k], data["correct"].values[k]) for k in range(data.sizes["step"])]
    ece = [calibration_interval(*pair, seed=seed) for pair in steps]
    error, (confidence, correct) = ece[-1], steps[-1]
    gap, half = _mean(np.nanmean(confidence - correct, 1))
    said, right = (float(np.nanmean(v, 1).mean()) for v in (confidence, correct))  # over tasks, as their difference
    where = "too sure of itself" if gap > 0 else "too modest"
    of_ece = interval(error.value - error.half_width, error.value + error.half_width, 1.5 * NEAR, 1.5 * FAR)
    status = _safe(max(interval(gap - half, gap + half, NEAR, FAR), of_ece, key=ORDER.index), gap < 0)
    finding = (
        f"On average the model gave its best guess a probability of {said:.1%}, and it was right in {right:.1%} of "
        f"cases (difference {gap:+.1%} ± {half:.1%}). "
    )
    if status == "good":
        little = f"It is a little {where}, by less than matters. " if abs(gap) > half else ""
        finding += f"{little}Its probabilities can be taken at face value; the calibration error is {error.value:.3f}."
    elif status == "unclear":
        finding += "There are too few tasks to tell whether its probabilities are right."
    else:
        finding += f"It is {where}; the calibration error is {error.value:.3f}."
    axes = reliability(data.assign(ece=("step", [e.value for e in ece])))
    return Check(
        "probabilities",
        "Are its probabilities right?",
        status,
        finding,
        "Of all predictions made with a probability of 80%, about 80% should be right. The calibration error is the "
        "average distance from that, over all probabilities.",
        _advice(status, "probabilities", gap > 0),
        {
            "mean_confidence": said,
            "accuracy": right,
            "difference": gap,
            "difference_half_width": half,
            "ece": error.value,
            "ece_half_width": error.half_width,
        },
        axes.get_figure(root=True),
        "How often the model was right, against how sure it was. Good is near the dashed line, where the two agree; "
        "below "
        "it the model is too sure. K counts the refinement steps on the unlabelled rows; ECE is the calibration error.",
    )


def _coverage(model: PredictiveModel, batches: Sequence[TaskBatch], seed: int, repeats: float) -> Check:
    u = pit(model, batches, seed)
    inside = np.where(np.isnan(u), np.nan, (u >= (1 - LEVEL) / 2) & (u <= (1 + LEVEL) / 2))
    held, half = _mean(np.nanmean(inside, 1), repeats)
    rows = np.isfinite(u).sum() / repeats
    half = max(half, Z95 * (LEVEL * (1 - LEVEL) / rows) ** 0.5)  # where all rows are held, or none, tasks do not vary
    tilt, tilt_half = _mean(np.nanmean(u, 1) - 0.5, repeats)
    status = _safe(interval(held - LEVEL - half, held - LEVEL + half, NEAR, FAR), held > LEVEL)
    finding = f"Intervals that should hold 90% of the labels held {held:.1%} ± {half:.1%}. "
    if status == "good":
        finding += "They can be taken at face value."
    elif status == "unclear":
        finding += "There are too few tasks to tell whether they are right."
    else:
        finding += "They are too narrow." if held < LEVEL else "They are wider than need be."
    if abs(tilt) > max(tilt_half, NEAR):
        finding += f" Labels tend to be {'above' if tilt > 0 else 'below'} the middle of what is predicted."
    axes = pit_histogram(u)
    return Check(
        "probabilities",
        "Are its intervals right?",
        status,
        finding,
        "Of all 90% intervals, about 90% should hold the label. The picture asks the same of every tenth of the "
        "predicted range, not of the interval alone.",
        _advice(status, "intervals", held < LEVEL),
        {"coverage": held, "coverage_half_width": half, "mean_pit": tilt + 0.5, "mean_pit_half_width": tilt_half},
        axes.get_figure(root=True),
        "How often labels fall into each tenth of what was predicted. Good is when all bars reach the line, give or "
        "take "
        "their whiskers: high ends mean intervals too narrow, a high middle too wide, a slope a bias.",
    )


def _safe(status: Status, modest: bool) -> Status:
    """Under-confidence wastes information but does not mislead, so it is never worse than "caution"."""
    return "caution" if status == "bad" and modest else status


def _advice(status: str, what: str, narrow: bool) -> str:
    if status == "good":
        return ""
    if status == "unclear":
        return "Give more tasks (--num-tasks, or a larger file)."
    if not narrow:
        return f"The {what} err on the safe side. Longer training, or training on tasks more like these, sharpens them."
    return (
        "Train on tasks more like these, with validation tasks of other classes or groups; or raise --beta, which "
        f"keeps posteriors closer to the prior. With few training groups use propagate. Until then read the {what} as "
        "a ranking."
    )


@checked(batches=some(TaskBatch), repeats=at_least(1))
def few_labels(
    model: PredictiveModel,
    batches: Sequence[TaskBatch],
    scores: Sequence[xr.Dataset] | None = None,
    repeats: float = 1.0,
) -> Check:
    """Check whether the labels of a task make its predictions better than predictions without them.

    Args:
        model: the model.
        batches: labelled tasks.
        scores: what `task_scores` says of each batch, where it is known already.
        repeats: how often each group was drawn, see `ebmeta.prediction.scores.repeats`.

    Raises:
        ValueError: if tasks are unlabelled or do not fit the model.
    """
    scores = scores or [task_scores(model, b) for b in batches]
    nll = np.concatenate([s["nll"].isel(step=-1).values for s in scores])
    if model.likelihood.categorical:
        blind = np.concatenate([b.way_mask.sum(1).double().log().cpu().numpy() for b in batches])
        right, chance = np.mean(np.concatenate([s["accuracy"].isel(step=-1).values for s in scores])), np.exp(-blind)
        typical = f"Its best guess is right in {right:.1%} of cases, where guessing would be in {chance.mean():.1%}"
        what = "guessing gives it"
    else:
        without = [task_scores(model, b.with_rows(b.support.first(0))).isel(step=0) for b in batches]
        blind = np.concatenate([s["nll"].values for s in without])
        error, blind_error = (
            np.mean(np.concatenate([s["squared_error"].values for s in parts])) ** 0.5
            for parts in ([s.isel(step=-1) for s in scores], without)
        )
        typical = f"Its typical error is {error:.3g}, against {blind_error:.3g} without the task's labels"
        what = "it gives without them"
    gain, half = _mean(blind - nll, repeats)
    status: Status = "good" if gain - half > 0 else "bad" if gain + half < 0 else "unclear"
    times = f"{np.exp(gain):.2f}" if gain < 5 else f"{np.exp(gain):.0f}"
    finding = f"{typical}; to what came true it gives {times} times the probability that {what}."
    if not any(b.anchor is not None or bool(b.support_mask.any()) for b in batches):
        status, finding = "unclear", "The tasks have no labelled rows, so there is nothing to learn from."
    return Check(
        "few_labels",
        "Do a task's few labels help?",
        status,
        finding,
        "Without its labels a task is like any other. With them, what came true should get more probability. The "
        "factor "
        "is a mean over rows, by its logarithm, which is the gain among the numbers (nats per row). 1 would be no "
        "gain.",
        ""
        if status == "good"
        else "Tasks may differ less, or in other ways, than those of training; see the next checks.",
        {"nll": float(np.mean(nll)), "nll_without": float(np.mean(blind)), "gain": gain, "gain_half_width": half},
        factor_histogram((blind - nll).astype(float), "without the task's labels").get_figure(root=True),
        "Each task is in one of the bars: how many times as much probability what came true gets with the labels of "
        "the task as "
        "without. Good is green, right of 1.",
    )


@checked(batches=some(TaskBatch))
def pit(model: PredictiveModel, batches: Sequence[TaskBatch], seed: int = 0) -> np.ndarray:
    r"""Return the probability integral transform of every query label under $q_K$: uniform where calibrated.

    $$ u_i = P(\tilde y_i < y_i) + v_i P(\tilde y_i = y_i), \qquad v_i \sim U(0, 1) $$

    Args:
        model: a model of labels that are numbers.
        batches: labelled tasks.
        seed: seed of $v_i$, which matters for counts alone.

    Returns:
        $u$, shape `(T, Q)`; NaN where padded.

    Raises:
        ValueError: if tasks are unlabelled, labels are classes, or the likelihood has no cdf.
    """
    rng, parts = np.random.default_rng(seed), []
    for batch in batches:
        if batch.query_y is None:
            raise ValueError("pit: expected query labels, got unlabelled tasks")
        chunks, found = marginals(model, batch), []
        v = torch.from_numpy(rng.random(batch.query_mask.shape))
        for chunk in chunks:
            inferred, y = chunk.inferred, chunk.of(batch.query_y)
            with torch.no_grad():
                high = inferred.cdf(-1, y)
                low = inferred.cdf(-1, y - 1) if model.likelihood.discrete else high
            u = low + chunk.of(v).to(high) * (high - low)
            found.append(torch.where(chunk.batch.query_mask, u, torch.nan).double())
        parts.append(assemble(chunks, found, 0, batch.query_mask.shape[1]))
    widest = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, widest - p.shape[1])), constant_values=np.nan) for p in parts])


def _mean(values: np.ndarray, repeats: float = 1.0) -> tuple[float, float]:
    """Return the mean over tasks and the half width of its 95% interval."""
    half = Z95 * values.std(ddof=1) * (repeats / len(values)) ** 0.5 if len(values) > 1 else np.inf
    return float(values.mean()), float(half)
