"""Scores of predictive distributions of numbers: squared error, log score, CRPS, coverage and width of intervals."""

from __future__ import annotations

import numpy as np
from scipy import stats

__all__ = ["LEVELS", "crps_from_quantiles", "normal_scores", "scores"]

#: Levels whose quantile losses make up the CRPS; 5% and 95% are the interval's ends.
LEVELS = np.arange(1, 20) / 20


def crps_from_quantiles(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Return the continuous ranked probability score, in the label's units, shape `(N,)`.

    Twice the mean quantile loss over equally spaced levels; `quantiles` has shape `(N, L)`.
    """
    gap = y[:, None] - quantiles
    out: np.ndarray = 2 * np.maximum(LEVELS * gap, (LEVELS - 1) * gap).mean(1)
    return out


def scores(y: np.ndarray, mean: np.ndarray, log_density: np.ndarray, quantiles: np.ndarray) -> dict[str, float]:
    """Return the mean scores of one group's queries."""
    low, high = quantiles[:, 0], quantiles[:, -1]
    return {
        "squared_error": float(((y - mean) ** 2).mean()),
        "nll": float(-log_density.mean()),
        "crps": float(crps_from_quantiles(y, quantiles).mean()),
        "coverage": float(((y >= low) & (y <= high)).mean()),
        "width": float((high - low).mean()),
    }


def normal_scores(y: np.ndarray, mean: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """Return the scores of normal predictions."""
    quantiles = mean[:, None] + std[:, None] * stats.norm.ppf(LEVELS)
    return scores(y, mean, stats.norm.logpdf(y, mean, std), quantiles)
