r"""Risk and coverage, which say how much less often the confident predictions are wrong.

With predictions in order of falling confidence, and $e_j$ the error of the $j$-th, the risk at a coverage of $k / n$ is
$R_k = \frac1k \sum_{j \le k} e_j$. Derivations: `theory/calibration.md`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from ebmeta.foundation.checks import array, checked
from ebmeta.prediction.calibration import Z95, Interval, prediction_pairs

__all__ = ["area_under_risk_coverage", "risk_coverage"]


def _ranked(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows (tasks) and errors of real predictions, most confident first, and that order's risks.

    Predictions of one confidence share their mean error, so that their order does not matter.
    """
    confidence, correct = prediction_pairs(confidence, correct)
    real = ~np.isnan(confidence)
    _, group = np.unique(-confidence[real], return_inverse=True)
    shared = (np.bincount(group, 1 - correct[real]) / np.bincount(group))[group]
    order = np.argsort(group, kind="stable")
    rows = np.broadcast_to(np.arange(len(confidence)).reshape(-1, *[1] * (confidence.ndim - 1)), confidence.shape)
    return rows[real][order], shared[order], np.cumsum(shared[order]) / np.arange(1, len(order) + 1)


@checked(confidence=array(padded=True), correct=array(padded=True))
def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> xr.DataArray:
    r"""Return the error rate among the most confident predictions as a function of their share.

    Args:
        confidence: probability of the predicted class, any shape; NaN is left out.
        correct: whether it was right, same shape.

    Returns:
        The risk over dimension `coverage`, $1/n, 2/n, \dots, 1$. Ties in confidence share their errors.

    Raises:
        ValueError: as for `reliability_bins`.

    Examples:
        >>> risk_coverage(np.array([0.9, 0.6, 0.8, 0.7]), np.array([1, 0, 1, 1])).values
        array([0.  , 0.  , 0.  , 0.25])
    """
    risk = _ranked(confidence, correct)[2]
    return xr.DataArray(risk, dims="coverage", coords={"coverage": np.arange(1, len(risk) + 1) / len(risk)})


@checked(confidence=array(padded=True), correct=array(padded=True))
def area_under_risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> Interval:
    r"""Return the mean of the risk-coverage curve (AURC): small where the confident predictions are right.

    With queries in order of falling confidence, $e_j$ the error of the $j$-th and $R_j$ the mean of the
    first $j$ errors, $\mathrm{AURC} = \frac1n \sum_j R_j$. The interval is that of the infinitesimal
    jackknife over tasks: with $A$ the area, query $m$ moves it by

    $$ d_m = \frac1n \Big( R_m - A + \sum_{j \ge m} \frac{e_m - R_j}{j} \Big) $$

    per unit of weight, and the variance is the sum over tasks of squared sums over their queries. Source:
    Geifman, Uziel and El-Yaniv 2019.

    Args:
        confidence: probability of the predicted class, shape `(T, Q)`; NaN is padding.
        correct: whether it was right, same shape.

    Raises:
        ValueError: as for `reliability_bins`.

    Examples:
        >>> area_under_risk_coverage(np.array([[0.9, 0.6], [0.8, 0.7]]), np.array([[1, 0], [1, 1]])).value
        0.0625
    """
    rows, error, risk = _ranked(confidence, correct)
    area, number = risk.mean(), np.arange(1, len(risk) + 1)
    later = np.cumsum(np.stack([1 / number, risk / number])[:, ::-1], 1)[:, ::-1]
    moves = (risk - area + error * later[0] - later[1]) / len(risk)
    tasks = len(confidence)
    variance = (np.bincount(rows, moves, tasks) ** 2).sum() * tasks / max(tasks - 1, 1)
    return Interval(float(area), float(Z95 * np.sqrt(variance)) if tasks > 1 else float("nan"))
