r"""Evaluation: accuracy, proper scores and calibration after every refinement step.

For classes: accuracy, NLL (nats per query), Brier score $\sum_c (p_c - 1\{y = c\})^2$, and the expected
calibration error of the top label,

$$ \mathrm{ECE} = \sum_b \frac{n_b}{n} \lvert \mathrm{acc}(b) - \mathrm{conf}(b) \rvert, $$

over 15 bins of equal width, the last closed so that confidence 1 counts. For real labels: root mean
squared error, NLL, and coverage of central 90% intervals. A task is the unit of sampling: means are
over tasks, and intervals are over tasks too (normal for means, bootstrap for the ECE).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import xarray as xr

from ebmeta.model import EmpiricalBayes
from ebmeta.predict import predict
from ebmeta.sampling import TaskSampler
from ebmeta.tasks import TaskBatch

__all__ = ["calibration_error", "evaluate", "reliability_bins", "table"]

BINS = 15
Z95 = NormalDist().inv_cdf(0.975)
Z90 = NormalDist().inv_cdf(0.95)


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> xr.Dataset:
    """Bin top-label predictions by confidence.

    Args:
        confidence: probability of the predicted class, any shape.
        correct: whether it was right, same shape.
        bins: number of bins of equal width.

    Returns:
        Over dimension `bin`: `count`, `confidence` (mean), `accuracy`; NaN where a bin is empty.

    Raises:
        ValueError: if shapes differ or a confidence is outside [0, 1].

    Examples:
        >>> reliability_bins(np.array([0.9, 1.0]), np.array([True, False]), bins=2)["accuracy"].values
        array([nan, 0.5])
    """
    confidence, correct = np.ravel(confidence), np.ravel(correct)
    if confidence.shape != correct.shape or not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise ValueError(
            f"expected confidences in [0, 1] with one outcome each, got {confidence.shape} and {correct.shape}"
        )
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, bins) / count
        accuracy = np.bincount(index, correct, bins) / count
    return xr.Dataset(
        {"count": ("bin", count), "confidence": ("bin", mean), "accuracy": ("bin", accuracy)},
        coords={"bin": (np.arange(bins) + 0.5) / bins},
    )


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error, a probability; arguments as for `reliability_bins`."""
    table = reliability_bins(confidence, correct, bins)
    gap = np.abs(table["accuracy"] - table["confidence"])
    return float((gap * table["count"]).sum() / table["count"].sum())


