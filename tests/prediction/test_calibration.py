"""Calibration of plain arrays against hand calculations, scikit-learn and resampling."""

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

from ebmeta.prediction.calibration import (
    Interval,
    bin_edges,
    bin_sums,
    bootstrap,
    brier_decomposition,
    calibration_error,
    calibration_interval,
    reliability_bins,
)
from ebmeta.prediction.risk_coverage import area_under_risk_coverage, risk_coverage


def predictions(tasks=80, queries=12, seed=0, spread=0.1):
    """Ragged top labels that are calibrated on average; a task shares its luck, so that its queries are dependent."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.25, 0.95, (tasks, queries))
    luck = rng.uniform(-spread, spread, (tasks, 1))
    correct = (rng.uniform(size=confidence.shape) < np.clip(confidence + luck, 0, 1)).astype(float)
    padding = np.arange(queries) >= rng.integers(queries // 2, queries + 1, (tasks, 1))
    return np.where(padding, np.nan, confidence), np.where(padding, np.nan, correct)


def test_bins_of_equal_width_agree_with_scikit_learn():
    confidence, correct = (a[~np.isnan(a)] for a in predictions())
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10)
    table = reliability_bins(confidence, correct, bins=10).dropna("bin")
    np.testing.assert_allclose(table["accuracy"], accuracy)
    np.testing.assert_allclose(table["confidence"], mean)


def test_bins_of_equal_mass_agree_with_scikit_learn():
    confidence, correct = (a[~np.isnan(a)][:640] for a in predictions())  # no prediction lies on an edge
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10, strategy="quantile")
    table = reliability_bins(confidence, correct, bins=10, mass=True)
    np.testing.assert_allclose(table["accuracy"], accuracy)
    np.testing.assert_allclose(table["confidence"], mean)
    assert np.ptp(table["count"].values) <= 1
    gap = np.abs(accuracy - mean) @ table["count"].values / len(confidence)
    assert calibration_error(confidence, correct, 10, mass=True) == pytest.approx(gap)


def test_equal_mass_by_hand():
    confidence, correct = np.array([0.9, 0.3, 0.6, 0.5, 0.8, 0.4]), np.array([1, 0, 1, 0, 0, 1])
    table = reliability_bins(confidence, correct, bins=2, mass=True)
    assert table["count"].values.tolist() == [3, 3]
    np.testing.assert_allclose(table["confidence"], [0.4, 2.3 / 3])
    assert calibration_error(confidence, correct, 2, mass=True) == pytest.approx((abs(1 - 1.2) + abs(2 - 2.3)) / 6)


def test_ties_and_certainty_have_a_bin():
    confidence, correct = np.array([1.0] * 7 + [0.0]), np.array([1] * 6 + [0, 0])
    for mass in (False, True):
        table = reliability_bins(confidence, correct, mass=mass)
        assert int(table["count"].sum()) == 8
        assert calibration_error(confidence, correct, mass=mass) == pytest.approx(1 / 8)


@pytest.mark.parametrize("mass", [False, True])
def test_interval_has_the_value_of_the_real_rows(mass):
    confidence, correct = predictions()
    got = calibration_interval(confidence, correct, mass=mass)
    real = ~np.isnan(confidence)
    assert got.value == pytest.approx(calibration_error(confidence[real], correct[real], mass=mass))
    assert calibration_interval(confidence, correct, mass=mass) == got
    assert calibration_interval(confidence, correct, mass=mass, seed=1).half_width != got.half_width
    assert np.isnan(calibration_interval(confidence[:1], correct[:1], mass=mass).half_width)


@pytest.mark.parametrize("mass", [False, True])
def test_bootstrap_is_that_of_whole_tasks(mass):
    confidence, correct = predictions(tasks=30)
    got = calibration_interval(confidence, correct, 5, mass=mass, num_bootstrap=50, seed=3)
    edges = bin_edges(confidence, 5, mass=mass)
    picks = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=50)
    errors = []
    for times in picks:
        c, y = (np.repeat(a, times, axis=0) for a in (confidence, correct))
        index = np.digitize(c, edges[1:-1])
        real = ~np.isnan(c)
        gaps = [np.abs((y - c)[real & (index == b)].sum()) for b in range(5)]
        errors.append(sum(gaps) / real.sum())
    assert got.half_width == pytest.approx(stats.norm.ppf(0.975) * np.std(errors, ddof=1))


def test_bin_sums_by_hand():
    p, y = np.array([[0.2, 0.5, np.nan], [1.0, 0.4, 0.6]]), np.array([[0, 1, 0], [1, 1, 0]])
    sums = bin_sums(p, y, np.array([0, 0.5, 1.0]))
    np.testing.assert_allclose(sums[0], [[1, 0.2, 0, 0.04, 0], [1, 0.5, 1, 0.25, 0.5]])
    np.testing.assert_allclose(sums[1], [[1, 0.4, 1, 0.16, 0.4], [2, 1.6, 1, 1.36, 1]])


def test_brier_parts_see_what_they_are_named_after():
    rng = np.random.default_rng(0)
    p = np.repeat([[0.1, 0.3, 0.6]], 40_000, 0)  # the same for every query, as three ways
    truth = np.eye(3)[rng.permutation(np.repeat([0, 1, 2], [4_000, 12_000, 24_000]))]
    edges = bin_edges(p, 10)
    parts = brier_decomposition(bin_sums(p.ravel(), truth.ravel(), edges) / len(p))
    assert parts["reliability"] == pytest.approx(0, abs=1e-12)  # frequencies are exactly the probabilities
    assert parts["uncertainty"] == pytest.approx(2 / 3)
    assert parts["resolution"] == pytest.approx(((np.array([0.1, 0.3, 0.6]) - 1 / 3) ** 2).sum())
    over = np.repeat([[0.05, 0.25, 0.7]], 40_000, 0)
    parts = brier_decomposition(bin_sums(over.ravel(), truth.ravel(), edges) / len(p))
    assert parts["reliability"] == pytest.approx(0.05**2 + 0.05**2 + 0.1**2)


def test_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=(400, 1))
    got = bootstrap(values, lambda total: total[..., 0] / 400, num_bootstrap=2000)
    assert isinstance(got, Interval)
    assert got.value == pytest.approx(values.mean())
    # the sd of 2,000 draws is within 8% of its expectation but for a chance below 1e-6
    assert got.half_width == pytest.approx(1.96 * values.std() / 20, rel=0.08)


@pytest.mark.parametrize("function", [calibration_error, calibration_interval, risk_coverage, area_under_risk_coverage])
def test_bad_predictions_are_refused(function):
    with pytest.raises(ValueError, match="expected confidences in"):
        function(np.array([[1.5]]), np.array([[True]]))
    with pytest.raises(ValueError, match=r"got \(1, 1\) and \(1, 2\)"):
        function(np.array([[0.5]]), np.array([[True, False]]))
    with pytest.raises(ValueError, match="confidence: expected at least one prediction, got none"):
        function(np.full((1, 2), np.nan), np.ones((1, 2)))


def test_bins_below_one_are_refused():
    with pytest.raises(ValueError, match="bins: expected at least 1, got 0"):
        reliability_bins(np.array([0.5]), np.array([1]), bins=0)
