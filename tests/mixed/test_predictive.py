"""Moments and intervals of new labels, compared with distributions that have them in closed form."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import ebmeta
from ebmeta.likelihood import LIKELIHOODS, Likelihood, Normal, Poisson
from ebmeta.mixed import predictive
from ebmeta.mixed.predictive import cdf, chances, intervals, moments, skewed


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


@pytest.mark.parametrize("name", ["poisson", "binomial"])
def test_draws_of_one_likelihood_are_one_mixture(name):
    rng = np.random.default_rng(0)
    weight, loc, var = rng.dirichlet(np.ones(30)), rng.normal(1, 0.6, (30, 4)), rng.uniform(0, 1, (30, 4))
    var[3], size = 0.0, np.array([1.0, 30.0, 400.0, 5.0])
    members = [LIKELIHOODS[name]().double() for _ in weight]
    z = np.linspace(-9, 9, 3001)
    eta, mass = loc[..., None] + np.sqrt(var)[..., None] * z, weight[:, None] * stats.norm.pdf(z) * 0.006
    for n, many in enumerate(size):
        own = (
            stats.poisson(many * np.exp(eta[:, n]))
            if name == "poisson"
            else stats.binom(many, special.expit(eta[:, n]))
        )
        mean, sd = (v[n] for v in moments(members, weight, loc, var, size))
        assert mean == pytest.approx((mass * own.mean()).sum(), rel=1e-8)
        assert sd**2 == pytest.approx((mass * (own.var() + (own.mean() - mean) ** 2)).sum(), rel=1e-7)
        for end, level in zip(intervals(members, weight, loc, var, size, 0.9), (0.05, 0.95), strict=True):
            below, up_to = ((mass * own.cdf(end[n] - less)).sum() for less in (1, 0))
            assert below < level + 2e-4
            assert up_to > level - 2e-4


def test_draws_that_agree_are_one_likelihood():
    loc, weight = np.log([[2.5, 40.0, 0.01]]).repeat(5, 0), np.full(5, 0.2)
    found = intervals([Poisson().double()] * 5, weight, loc, np.zeros_like(loc), None, 0.9)
    np.testing.assert_array_equal(found, stats.poisson(np.exp(loc[0])).ppf([[0.05], [0.95]]))


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


def test_two_normals_have_the_three_moments_that_are_asked_for():
    linear = np.array([[[0.0, 3.0, -1.0, 2.0], [1.0, 4.0, 0.0, 2.0], [0.0, -4.0, 0.0, 9.0]]])
    members, weight, loc, var = skewed([normal(1.0)], np.ones(1), linear)
    mean = (weight * loc).sum(0)
    np.testing.assert_allclose(weight.sum(0), 1.0)
    np.testing.assert_allclose(mean, linear[0, 0])
    np.testing.assert_allclose((weight * (var + (loc - mean) ** 2)).sum(0), linear[0, 1])
    third = (weight * ((loc - mean) ** 3 + 3 * (loc - mean) * var)).sum(0)
    np.testing.assert_allclose(third, linear[0, 2], atol=1e-12)
    assert len(members) == 2
    assert (var >= 0).all()
    plain = skewed([normal(1.0)], np.ones(1), linear * np.array([1.0, 1.0, 0.0])[:, None])
    assert [len(plain[0]), *plain[2:]] == [1, pytest.approx(linear[:, 0]), pytest.approx(linear[:, 1])]


@pytest.mark.parametrize(("likelihood", "propagated"), [("bernoulli", False), ("poisson", False), ("poisson", True)])
def test_groups_of_zeros_are_predicted_by_the_integral_over_their_effect(likelihood, propagated):
    """A normal distribution of its effect would predict too much."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(60), 4)
    eta = -1.5 + 3 * rng.normal(size=60)[group]
    y = rng.random(240) < special.expit(eta) if likelihood == "bernoulli" else rng.poisson(np.exp(eta))
    fit = ebmeta.mixed_model("y ~ 1 + (1 | g)", pd.DataFrame({"y": y * 1.0, "g": group}), likelihood)
    asked = pd.DataFrame({"y": [0.0, 0.0, 0.0, 0.0, np.nan], "g": "new"})
    found = (fit.propagate(16) if propagated else fit).predict(asked)["mean"].iloc[-1]

    def integral(fit):
        z = np.linspace(-9, 9, 4001)
        own = fit.fixed_effects["estimate"].iloc[0] + fit.variance_components["estimate"].iloc[0] * z
        rate = special.expit(own) if likelihood == "bernoulli" else np.exp(own)
        none = np.log1p(-rate) if likelihood == "bernoulli" else -rate
        weight = special.softmax(stats.norm.logpdf(z) + 4 * none)
        return weight @ rate, weight @ own, np.sqrt(weight @ own**2 - (weight @ own) ** 2)

    exact, mean, std = integral(fit)
    plain = moments([LIKELIHOODS[likelihood]().double()], np.ones(1), np.array([[mean]]), np.array([[std**2]]), None)
    assert plain[0][0] > 1.14 * exact
    assert found == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("likelihood", ["zero_inflated_poisson", "zero_inflated_negative_binomial"])
