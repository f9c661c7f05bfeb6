r"""Calibration of class probabilities on plain arrays, by reliability and the Brier decomposition.

Everything is computed from sums over the queries of a task that fall in a bin, so a resample of tasks,
the unit of sampling, is a weighted sum. With confidence $c$, the probability of the predicted class,
the expected calibration error of the top label is

$$ \mathrm{ECE} = \sum_b \frac{n_b}{n} \lvert \mathrm{acc}(b) - \mathrm{conf}(b) \rvert $$

over bins of equal width (the last closed, so that confidence 1 counts) or of equal mass. Arrays of shape
`(T, Q)` hold NaN where a query is padding. Derivations: `theory/calibration.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import xarray as xr

from ebmeta.foundation.checks import array, at_least, checked

__all__ = [
    "Interval",
    "bin_edges",
    "bin_sums",
    "bootstrap",
    "brier_decomposition",
    "calibration_error",
    "calibration_interval",
    "prediction_pairs",
    "reliability_bins",
]

BINS = 15
Z95 = NormalDist().inv_cdf(0.975)
MOMENTS = 5  # per bin: weight, and the weighted sums of p, y, p^2 and p y


class Interval(NamedTuple):
    """An estimate and the half width of its 95% interval over tasks (NaN where there is one task)."""

    value: float
    half_width: float


def prediction_pairs(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check two arrays of one shape; padding is NaN in the first and becomes NaN in both.

    Args:
        confidence: probabilities; NaN is padding.
        correct: outcomes in [0, 1], same shape.

    Raises:
        ValueError: if shapes differ, a number is outside [0, 1], or all is padding.
    """
    real = ~np.isnan(confidence)
    inside = ((confidence >= 0) & (confidence <= 1 + 1e-6))[real].all()
    if inside and confidence.shape == correct.shape:
        inside = ((correct >= 0) & (correct <= 1))[real].all()
    if confidence.shape != correct.shape or not inside:
        raise ValueError(
            f"expected confidences in [0, 1] with one outcome each, got {confidence.shape} and {correct.shape}"
        )
    if not real.any():
        raise ValueError("confidence: expected at least one prediction, got none")
    return confidence, np.where(real, correct, np.nan)


@checked(confidence=array(padded=True), bins=at_least(1))
def bin_edges(confidence: np.ndarray, bins: int = BINS, *, mass: bool = False) -> np.ndarray:
    """Return the edges of the bins, shape `(bins + 1,)`.

    Args:
        confidence: probabilities, any shape; NaN is left out.
        bins: number of bins.
        mass: bins of equal mass, so that each holds a share `1 / bins` of the predictions (but for
            ties, which stay together), instead of equal width.

    Raises:
        ValueError: if `bins` is below 1.
    """
    shares = np.linspace(0.0, 1.0, bins + 1)
    return np.nanquantile(confidence, shares) if mass else shares


@checked(p=array(padded=True), y=array(padded=True), edges=array(ndim=1))
def bin_sums(p: np.ndarray, y: np.ndarray, edges: np.ndarray) -> np.ndarray:
    r"""Return the sums of $1, p, y, p^2, py$ over the predictions of a row in each bin.

    Args:
        p: probabilities, shape `(..., N)`; NaN is padding.
        y: outcomes in [0, 1], same shape, or one that repeats to it.
        edges: edges of the bins, shape `(bins + 1,)`; a bin holds its lower edge, the last its upper too.

    Returns:
        Sums, shape `(..., bins, 5)`.
    """
    if y.ndim > p.ndim or any(n not in (1, m) for n, m in zip(y.shape[::-1], p.shape[::-1], strict=False)):
        raise ValueError(f"y: expected shape {p.shape} to match p, got {y.shape}")
    if len(edges) < 2 or (np.diff(edges) < 0).any():
        raise ValueError("edges: expected two or more rising numbers, got others")
    known = ~np.isnan(p)
    for name, value in (("p", p), ("y", np.broadcast_to(y, p.shape))):
        if not ((value >= 0) & (value <= 1 + 1e-6))[known].all():
            raise ValueError(f"{name}: expected numbers in [0, 1] where p is no padding, got others")
    bins = len(edges) - 1
    rows, real = p.reshape(-1, p.shape[-1]), ~np.isnan(p.reshape(-1, p.shape[-1]))
    index = np.searchsorted(edges[1:-1], rows, side="right") + bins * np.arange(len(rows))[:, None]
    p, y, shape = rows[real], np.broadcast_to(y, p.shape).reshape(rows.shape)[real], p.shape[:-1]
    moments = (np.ones_like(p), p, y, p * p, p * y)
    sums = [np.bincount(index[real], moment, bins * len(rows)) for moment in moments]
    return np.stack(sums, -1).reshape(*shape, bins, MOMENTS)


