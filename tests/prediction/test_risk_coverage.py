"""The risk-coverage curve and its area against hand calculations, the mean over orders of ties, and a bootstrap."""

import numpy as np
import pytest
from sklearn.metrics import auc

from ebmeta.prediction.risk_coverage import area_under_risk_coverage, risk_coverage
from tests.prediction.test_calibration import predictions


def test_risk_and_coverage_by_hand():
    confidence, correct = np.array([[0.9, 0.5, np.nan], [0.7, 0.6, 0.8]]), np.array([[1, 0, np.nan], [0, 1, 1]])
    curve = risk_coverage(confidence, correct)
    np.testing.assert_allclose(curve, [0, 0, 1 / 3, 1 / 4, 2 / 5])
    np.testing.assert_allclose(curve["coverage"], [0.2, 0.4, 0.6, 0.8, 1])
    assert area_under_risk_coverage(confidence, correct).value == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)


def test_tied_confidences_share_their_errors():
    """The curve is the mean over all orders of tied predictions."""
    rng = np.random.default_rng(0)
    confidence, correct = rng.choice([0.4, 0.6, 0.8], 9), rng.integers(2, size=9)
    curves = []
    for _ in range(20_000):
        order = np.lexsort((rng.uniform(size=9), -confidence))
        curves.append(np.cumsum(1 - correct[order]) / np.arange(1, 10))
    # 20,000 orders: an error above 5 standard deviations (0.018) has a chance below 1e-5 in nine points
    np.testing.assert_allclose(risk_coverage(confidence, correct), np.mean(curves, 0), atol=0.018)
    order = rng.permutation(9)
    np.testing.assert_allclose(
        risk_coverage(confidence[order], correct[order]), risk_coverage(confidence, correct), atol=1e-12
    )


def test_area_orders_predictors_and_agrees_with_the_trapezoid():
    confidence, correct = (a.ravel()[~np.isnan(a.ravel())] for a in predictions(tasks=400))
    curve = risk_coverage(confidence, correct)
    area = area_under_risk_coverage(confidence, correct).value
    assert area == pytest.approx(auc(curve["coverage"], curve), abs=2e-3)
    best = area_under_risk_coverage(correct, correct).value
    worst = area_under_risk_coverage(1 - correct, correct).value
    assert best < area < 1 - correct.mean() < worst


def test_interval_of_the_area_is_the_derivative_and_that_of_a_bootstrap():
    confidence, correct = predictions(tasks=300, spread=0.3)
    got = area_under_risk_coverage(confidence, correct)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(300):
        pick = rng.integers(300, size=300)
        draws.append(area_under_risk_coverage(confidence[pick], correct[pick]).value)
    # the sd of 300 draws is within 15% of its expectation but for a chance near 3e-4
    assert got.half_width == pytest.approx(1.96 * np.std(draws), rel=0.15)
    one = area_under_risk_coverage(confidence[:1], correct[:1])
    assert np.isnan(one.half_width)


def test_the_interval_of_the_area_by_hand():
    """Risks 0 and 1/2, area 1/4; the two tasks move it by -1/4 and 1/4, so the variance is 2 / (2 - 1) * 2 / 16."""
    area = area_under_risk_coverage(np.array([[0.9], [0.6]]), np.array([[1], [0]]))
    assert area.value == 0.25
    assert area.half_width == pytest.approx(1.959964 * 0.5)