def test_groups_of_zeros_that_may_be_inflated_are_predicted_by_the_integral_over_their_effect(likelihood):
    """All of them may be zeros whatever the rate, so that the effect is that of any group with some probability.

    Three moments of the effect alone would predict a third to a half of the mean.
    """
    rng, group = np.random.default_rng(0), np.repeat(np.arange(60), 5)
    rate = np.exp(1 + 2.5 * rng.normal(size=60)[group])
    rate = rate if likelihood.endswith("poisson") else rate * rng.gamma(2.0, 0.5, 300)
    y = np.where(rng.random(300) < 0.3, 0, rng.poisson(rate))
    fit = ebmeta.mixed_model("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": group, "n": 1.0}), likelihood, size="n")
    empty = next(g for g in range(60) if not y[group == g].any())
    learned, z = fit.estimate.learned, np.linspace(-12, 9, 8001)
    own = fit.fixed_effects["estimate"].iloc[0] + fit.variance_components["estimate"].iloc[0] * z

    def none(size):
        if likelihood.endswith("poisson"):
            return np.exp(-size * np.exp(own))
        return (learned["shape"] / (learned["shape"] + size * np.exp(own))) ** learned["shape"]

    def exact(sizes):
        kept = [np.log(learned["inflation"] + (1 - learned["inflation"]) * none(n)) for n in sizes]
        weight = special.softmax(stats.norm.logpdf(z) + np.sum(kept, 0))
        return (1 - learned["inflation"]) * weight @ np.exp(own)

    told = pd.DataFrame({"y": [0.0, 0.0, np.nan], "g": "new", "n": [0.5, 2.0, 1.0]})
    for asked, sizes in ((pd.DataFrame({"g": [empty], "n": 1.0}), np.ones(5)), (told, [0.5, 2.0])):
        found = fit.predict(asked)["mean"].iloc[-1]
        assert found == pytest.approx(exact(sizes), rel=0.06)
    known = fit._effects[0].silent
    some = [bool(y[group == g].any()) for g in range(60)]
    np.testing.assert_array_equal(known > 0, ~np.array(some))
    weight = special.softmax(
        stats.norm.logpdf(z) + 5 * np.log(learned["inflation"] + (1 - learned["inflation"]) * none(1))
    )
    share = learned["inflation"] / (learned["inflation"] + (1 - learned["inflation"]) * none(1))
    assert known[empty] == pytest.approx(weight @ share**5, rel=0.05)
    assert np.isfinite(fit.residuals["pit"]).all()


def test_a_part_and_the_rest_have_the_moments_of_the_whole():
    share, own, width = 0.25, 2.0, 3.0
    linear = np.array([[[1.0], [4.0], [1.5], [share], [own], [width]]])
    members, weight, loc, var = skewed([normal(1.0)], np.ones(1), linear)
    assert (len(members), weight.shape) == (3, (3, 1))
    assert [weight[2, 0], loc[2, 0], var[2, 0]] == [share, own, width]
    mean = (weight * loc).sum(0)
    np.testing.assert_allclose([weight.sum(), mean[0]], [1.0, 1.0])
    np.testing.assert_allclose((weight * (var + (loc - mean) ** 2)).sum(0), 4.0)
    np.testing.assert_allclose((weight * ((loc - mean) ** 3 + 3 * (loc - mean) * var)).sum(0), 1.5)


def by_integration(likelihood: Likelihood, y: float, loc: float, sd: float) -> float:
    """Return the probability of a label up to `y` by a fine sum over the linear predictor."""
    nodes = np.linspace(-9, 9, 4001)
    weight, eta = stats.norm.pdf(nodes) / stats.norm.pdf(nodes).sum(), torch.from_numpy(loc + sd * nodes)[None]
    with torch.no_grad():
        return float(weight @ likelihood.cdf(torch.full((1, 1), y).double(), eta).numpy()[0])


@pytest.mark.parametrize("coverage", [0.5, 0.9])
@pytest.mark.parametrize(
    ("kind", "sd"), [*((kind, sd) for kind in ("gamma", "student_t", "log_normal") for sd in (0.3, 2.0)), ("beta", 0.3)]
)
def test_ends_have_their_probabilities_after_few_looks(kind, sd, coverage, monkeypatch):
    likelihood, looks = LIKELIHOODS[kind]().double(), []
    monkeypatch.setattr(predictive, "cdf", lambda y, *rest: looks.append(len(y)) or cdf(y, *rest))
    loc = np.array([[-1.0, 0.4, 2.0]])
    ends = intervals([likelihood], np.ones(1), loc, np.full((1, 3), sd**2), None, coverage)
    for level, end in zip(((1 - coverage) / 2, (1 + coverage) / 2), ends, strict=True):
        found = [by_integration(likelihood, float(y), float(m), sd) for y, m in zip(end, loc[0], strict=True)]
        np.testing.assert_allclose(found, level, rtol=0.02, atol=1e-3)
    assert sum(looks) / 6 < 60  # where halves of 128 standard deviations took 60


def test_chances_of_categories_are_integrals_however_wide():
    likelihood = LIKELIHOODS["ordinal"]().double()
    for sd in (0.5, 5.0, 30.0):
        found = [float(p[0]) for p in chances([likelihood], np.ones(1), np.array([[0.7]]), np.array([[sd**2]]), None)]
        reached = [by_integration(likelihood, float(c), 0.7, sd) for c in range(len(found))]
        np.testing.assert_allclose(np.cumsum(found), reached, atol=1e-5)
