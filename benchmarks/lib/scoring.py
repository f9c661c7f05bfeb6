"""Scores of class probabilities, the same for every method: accuracy, proper scores, calibration, conformal sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ebmeta.prediction.calibration import (
    Z95,
    bin_edges,
    bin_sums,
    brier_decomposition,
    calibration_interval,
    reliability_bins,
)
from ebmeta.prediction.class_jackknife import class_half_width
from ebmeta.prediction.conformal import ConformalSets, set_coverage
from ebmeta.prediction.risk_coverage import area_under_risk_coverage
from ebmeta.prediction.scores import query_scores

TINY = 1e-30


def temper(probs: Tensor, temperature: float) -> Tensor:
    r"""Return $p^{1/\tau}$, normalised over classes."""
    return torch.softmax(probs.clamp(min=TINY).log() / temperature, -1)


def fit_temperature(probs: Tensor, y: Tensor) -> float:
    r"""Return the $\tau$ in [0.02, 50] of least NLL, by golden-section search on its logarithm."""
    low, high, ratio = np.log(0.02), np.log(50.0), (np.sqrt(5) - 1) / 2

    def nll(log_temperature: float) -> float:
        picked = temper(probs, float(np.exp(log_temperature))).gather(-1, y.unsqueeze(-1))
        return float(-picked.clamp(min=TINY).log().mean())

    while high - low > 1e-3:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if nll(left) < nll(right) else (left, high)
    return float(np.exp((low + high) / 2))


def _interval(per_task: np.ndarray) -> list[float]:
    return [float(per_task.mean()), float(Z95 * per_task.std(ddof=1) / len(per_task) ** 0.5)]


def score(probs: Tensor, y: Tensor, classes: Tensor | None = None) -> dict[str, list[float] | float]:
    """Return each score with the half width of its 95% interval over tasks.

    Args:
        probs: class probabilities, shape `(T, Q, C)`.
        y: true classes, shape `(T, Q)`.
        classes: numbers of the classes of each task, shape `(T, C)`; with them `accuracy_classes` and
            `overconfidence_classes` are half widths for other classes, where tasks differ in theirs.

    Returns:
        The scores by name; `overconfidence` is mean confidence less accuracy.
    """
    each = query_scores(probs.numpy(), y.numpy(), TINY)
    right, sure = each["accuracy"], np.clip(each["confidence"], 0, 1)
    error, mass = calibration_interval(sure, right), calibration_interval(sure, right, mass=True)
    pairs = probs.numpy().reshape(1, -1)
    hits = torch.nn.functional.one_hot(y, probs.shape[-1]).numpy().reshape(1, -1)
    parts = brier_decomposition(bin_sums(pairs, hits, bin_edges(pairs))[0] / y.numel())
    area = area_under_risk_coverage(sure, right)
    of_tasks = {"accuracy": right.mean(1).astype(float), "overconfidence": (sure - right).mean(1)}
    over = {} if classes is None else {name: class_half_width(v, classes.numpy()) for name, v in of_tasks.items()}
    return {f"{name}_classes": width for name, width in over.items() if not np.isnan(width)} | {
        **{name: _interval(values) for name, values in of_tasks.items()},
        "nll": _interval(each["nll"].mean(1)),
        "brier": _interval(each["brier"].mean(1)),
        "brier_reliability": float(parts["reliability"]),
        "brier_resolution": float(parts["generalized_resolution"]),
        "brier_uncertainty": float(parts["uncertainty"]),
        "ece": [error.value, error.half_width],
        "ece_mass": [mass.value, mass.half_width],
        "aurc": [area.value, area.half_width],
    }


def curves(probs: Tensor, y: Tensor, points: int = 50) -> dict[str, list[float]]:
    """Return what the reliability diagram and the risk-coverage curve of the final predictions are drawn from."""
    each = query_scores(probs.numpy(), y.numpy(), TINY)
    right, sure = each["accuracy"], each["confidence"]
    bins = reliability_bins(np.clip(sure, 0, 1), right)
    order = np.argsort(-sure.ravel(), kind="stable")
    risk = np.cumsum(1 - right.ravel()[order]) / np.arange(1, right.size + 1)
    at = np.linspace(0, right.size - 1, points + 1)[1:].astype(int)
    return {
        "bin_count": bins["count"].values.tolist(),
        "bin_confidence": [None if np.isnan(v) else float(v) for v in bins["confidence"].values],
        "bin_accuracy": [None if np.isnan(v) else float(v) for v in bins["accuracy"].values],
        "coverage": ((at + 1) / right.size).tolist(),
        "risk": risk[at].tolist(),
    }


def conformal(calibration: Sequence[Tensor], test: Sequence[Tensor], level: float = 0.9) -> dict[str, list[float]]:
    """Return coverage and mean size of conformal sets, calibrated on some tasks and scored on others."""
    sets = ConformalSets(level=level).calibrate_probs(calibration[0].numpy(), calibration[1].numpy())
    result = set_coverage(sets.predict_probs(test[0].numpy()), test[1].numpy())
    return {k: [float(result[k]), float(result[f"{k}_half_width"])] for k in ("coverage", "size")}


def rounded(value: object, digits: int = 5) -> object:
    """Round every float of a nested structure."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v, digits) for v in value]
    return round(value, digits) if isinstance(value, float) else value
