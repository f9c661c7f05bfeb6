"""The comparison on real groups: peers and scores against exact answers."""

import numpy as np
import pytest
from scipy import stats

from lib.groups.data import Groups
from lib.groups.peers import em, pooled
from lib.groups.scores import LEVELS, crps_from_quantiles, normal_scores


def simulated(groups: int = 300, rows: int = 8) -> Groups:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), rows)
    w = np.array([1.5, -2.0]) + rng.standard_normal((groups, 2)) @ np.array([[0.7, 0.0], [0.3, 0.4]]).T
    X = rng.standard_normal((len(group), 1))
    y = w[group, 0] * X[:, 0] + w[group, 1] + 0.5 * rng.standard_normal(len(group))
    return Groups(X, y, group)


def test_em_finds_the_model_and_predicts_by_conditioning():
    predict = em(simulated())
    X, y, query = np.array([[0.5], [-1.0]]), np.array([0.3, -4.0]), np.array([[2.0]])
    mean, std = predict(X, y, query)
    cov = np.array([[0.49, 0.21], [0.21, 0.25]])
    x, q, m = np.c_[X, [1, 1]], np.array([2.0, 1.0]), np.array([1.5, -2.0])
    gain = q @ cov @ x.T @ np.linalg.inv(x @ cov @ x.T + 0.25 * np.eye(2))
    # 300 groups: parameters within a few hundredths of the truth.
    assert mean[0] == pytest.approx(q @ m + gain @ (y - x @ m), abs=0.15)
    assert std[0] == pytest.approx(np.sqrt(q @ cov @ q - gain @ x @ cov @ q + 0.25), rel=0.05)


def test_the_pooled_fit_is_blind_to_the_new_group():
    predict = pooled(simulated())
    query = np.array([[0.3]])
    near, far = (predict(np.zeros((1, 1)), np.array([label]), query) for label in (0.0, 50.0))
    np.testing.assert_allclose(near, far)


def test_crps_of_quantiles_approaches_the_closed_form():
    y, mean, std = np.array([0.3, -2.0, 4.0]), np.array([0.0, 0.5, 1.0]), np.array([1.0, 2.0, 0.5])
    z = (y - mean) / std
    exact = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    got = crps_from_quantiles(y, mean[:, None] + std[:, None] * stats.norm.ppf(LEVELS))
    assert got == pytest.approx(exact, rel=0.1)


def test_an_interval_from_5_to_95_covers_90_percent():
    y = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    found = normal_scores(y, np.zeros(1000), np.ones(1000))
    assert found["coverage"] == pytest.approx(0.9)
    assert found["nll"] == pytest.approx(0.5 * np.log(2 * np.pi) + (y**2).mean() / 2)