@checked(sums=array(), num_bootstrap=at_least(0))
def bootstrap(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], num_bootstrap: int = 200, seed: int = 0
) -> Interval:
    """Return a statistic of sums over tasks, with the half width of its interval over resamples of tasks.

    Args:
        sums: one entry of any shape for each task, shape `(T, ...)`.
        statistic: function of total sums of shape `(..., *entry)`, vectorised over the leading dimensions.
        num_bootstrap: resamples of tasks.
        seed: seed of the resamples.
    """
    tasks = len(sums)
    try:
        value = float(statistic(sums.sum(0)))
    except (TypeError, ValueError):
        raise ValueError("statistic: expected a function from sums to one number, got one of something else") from None
    if tasks < 2 or num_bootstrap < 2:
        return Interval(value, float("nan"))
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=num_bootstrap)
    draws = statistic((weights @ sums.reshape(tasks, -1)).reshape(num_bootstrap, *sums.shape[1:]))
    if np.shape(draws) != (num_bootstrap,):
        raise ValueError(f"statistic: expected one number for each resample, got shape {np.shape(draws)}")
    return Interval(value, float(Z95 * draws.std(ddof=1)))


@checked(confidence=array(padded=True), correct=array(padded=True), bins=at_least(1))
def reliability_bins(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, *, mass: bool = False
) -> xr.Dataset:
    """Bin top-label predictions by confidence.

    Args:
        confidence: probability of the predicted class, any shape; NaN is left out.
        correct: whether it was right, same shape.
        bins: number of bins.
        mass: bins of equal mass instead of equal width.

    Returns:
        Over dimension `bin` (its coordinate is the middle of the bin): `count`, `confidence` (mean),
        `accuracy`; NaN where a bin is empty.

    Raises:
        ValueError: if shapes differ or a confidence is outside [0, 1].

    Examples:
        >>> reliability_bins(np.array([0.9, 1.0]), np.array([True, False]), bins=2)["accuracy"].values
        array([nan, 0.5])
    """
    confidence, correct = prediction_pairs(confidence, correct)
    edges = bin_edges(confidence, bins, mass=mass)
    count, p, y = bin_sums(confidence.ravel(), correct.ravel(), edges).T[:3]
    with np.errstate(invalid="ignore"):
        mean, accuracy = p / count, y / count
    return xr.Dataset(
        {"count": ("bin", count.astype(int)), "confidence": ("bin", mean), "accuracy": ("bin", accuracy)},
        coords={"bin": (edges[1:] + edges[:-1]) / 2},
    )


def _error(sums: np.ndarray) -> np.ndarray:
    """Return the ECE of sums of shape `(..., bins, 5)`."""
    error: np.ndarray = np.abs(sums[..., 2] - sums[..., 1]).sum(-1) / sums[..., 0].sum(-1)
    return error


@checked(confidence=array(padded=True), correct=array(padded=True), bins=at_least(1))
def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, *, mass: bool = False) -> float:
    """Return the expected calibration error, a probability; arguments as for `reliability_bins`."""
    confidence, correct = prediction_pairs(confidence, correct)
    edges = bin_edges(confidence, bins, mass=mass)
    return float(_error(bin_sums(confidence.ravel(), correct.ravel(), edges)))


