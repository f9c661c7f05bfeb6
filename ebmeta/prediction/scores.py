r"""Evaluation by accuracy, proper scores and calibration after every refinement step.

For classes: accuracy, NLL (nats per query), Brier score $\sum_c (p_c - 1\{y = c\})^2$ and its parts
(`brier_decomposition`), mean confidence less accuracy (`overconfidence`), the expected calibration error of the top
label in 15 bins of equal width (`ece`) and of equal mass (`ece_mass`), and the area under the risk-coverage curve
(`aurc`). For real labels: root mean squared error, NLL, and coverage of central 90% intervals. A task is the unit of
sampling: means are over tasks, and intervals are over tasks too (normal for means, bootstrap for the calibration errors
and the parts of the Brier score, infinitesimal jackknife for the area).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr

from ebmeta.foundation.checks import at_least, checked, dataset
from ebmeta.foundation.guarding import undisturbed
from ebmeta.model.base import PredictiveModel
from ebmeta.prediction.calibration import (
    Z95,
    Interval,
    bin_edges,
    bin_sums,
    bootstrap,
    brier_decomposition,
    calibration_error,
    calibration_interval,
    reliability_bins,
)
from ebmeta.prediction.class_jackknife import class_half_width
from ebmeta.prediction.risk_coverage import area_under_risk_coverage
from ebmeta.prediction.trees import assemble, marginals, predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import check_names
from ebmeta.tasks.leaks import tell_of_leaks
from ebmeta.tasks.marks import tell_of_known
from ebmeta.tasks.source import TaskSampler, as_source

__all__ = ["calibration_error", "evaluate", "query_scores", "reliability_bins", "table", "task_batches", "task_scores"]

#: The parts of the Brier score, which add up to it: first minus second plus third.
PARTS = {
    "brier_reliability": "reliability",
    "brier_resolution": "generalized_resolution",
    "brier_uncertainty": "uncertainty",
}
TINY = float(np.finfo(np.float32).tiny)
DETAIL = {*PARTS, "ece_mass", "overconfidence"}  # in the dataset, not in the printed table


@checked(num_tasks=at_least(1))
def task_batches(
    tasks: TaskSampler | TaskBatch, num_tasks: int, model: PredictiveModel | None = None
) -> list[TaskBatch]:
    """Return a batch as it is, or the batches 0, 1, ... of 64 tasks of a source, `num_tasks` in all.

    Args:
        tasks: tasks, or a source of them.
        num_tasks: how many tasks to draw from a source.
        model: the model that the tasks are for; named columns have to be those of the model.

    Raises:
        ValueError: if `num_tasks` is below 1, or the columns are not those of the model.
    """
    source = as_source(tasks)
    if model is not None:
        check_names(model.feature_names, source.feature_names, "when the model was trained")
        check_names(model.covariate_names, source.covariate_names, "when the model was trained", "covariate")
    batches = source.batches(num_tasks)
    tell_of_leaks(batches[0], "tasks")
    return batches


def separate_batches(
    tasks: TaskSampler | TaskBatch, num_tasks: int, model: PredictiveModel | None = None, index: int = 0
) -> list[TaskBatch]:
    """Return batches as `task_batches` does, but of a source of groups each group once: tasks are then independent.

    Args:
        tasks: tasks, or a source of them.
        num_tasks: how many tasks to draw from a source of classes.
        model: the model that the tasks are for.
        index: number of the split of groups into support and query.

    Raises:
        ValueError: see `task_batches`.
    """
    source = as_source(tasks)
    batches = task_batches(tasks, num_tasks if source.groups is None else 1, model)
    return batches if source.groups is None else [source.disjoint(index)]


def classes_of(batches: Sequence[TaskBatch]) -> np.ndarray | None:
    """Return the numbers of the classes of every task, shape `(T, C)`, -1 for none; None where tasks name none."""
    numbers = [batch.way_class for batch in batches]
    if any(of is None or (of < 0).all() for of in numbers):
        return None
    known = [of.cpu().numpy() for of in numbers if of is not None]
    width = max(of.shape[1] for of in known)
    return np.concatenate([np.pad(of, ((0, 0), (0, width - of.shape[1])), constant_values=-1) for of in known])


def repeats(tasks: TaskSampler | TaskBatch, num_tasks: int) -> float:
    """Return how often a source of groups draws each group, at least 1.

    Splits of one group are not independent, so half widths grow with the root of this number.

    Args:
        tasks: a source of tasks, or tasks.
        num_tasks: how many are drawn.

    Examples:
        >>> from ebmeta import GroupSampler
        >>> repeats(GroupSampler([[0.0]] * 6, [0.0] * 6, [1, 1, 1, 2, 2, 2], n_support=1), 50)
        25.0
    """
    groups = as_source(tasks).num_groups
    return 1.0 if groups is None else max(1.0, num_tasks / groups)


@checked(num_tasks=at_least(1), num_steps=at_least(0), num_bootstrap=at_least(0))
def evaluate(
    model: PredictiveModel,
    tasks: TaskSampler | TaskBatch,
    num_tasks: int = 600,
    *,
    num_steps: int | None = None,
    num_bootstrap: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Score the model's predictions against the query labels, after every refinement step.

    Args:
        model: the model.
        tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used). A warning tells where
            training or validation has used their classes or groups (see `ebmeta.tasks.marks`).
        num_tasks: how many tasks to draw from a source.
        num_steps: refinement steps, $K$; those of training by default.
        num_bootstrap: resamples of tasks behind the intervals of calibration errors and Brier parts.
        seed: seed of the bootstrap.

    Returns:
        Over `step`: each metric and its half width of a 95% interval, `<metric>_half_width` (over groups, where the
        source has fewer of them than tasks are drawn; see `repeats`). Where tasks name their classes, means over tasks
        also have the half width for other classes, `<metric>_half_width_classes` (`ebmeta.prediction.class_jackknife`).
        Over `(step, task, query)`: `confidence` and `correct` of the top label (classes only), NaN for padding.

    Raises:
        ValueError: if the tasks are unlabelled or do not fit the model.
    """
    batches = task_batches(tasks, num_tasks, model)
    parts = [task_scores(model, batch, num_steps) for batch in batches]
    tell_of_known(model.marks, tasks, "tasks")
    data = xr.concat(parts, "task", join="outer") if len(parts) > 1 else parts[0]
    data = data.assign_coords(task=np.arange(data.sizes["task"]))
    out: dict[str, xr.DataArray] = {}
    repetition, classes = repeats(tasks, data.sizes["task"]), classes_of(batches)
    for name in [n for n in data if data[n].dims == ("step", "task")]:
        values = data[name]
        mean, error = values.mean("task"), values.std("task", ddof=1) * np.sqrt(repetition / values.sizes["task"])
        if name == "squared_error":  # a root of a mean: interval by the delta method
            out["rmse"] = mean**0.5
            out["rmse_half_width"] = Z95 * error / (2 * mean**0.5)
        else:
            out[str(name)], out[f"{name}_half_width"] = mean, Z95 * error
            if classes is not None:
                over = [class_half_width(v, classes) for v in values.transpose("step", "task").values]
                out[f"{name}_half_width_classes"] = mean.copy(data=over)
    if "confidence" in data:
        out |= {"confidence": data["confidence"], "correct": data["correct"]}
        steps = [_calibration(data.isel(step=k), num_bootstrap, seed) for k in range(data.sizes["step"])]
        for name in steps[0]:
            out[name] = xr.DataArray([step[name].value for step in steps], dims="step")
            out[f"{name}_half_width"] = xr.DataArray([step[name].half_width for step in steps], dims="step")
    result = xr.Dataset(out)
    result.attrs["num_tasks"] = data.sizes["task"]
    if classes is not None:
        result.attrs["num_classes"] = int(np.unique(classes[classes >= 0]).size)
    if repetition > 1:
        result.attrs["num_groups"] = round(data.sizes["task"] / repetition)
    for name, unit in {"nll": "nats per query", "rmse": "label", "accuracy": "1", "coverage": "1"}.items():
        if name in result:
            result[name].attrs["units"] = unit
    return result


