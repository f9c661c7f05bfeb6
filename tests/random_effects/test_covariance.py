"""Covariances of group effects: blocks, units and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.random_effects.covariance import Factor, correlations_of, hyperprior_curvature, log_hyperprior

X = np.random.default_rng(0).normal(2000.0, 3.0, 50)
Z = np.stack([np.ones(50), X], 1)


def test_a_block_has_every_covariance_matrix_in_the_units_of_its_terms():
    factor = Factor("g", ["Intercept", "x"], [2], Z)
    wanted = np.array([[4.0, -0.3], [-0.3, 0.25]])
    inner = factor.basis @ wanted @ factor.basis.T / 0.49
    theta = factor.read(np.linalg.cholesky(inner))
    np.testing.assert_allclose(factor.covariance(theta, 0.7), wanted, rtol=1e-6)
    np.testing.assert_allclose(factor.whiten(Z).T @ factor.whiten(Z) / 50, np.eye(2), atol=1e-9)
    assert factor.pairs() == [(0, 1)]


def test_blocks_of_one_term_have_no_correlation():
    factor = Factor("g", ["Intercept", "x"], [1, 1], Z)
    assert factor.size == 2
    covariance = factor.covariance(np.array([0.5, 2.0]), 1.0)
    np.testing.assert_array_equal(covariance != 0, np.eye(2, dtype=bool))
    np.testing.assert_allclose(covariance[1, 1], 4.0 / np.mean(X**2))
    assert factor.pairs() == []


def test_a_term_can_be_left_out():
    factor = Factor("g", ["Intercept", "x"], [2], Z).without(0, Z[:, 1:])
    assert (factor.terms, factor.blocks) == (["x"], [1])


def test_a_term_that_others_give_is_refused_by_name():
    with pytest.raises(ValueError, match="random term 'twice' of 'g': expected one that is no combination"):
        Factor("g", ["Intercept", "x", "twice"], [3], np.column_stack([Z, 2 * X - 5]))


def test_correlations_are_not_numbers_without_spread():
    sd, correlation = correlations_of(np.array([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(sd, [2.0, 1.0, 0.0])
    assert correlation[0, 1] == 0.5
    assert np.isnan(correlation[0, 2])


@pytest.mark.parametrize("square", [False, True])
def test_the_curvature_of_the_hyperprior_is_that_of_differences(square):
    factor = Factor("g", ["a", "b", "c"], [2, 1], None)
    factor = factor.square() if square else factor
    at = np.append(np.random.default_rng(0).normal(size=factor.size), 0.3)
    slopes = [log_hyperprior(factor, p[:-1], p[-1])[1] for h in 1e-6 * np.eye(len(at)) for p in (at + h, at - h)]
    expected = [(up - down) / 2e-6 for up, down in zip(slopes[::2], slopes[1::2], strict=True)]
    np.testing.assert_allclose(hyperprior_curvature(factor, at[:-1], at[-1]), expected, atol=1e-8)


def test_the_slope_of_the_hyperprior_is_that_of_differences():
    factor = Factor("g", ["a", "b", "c"], [2, 1], None)
    at = np.append(np.random.default_rng(0).normal(size=factor.size), 0.3)
    values = [log_hyperprior(factor, p[:-1], p[-1])[0] for h in 1e-6 * np.eye(len(at)) for p in (at + h, at - h)]
    expected = [(up - down) / 2e-6 for up, down in zip(values[::2], values[1::2], strict=True)]
    np.testing.assert_allclose(log_hyperprior(factor, at[:-1], at[-1])[1], expected, atol=1e-8)


def test_a_triangular_factor_is_of_the_same_covariance():
    factor = Factor("g", ["a", "b", "c"], [2, 1], None)
    root = factor.square().lower(np.random.default_rng(1).normal(size=factor.square().size))
    found = factor.lower(factor.triangular(root))
    np.testing.assert_allclose(found @ found.T, root @ root.T, rtol=1e-12)
    np.testing.assert_array_equal(found, np.tril(found))
    assert (found.diagonal() > 0).all()
    assert not found[2, :2].any()
