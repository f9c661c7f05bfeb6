"""Rules of averages over normal numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from ebmeta.random_effects.nodes import HEAVY, check_nodes, log_heavy, nodes_of, rough_nodes


@pytest.mark.parametrize("fineness", [0, 1, 2])
@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_tensor_rules_have_the_moments_of_a_normal(num_dims, fineness):
    rule = nodes_of(num_dims, fineness)
    weight = np.exp(rule.log_weights)
    assert weight.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.einsum("s,sk,sl->kl", weight, rule.points, rule.points), np.eye(num_dims), atol=1e-9)
    np.testing.assert_allclose(weight @ rule.points**8, 105.0, rtol=1e-9)
    assert str(len(rule.points)) in rule.words


@pytest.mark.parametrize("num_dims", [4, 5])
def test_rules_of_four_and_five_dimensions_have_the_moments_of_few_nodes(num_dims):
    for fineness in (0, 1, 2):
        rule = nodes_of(num_dims, fineness)
        weight = np.exp(rule.log_weights)
        np.testing.assert_allclose(weight @ rule.points**4, 3.0, rtol=1e-9)
        np.testing.assert_allclose(weight @ np.prod(rule.points**2, 1), 1.0, rtol=1e-9)


def test_draws_of_many_dimensions_are_even():
    rule = nodes_of(6)
    weight = np.exp(rule.log_weights)
    np.testing.assert_allclose(weight @ rule.points, 0.0, atol=0.02)
    np.testing.assert_allclose(weight @ rule.points**2, 1.0, atol=0.03)
    np.testing.assert_array_equal(rule.points, nodes_of(6).points)


@pytest.mark.parametrize("rule", [nodes_of(6, 2, True), check_nodes(6, 2, True)])
def test_draws_with_tails_average_a_density_with_heavier_ones(rule):
    """Draws of a normal distribution miss a tenth of it, and say nothing of that: they hardly reach its tails."""
    weight, target = np.exp(rule.log_weights), stats.multivariate_t(np.zeros(6), df=3)
    np.testing.assert_allclose(weight.sum(), 1.0, atol=0.005)
    np.testing.assert_allclose(weight @ rule.points, 0.0, atol=0.02)
    np.testing.assert_allclose(np.einsum("s,sk,sl->kl", weight, rule.points, rule.points), np.eye(6), atol=0.04)
    ratio = target.logpdf(rule.points) - stats.multivariate_normal(np.zeros(6)).logpdf(rule.points)
    assert np.log(weight @ np.exp(ratio)) == pytest.approx(0.0, abs=0.03)


def test_the_finest_draws_are_checked_by_others():
    """Those of a coarser rule are the first of them, and share what they miss."""
    for tails in (False, True):
        finest, other = nodes_of(7, 2, tails), check_nodes(7, 2, tails)
        assert finest.points.shape == other.points.shape
        assert not np.isclose(finest.points[:100], other.points[:100]).any()
        assert not np.isclose(nodes_of(7, 1, tails).points[:100], check_nodes(7, 1, tails).points[:100]).any()
        assert finest.checked == "other draws differ"
    assert nodes_of(2, 2).checked == "a finer rule differs"


@pytest.mark.parametrize("fineness", [0, 1])
@pytest.mark.parametrize("num_dims", [1, 2, 3, 4, 5, 6])
def test_a_rule_that_checks_another_is_finer_and_that_of_first_steps_is_no_finer(num_dims, fineness):
    sizes = [
        len(v.points) for v in (rough_nodes(num_dims), nodes_of(num_dims, fineness), check_nodes(num_dims, fineness))
    ]
    assert sizes[0] <= sizes[1] < sizes[2] <= len(nodes_of(num_dims, fineness + 1).points)
    for rule in (rough_nodes(num_dims), check_nodes(num_dims, fineness)):
        np.testing.assert_allclose(np.exp(rule.log_weights) @ rule.points**2, 1.0, atol=0.03)


@pytest.mark.parametrize("rule", [nodes_of(1, HEAVY), check_nodes(1, HEAVY)])
def test_a_rule_for_heavy_tails_has_the_probabilities_of_its_distribution(rule):
    z, weight = rule.points[:, 0], np.exp(rule.log_weights)
    density = np.exp(log_heavy(z)) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(density, stats.t.pdf(z, 3), rtol=1e-12)
    np.testing.assert_allclose(weight.sum(), 1.0)
    exact = integrate.quad(lambda x: stats.t.pdf(x, 3) * math.exp(-(x**2) / 2), -40, 40, epsabs=1e-12)[0]
    np.testing.assert_allclose(weight @ np.exp(-(z**2) / 2), exact, rtol=2e-3)