@checked(evaluation=dataset("an evaluation", nll=("step",), nll_half_width=("step",)))
def table(evaluation: xr.Dataset) -> str:
    """Return the scores as text: a row per refinement step, each number with its 95% interval.

    Overconfidence, the second calibration error and the parts of the Brier score are left to the dataset.

    Args:
        evaluation: what `evaluate` returned.

    Examples:
        >>> scores = xr.Dataset({"nll": ("step", [0.5]), "nll_half_width": ("step", [0.02])}, attrs={"num_tasks": 9})
        >>> print(table(scores))
          K              nll
          0  0.5000 ± 0.0200
        9 tasks, ± 95% interval over tasks
    """
    names = [str(n) for n in evaluation if f"{n}_half_width" in evaluation and n not in DETAIL]
    over_classes = [n for n in names if f"{n}_half_width_classes" in evaluation]
    lines = ["  K" + "".join(f"{name:>17}" for name in names)]
    for k in range(evaluation.sizes["step"]):
        row = evaluation.isel(step=k)
        lines.append(f"{k:3d}" + "".join(f"{float(row[n]):8.4f} ± {float(row[f'{n}_half_width']):.4f}" for n in names))
    groups = evaluation.attrs.get("num_groups")
    over = (
        "tasks, ± 95% interval over tasks"
        if groups is None
        else f"tasks of {groups} groups, ± 95% interval over groups"
    )
    lines.append(f"{evaluation.attrs['num_tasks']} {over}")
    if over_classes:
        last = evaluation.isel(step=-1)
        widths = ", ".join(f"{n} ± {float(last[f'{n}_half_width_classes']):.4f}" for n in over_classes)
        lines.append(f"for other classes than these {evaluation.attrs['num_classes']}, last row: {widths}")
    return "\n".join(lines)


