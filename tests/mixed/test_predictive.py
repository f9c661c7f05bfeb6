"""Moments and intervals of new labels, compared with distributions that have them in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ebmeta.likelihood import Normal, Poisson
from ebmeta.mixed.predictive import cdf, intervals, moments


def normal(noise: float) -> Normal:
    out = Normal().double()
    out.log_noise.data.fill_(math.log(noise))
    return out


def test_normal_labels_with_sizes():
    loc, var, size = np.array([[1.0, -2.0]]), np.array([[0.25, 4.0]]), np.array([1.0, 4.0])
    mean, sd = moments([normal(0.5)], np.ones(1), loc, var, size)
    exact = np.sqrt(var[0] + 0.25 / size)
    np.testing.assert_allclose(mean, loc[0])
    np.testing.assert_allclose(sd, exact)
    low, high = intervals([normal(0.5)], np.ones(1), loc, var, size, 0.9)
    np.testing.assert_allclose([low, high], [loc[0] - 1.6448536 * exact, loc[0] + 1.6448536 * exact], rtol=1e-6)


def test_draws_of_the_parameters_are_mixed():
    weight, loc, var = np.array([0.25, 0.75]), np.array([[0.0], [4.0]]), np.array([[0.0], [1.0]])
    members = [normal(1.0), normal(2.0)]
    mean, sd = moments(members, weight, loc, var, None)
    assert mean[0] == pytest.approx(3.0)
    assert sd[0] ** 2 == pytest.approx(0.25 * 1 + 0.75 * (5 + 16) - 9)
    low, high = intervals(members, weight, loc, var, None, 0.8)
    for end, level in ((low, 0.1), (high, 0.9)):
        exact = 0.25 * stats.norm.cdf(end[0]) + 0.75 * stats.norm(4, math.sqrt(5)).cdf(end[0])
        assert exact == pytest.approx(level, abs=1e-9)
        assert cdf(end, members, weight, loc, var, None)[0] == pytest.approx(level, abs=1e-9)


def test_large_labels_keep_their_spread():
    loc, var = np.array([[1e12], [1e12 + 4]]), np.array([[0.0], [1.0]])
    members, weight = [normal(1.0), normal(2.0)], np.array([0.25, 0.75])
    assert moments(members, weight, loc, var, None)[1][0] == pytest.approx(math.sqrt(0.25 + 0.75 * 5 + 3))
    assert moments(members[:1], np.ones(1), loc[:1], var[:1], None)[1][0] == pytest.approx(1.0)


def test_counts_end_at_the_smallest_count_that_reaches_the_level():
    loc, size = np.log([[2.5, 40.0, 0.01]]), np.array([1.0, 2.0, 1.0])
    low, high = intervals([Poisson().double()], np.ones(1), loc, np.zeros_like(loc), size, 0.9)
    exact = stats.poisson(np.exp(loc[0]) * size)
    np.testing.assert_array_equal(low, exact.ppf(0.05))
    np.testing.assert_array_equal(high, exact.ppf(0.95))