def evaluate(
    model: EmpiricalBayes,
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
        tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
        num_tasks: how many tasks to draw from a source.
        num_steps: refinement steps, $K$; those of training by default.
        num_bootstrap: resamples of tasks behind the interval of the ECE.
        seed: seed of the bootstrap.

    Returns:
        Over `step`: each metric and its half width of a 95% interval, `<metric>_half_width`. Over
        `(step, task, query)`: `confidence` and `correct` of the top label (classes only), NaN for padding.

    Raises:
        ValueError: if the tasks are unlabelled or do not fit the model.
    """
    if isinstance(tasks, TaskBatch):
        batches = [tasks]
    else:
        if num_tasks < 1:
            raise ValueError(f"num_tasks: expected at least 1, got {num_tasks}")
        batches = [tasks.sample(min(64, num_tasks - s), i) for i, s in enumerate(range(0, num_tasks, 64))]
    parts = [_scores(model, batch, num_steps) for batch in batches]
    data = xr.concat(parts, "task", join="outer") if len(parts) > 1 else parts[0]
    data = data.assign_coords(task=np.arange(data.sizes["task"]))
    out: dict[str, xr.DataArray] = {}
    for name in [n for n in data if data[n].dims == ("step", "task")]:
        values = data[name]
        mean, error = values.mean("task"), values.std("task", ddof=1) / np.sqrt(values.sizes["task"])
        if name == "squared_error":  # a root of a mean: interval by the delta method
            out["rmse"] = mean**0.5
            out["rmse_half_width"] = Z95 * error / (2 * mean**0.5)
        else:
            out[str(name)], out[f"{name}_half_width"] = mean, Z95 * error
    if "confidence" in data:
        out |= {"confidence": data["confidence"], "correct": data["correct"]}
        ece = [_ece(data.isel(step=k), num_bootstrap, seed) for k in range(data.sizes["step"])]
        out["ece"] = xr.DataArray([e for e, _ in ece], dims="step")
        out["ece_half_width"] = xr.DataArray([h for _, h in ece], dims="step")
    result = xr.Dataset(out)
    result.attrs["num_tasks"] = data.sizes["task"]
    for name, unit in {"nll": "nats per query", "rmse": "label", "accuracy": "1", "coverage": "1"}.items():
        if name in result:
            result[name].attrs["units"] = unit
    return result


def table(evaluation: xr.Dataset) -> str:
    """Return the scores as text: a row per refinement step, each number with its 95% interval.

    Args:
        evaluation: what `evaluate` returned.

    Examples:
        >>> scores = xr.Dataset({"nll": ("step", [0.5]), "nll_half_width": ("step", [0.02])}, attrs={"num_tasks": 9})
        >>> print(table(scores))
          K              nll
          0  0.5000 ± 0.0200
        9 tasks, ± 95% interval over tasks
    """
    names = [str(n) for n in evaluation if f"{n}_half_width" in evaluation]
    lines = ["  K" + "".join(f"{name:>17}" for name in names)]
    for k in range(evaluation.sizes["step"]):
        row = evaluation.isel(step=k)
        lines.append(f"{k:3d}" + "".join(f"{float(row[n]):8.4f} ± {float(row[f'{n}_half_width']):.4f}" for n in names))
    lines.append(f"{evaluation.attrs['num_tasks']} tasks, ± 95% interval over tasks")
    return "\n".join(lines)


def _scores(model: EmpiricalBayes, batch: TaskBatch, num_steps: int | None) -> xr.Dataset:
    """Return the metrics of every task, and the top labels of every query."""
    if batch.query_y is None:
        raise ValueError("evaluate: expected query labels, got unlabelled tasks")
    table = predict(model, batch, num_steps=num_steps, num_draws=0)["predictive"].to_dataset()
    mask = xr.DataArray(batch.query_mask.cpu().numpy(), dims=("task", "query"))
    y = xr.DataArray(batch.query_y.cpu().numpy(), dims=("task", "query"))
    if "probs" in table:
        probs = table["probs"].transpose("step", "task", "query", "way")
        truth = np.clip(y.values, 0, None)[None, :, :, None]
        picked = np.take_along_axis(probs.values, truth, -1)[..., 0]
        of_truth = xr.DataArray(picked, dims=("step", "task", "query"))
        filled = probs.fillna(-1.0)
        confidence, top = probs.max("way"), filled.argmax("way")
        correct = (top == y).astype(float).where(mask)
        queries: dict[str, xr.DataArray] = {
            "nll": xr.apply_ufunc(np.log, of_truth.clip(min=np.finfo(np.float32).tiny)) * -1.0,
            "brier": (probs**2).sum("way") - 2 * of_truth + 1,
            "accuracy": correct,
        }
        extra: dict[str, xr.DataArray] = {"confidence": confidence.where(mask), "correct": correct}
    else:
        mean, std = table["mean"], table["std"]
        z = (y - mean) / std
        queries = {
            "nll": (z**2 + np.log(2 * np.pi * std**2)) / 2,
            "squared_error": (y - mean) ** 2,
            "coverage": (z**2 <= Z90**2).astype(float),
        }
        extra = {}
    per_task = {k: v.where(mask).mean("query").transpose("step", "task") for k, v in queries.items()}
    return xr.Dataset({**per_task, **{k: v.transpose("step", "task", "query") for k, v in extra.items()}})


def _ece(data: xr.Dataset, num_bootstrap: int, seed: int) -> tuple[float, float]:
    """Return the ECE of one step and its half width by a bootstrap over tasks."""
    confidence, correct = data["confidence"].values, data["correct"].values
    real = ~np.isnan(confidence)
    value = calibration_error(confidence[real], correct[real])
    # Sums per (task, bin) make a resample a weighted sum.
    index = np.minimum((np.where(real, confidence, 0.0) * BINS).astype(int), BINS - 1)
    tasks = np.repeat(np.arange(len(confidence))[:, None], confidence.shape[1], 1)
    gap = np.zeros((len(confidence), BINS))
    np.add.at(gap, (tasks[real], index[real]), (correct - confidence)[real])
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(gap), np.full(len(gap), 1 / len(gap)), size=num_bootstrap)
    resampled = np.abs(weights @ gap).sum(1) / (weights @ real.sum(1))
    known = num_bootstrap > 1 and len(gap) > 1
    return value, float(Z95 * resampled.std(ddof=1)) if known else float("nan")