def query_scores(probs: np.ndarray, y: np.ndarray, least: float = TINY) -> dict[str, np.ndarray]:
    r"""Return the scores of every query from plain arrays of class probabilities of any model.

    $$ -\log p_y, \qquad \sum_c (p_c - 1\{y = c\})^2, \qquad 1\{\arg\max_c p_c = y\}, \qquad \max_c p_c $$

    Args:
        probs: class probabilities $p$, shape `(..., T, Q, C)`; NaN where a class or a query is padding.
        y: true classes $y$, shape `(T, Q)`; any class for padding.
        least: probability below which one counts as that.

    Returns:
        `nll` in nats, `brier`, `accuracy` and `confidence`, each of shape `(..., T, Q)`.

    Examples:
        >>> scores = query_scores(np.array([[[0.75, 0.25]]]), np.array([[1]]))
        >>> {name: round(float(values[0, 0]), 4) for name, values in scores.items()}
        {'nll': 1.3863, 'brier': 1.125, 'accuracy': 0.0, 'confidence': 0.75}
    """
    truth = np.broadcast_to(y, probs.shape[:-1])[..., None]
    picked, filled = np.take_along_axis(probs, truth, -1)[..., 0], np.where(np.isnan(probs), -1, probs)
    return {
        "nll": -np.log(np.maximum(picked, least)),
        "brier": np.nansum(probs**2, -1) - 2 * picked + 1,
        "accuracy": (filled.argmax(-1) == truth[..., 0]).astype(float),
        "confidence": filled.max(-1),
    }


