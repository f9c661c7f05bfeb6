"""Modes of group effects, where slopes vanish."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.likelihood import LIKELIHOODS
from ebmeta.random_effects.batched import Segments
from ebmeta.random_effects.modes import Labels, refuse_endless


def labels(kind: str, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(6), 4)
    x = np.column_stack([np.ones(24), rng.normal(size=24)])
    y = rng.poisson(3, 24).astype(float) if kind != "bernoulli" else rng.integers(0, 2, 24).astype(float)
    z, weight = rng.normal(size=(2, 24)), rng.uniform(0.5, 2, 24)
    family = LIKELIHOODS[kind]().double()
    return Labels(family, y, x, z, np.zeros(24), None, weight, Segments(codes, 6))


@pytest.mark.parametrize("start", [0.0, 40.0])
@pytest.mark.parametrize("kind", ["bernoulli", "poisson", "negative_binomial", "student_t"])
def test_slopes_vanish_at_a_mode_wherever_the_steps_start(kind, start):
    data, lower, fixed = labels(kind), np.array([[1.5, 0.0], [0.4, 0.8]]), np.full(24, 0.3)
    u, chol = data.modes(lower, fixed, np.full((2, 6), start))

    def value(u: np.ndarray) -> np.ndarray:
        eta = fixed + ((lower.T @ data.z) * data.segments.spread(u)).sum(0)
        return data.segments.sum(data.log_density(eta)) - (u**2).sum(0) / 2

    for k in range(2):
        step = np.zeros((2, 1))
        step[k] = 1e-5
        np.testing.assert_allclose((value(u + step) - value(u - step)) / 2e-5, 0.0, atol=1e-5)
    if kind != "student_t":  # whose curvature is taken for 0 where it is below
        step = np.array([[1e-3], [0.0]])
        bend = -(value(u + step) - 2 * value(u) + value(u - step)) / 1e-6
        np.testing.assert_allclose((chol[0] ** 2).sum(0), bend, rtol=1e-4)


def test_a_model_without_groups_is_fitted_to_where_its_score_is_0():
    data = labels("poisson")
    beta, information = data.alone()
    weight = data.weight
    mean = np.exp(data.fixed(beta))
    np.testing.assert_allclose(data.x.T @ (weight * (data.y - mean)), 0.0, atol=1e-3)
    np.testing.assert_allclose(information, data.x.T @ ((weight * mean)[:, None] * data.x), rtol=1e-3)


@pytest.mark.parametrize("far", [-700.0, -30.0, 200.0, 700.0])
@pytest.mark.parametrize("kind", ["bernoulli", "poisson", "negative_binomial"])
def test_a_model_without_groups_is_found_beside_any_offset(kind, far):
    data = labels(kind)
    near, there = data.alone(), data._replace(offset=np.full(24, far)).alone()
    np.testing.assert_allclose(there[0] + [far, 0.0], near[0], atol=1e-2)
    np.testing.assert_allclose(there[1], near[1], rtol=2e-2)


def test_some_groups_are_those_of_the_same_rows():
    data = labels("poisson")
    some = data.of(np.array([0, 4]))
    kept = np.isin(np.repeat(np.arange(6), 4), [0, 4])
    np.testing.assert_array_equal(some.y, data.y[kept])
    np.testing.assert_array_equal(some.z, data.z[:, kept])
    np.testing.assert_array_equal(some.segments.counts, [4, 4])
    beta = np.array([0.3, -0.2])
    np.testing.assert_allclose(some.log_density(some.fixed(beta)), data.log_density(data.fixed(beta))[kept])


def test_a_parameter_at_an_end_is_refused_where_the_likelihood_rises_beyond():
    refuse_endless(np.array([19.0, 20.0, -20.0]), np.array([-5.0, 5.0, -5.0]), 20.0)
    refuse_endless(np.array([20.0]), np.array([-1e-6]), 20.0)  # a shape that may as well be infinite
    for at, slope in ((20.0, -5.0), (-20.0, 5.0)):
        with pytest.raises(ValueError, match="labels: expected some that differ from what terms and groups say"):
            refuse_endless(np.array([at]), np.array([slope]), 20.0)