@checked(confidence=array(padded=True), correct=array(padded=True), bins=at_least(1), num_bootstrap=at_least(0))
def calibration_interval(
    confidence: np.ndarray,
    correct: np.ndarray,
    bins: int = BINS,
    *,
    mass: bool = False,
    num_bootstrap: int = 200,
    seed: int = 0,
) -> Interval:
    """Return the expected calibration error with a bootstrap over tasks, in the bins of the whole sample.

    Args:
        confidence: probability of the predicted class, shape `(T, Q)`; NaN is padding.
        correct: whether it was right, same shape.
        bins: number of bins.
        mass: bins of equal mass instead of equal width.
        num_bootstrap: resamples of tasks.
        seed: seed of the resamples.

    Returns:
        The error and the half width of its 95% interval, probabilities.

    Raises:
        ValueError: as for `reliability_bins`.

    Examples:
        >>> confidence = np.array([[0.9, 0.8], [0.6, np.nan]])
        >>> error = calibration_interval(confidence, np.array([[1, 0], [1, 0]]), num_bootstrap=50)
        >>> round(error.value, 3)  # three bins with one prediction each: (0.1 + 0.8 + 0.4) / 3
        0.433
    """
    confidence, correct = prediction_pairs(confidence, correct)
    sums = bin_sums(confidence, correct, bin_edges(confidence, bins, mass=mass))
    return bootstrap(sums, _error, num_bootstrap, seed)


@checked(sums=array())
def brier_decomposition(sums: np.ndarray) -> dict[str, np.ndarray]:
    r"""Split the Brier score of class probabilities, pooled over (query, class) pairs.

    A class number means nothing across tasks, so a query of a task with $C$ ways counts as $C$ binary
    forecasts $p_c$ of $y_c = 1\{y = c\}$. Summed over the classes of a query, with $W_b$ the weight of the
    pairs in bin $b$ and $\bar p_b$, $\bar y_b$, $\bar y$ their means,

    $$ \mathrm{Brier} = \sum_b W_b (\bar p_b - \bar y_b)^2 - \sum_b W_b (\bar y_b - \bar y)^2
       + W \bar y (1 - \bar y) + \sum_b W_b \mathrm{Var}_b(p) - 2 \sum_b W_b \mathrm{Cov}_b(p, y), $$

    reliability, resolution, uncertainty and the two terms within bins, without which the identity is
    not exact. Sources: Murphy 1973; Stephenson, Coelho and Jolliffe 2008.

    Args:
        sums: `bin_sums` of the pairs, shape `(..., bins, 5)`, divided by the number of queries.

    Returns:
        Arrays of shape `(...)`: `brier`, and its parts `reliability`, `resolution`, `uncertainty`,
        `within_variance`, `within_covariance` (that is, twice the sum above). `generalized_resolution`
        takes in the terms within bins, so that brier = reliability - generalized_resolution + uncertainty.

    Examples:
        >>> p, y = np.array([0.9, 0.1, 0.6, 0.4]), np.array([1, 0, 0, 1])  # two queries of two ways
        >>> parts = brier_decomposition(bin_sums(p, y, np.array([0.0, 0.5, 1.0])) / 2)
        >>> [round(float(parts[name]), 3) for name in ("reliability", "generalized_resolution", "uncertainty")]
        [0.125, 0.255, 0.5]
        >>> round(float(parts["brier"]), 3)
        0.37
    """
    if sums.ndim < 2 or sums.shape[-1] != MOMENTS:
        raise ValueError(f"sums: expected shape (..., bins, {MOMENTS}), got {sums.shape}")
    weight, p, y, pp, py = np.moveaxis(sums, -1, 0)
    per_bin = np.where(weight > 0, weight, 1.0)
    total = weight.sum(-1)
    base = y.sum(-1) / total
    reliability = ((p - y) ** 2 / per_bin).sum(-1)
    resolution = ((y - weight * base[..., None]) ** 2 / per_bin).sum(-1)
    variance = (pp - p * p / per_bin).sum(-1)
    covariance = 2 * (py - p * y / per_bin).sum(-1)
    return {
        "brier": (pp - 2 * py + y).sum(-1),
        "reliability": reliability,
        "resolution": resolution,
        "uncertainty": total * base * (1 - base),
        "within_variance": variance,
        "within_covariance": covariance,
        "generalized_resolution": resolution - variance + covariance,
    }