@checked(num_steps=at_least(0))
@undisturbed()
def task_scores(model: PredictiveModel, batch: TaskBatch, num_steps: int | None = None) -> xr.Dataset:
    """Return the metrics of every task after every refinement step, and the top labels of every query.

    Args:
        model: the model.
        batch: $T$ labelled tasks.
        num_steps: refinement steps, $K$; those of training by default.

    Returns:
        Over `(step, task)`: `nll` in nats per query, and `accuracy`, `brier` and `overconfidence`, or `squared_error`
        and, where there is a cdf, `coverage` of central 90% intervals, each a mean over queries. For classes also what
        `evaluate` makes calibration errors of.

    Raises:
        ValueError: if the tasks are unlabelled or do not fit the model.
    """
    if batch.query_y is None:
        raise ValueError("evaluate: expected query labels, got unlabelled tasks")
    mask = xr.DataArray(batch.query_mask.cpu().numpy(), dims=("task", "query"))
    y = xr.DataArray(batch.query_y.cpu().numpy(), dims=("task", "query"))
    if model.likelihood.categorical:
        found = predict(model, batch, num_steps=num_steps, num_draws=0)["predictive"].to_dataset()
        probs = found["probs"].transpose("step", "task", "query", "way").values
        dims, scores = ("step", "task", "query"), query_scores(probs, np.clip(y.values, 0, None))
        at = {dim: found[dim] for dim in dims}  # batches of unequal numbers of queries are put side by side
        queries = {name: xr.DataArray(values, at, dims) for name, values in scores.items()}
        extra = {"confidence": queries.pop("confidence").where(mask), "correct": queries["accuracy"].where(mask)}
        queries["overconfidence"] = extra["confidence"] - extra["correct"]
        hit = np.arange(probs.shape[-1]) == y.values[..., None]
        sums = bin_sums(probs.astype(float), hit, bin_edges(probs)).sum(2)  # queries of a task weigh alike
        extra["pairs"] = xr.DataArray(sums, dims=("step", "task", "bin", "moment")) / mask.sum("query")
    else:
        queries, extra = _number_scores(model, batch, num_steps), {}
    per_task = {k: v.where(mask).mean("query").transpose("step", "task") for k, v in queries.items()}
    return xr.Dataset({**per_task, **{k: v.transpose("step", "task", ...) for k, v in extra.items()}})


def _number_scores(model: PredictiveModel, batch: TaskBatch, num_steps: int | None) -> dict[str, xr.DataArray]:
    """Return the scores of every query whose label is a number, dimensions `(step, task, query)`."""
    found: list[dict[str, torch.Tensor]] = []
    chunks = marginals(model, batch, num_steps)
    assert batch.query_y is not None  # for the type checker: the caller has looked
    for chunk in chunks:
        inferred, steps, y = chunk.inferred, chunk.inferred.num_steps + 1, chunk.of(batch.query_y)
        none, discrete = inferred.x.new_zeros(1), model.likelihood.discrete
        with torch.no_grad():
            nll = torch.stack([-inferred.log_prob(k, y, none, predictive=True) for k in range(steps)])
            scores = {"nll": nll, "squared_error": (y - chunk.summaries["mean"]).square()}
            if model.likelihood.has_cdf:
                reached = torch.stack([inferred.cdf(k, y) for k in range(steps)])
                before = torch.stack([inferred.cdf(k, y - 1) for k in range(steps)]) if discrete else reached
                scores["coverage"] = ((reached >= 0.05) & (before < 0.95)).to(nll.dtype)
        found.append(scores)
    dims, width = ("step", "task", "query"), batch.query_mask.shape[1]
    return {name: xr.DataArray(assemble(chunks, [f[name] for f in found], 1, width), dims=dims) for name in found[0]}


def _calibration(data: xr.Dataset, num_bootstrap: int, seed: int) -> dict[str, Interval]:
    """Return the calibration metrics of one step."""
    confidence, correct = data["confidence"].values, data["correct"].values
    out = {
        "ece": calibration_interval(confidence, correct, num_bootstrap=num_bootstrap, seed=seed),
        "ece_mass": calibration_interval(confidence, correct, mass=True, num_bootstrap=num_bootstrap, seed=seed),
        "aurc": area_under_risk_coverage(confidence, correct),
    }
    sums = data["pairs"].transpose("task", "bin", "moment").values / data.sizes["task"]
    for name, part in PARTS.items():
        out[name] = bootstrap(sums, partial(_part, part), num_bootstrap, seed)
    return out


def _part(name: str, sums: np.ndarray) -> np.ndarray:
    return brier_decomposition(sums)[name]
