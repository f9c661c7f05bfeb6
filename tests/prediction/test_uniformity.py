"""Tests of uniformity: bands and p-values that are exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ebmeta.diagnostics import (
    ecdf_band,
    uniformity_p_value,
)

# the test of uniformity -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_values", [20, 60, 150])
def test_the_band_is_left_as_often_as_it_says(num_values):
    """4,000 samples, 4.9 standard errors: false alarms at 1e-6 for each of three sizes."""
    u = np.random.default_rng(0).random((4000, num_values))
    band = ecdf_band(num_values, 0.1)
    share = np.stack([(u <= point).mean(1) for point in band.points], 1)
    outside = ((share < band.low - 1e-9) | (share > band.high + 1e-9)).any(1)
    refused = np.array([uniformity_p_value(row) <= 0.1 for row in u[:400]])
    np.testing.assert_array_equal(refused, outside[:400])
    achieved = {20: 0.0930, 60: 0.0994, 150: 0.0977}[num_values]  # the largest level up to 0.1 that counts allow
    assert abs(outside.mean() - achieved) < 4.9 * np.sqrt(0.1 * 0.9 / 4000)


def test_p_values_are_those_of_the_statistic():
    """The p-value of a sample is the share of uniform samples at least as far from uniform; 5 sigma of 20,000."""
    rng, n = np.random.default_rng(1), 40
    u = rng.random((20_000, n))
    points = np.arange(1, n) / n
    counts = np.stack([(u <= point).sum(1) for point in points], 1)
    tails = 2 * np.minimum(stats.binom.cdf(counts, n, points), stats.binom.sf(counts - 1, n, points)).min(1)
    for power in (0.9, 1.0, 1.2, 1.5):
        sample = (np.arange(n) + 0.5) ** power / n**power
        count = (sample[:, None] <= points).sum(0)
        own = 2 * np.minimum(stats.binom.cdf(count, n, points), stats.binom.sf(count - 1, n, points)).min()
        p = uniformity_p_value(sample)
        assert abs(p - (tails <= own * (1 + 1e-9)).mean()) < 5 * np.sqrt(p * (1 - p) / len(u)) + 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ecdf_band(1), "num_values: expected at least 2, got 1"),
        (lambda: ecdf_band(10, 0.0), "alpha: expected a number between 0 and 1"),
        (lambda: uniformity_p_value(np.array([0.5])), "u: expected at least 2 numbers"),
        (lambda: uniformity_p_value(np.array([0.5, np.nan])), "u: expected finite numbers, got nan"),
        (lambda: uniformity_p_value(np.array([0.5, 1.2])), "u: expected numbers from 0 to 1, got 1.2"),
    ],
)
def test_numbers_that_cannot_be_uniform_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
