"""Likelihoods of real labels: the closed forms of the normal one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import close
from scipy import special, stats

from ebmeta.likelihood import Given, Normal, ScalarLikelihood, StudentT
from tests.likelihood.test_base import logits, normal


def test_the_normal_closed_forms_agree_with_sampling():
    likelihood = Normal(0.7).double()
    loc, var, mask = logits(1)
    y, draws = normal(2, 5, seed=3), 100_000
    noise = normal(draws, 2, 5, 1, seed=4)
    logp = likelihood.log_prob(y, loc + var.sqrt() * noise, mask)
    # Ten cells, 5.5 sigma each (4e-8): false alarms at 4e-7, twice.
    z = (likelihood.expected_log_prob(y, loc, var, mask, noise) - logp.mean(0)) / (logp.std(0) / draws**0.5)
    assert z.abs().max() < 5.5
    p = logp.exp()
    exact = likelihood.predictive_log_prob(y, loc, var, mask, noise).exp()
    assert ((exact - p.mean(0)) / (p.std(0) / draws**0.5)).abs().max() < 5.5


def test_the_normal_prediction_is_the_density_of_the_predictive_log_prob():
    likelihood = Normal(0.7).double()
    loc, var, mask = logits(1)
    y = normal(2, 5, seed=3)
    out = likelihood.predict(loc, var, mask)
    expected = torch.distributions.Normal(out["mean"], out["std"]).log_prob(y)
    close(likelihood.predictive_log_prob(y, loc, var, mask, normal(1)), expected)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_must_be_positive(noise):
    with pytest.raises(ValueError, match=r"noise: expected a finite number above 0, got"):
        Normal(noise)


@pytest.mark.parametrize("size", [1.0, np.array([1.0, 4.0, 2.0])])
def test_slopes_of_student_t_labels_are_those_of_the_density(size):
    likelihood = StudentT(0.8, 4.5).double()
    likelihood.center.fill_(0.7)
    likelihood.unit.fill_(1.6)
    y, eta = np.array([0.3, -2.0, 9.0]), np.array([0.1, 3.0, -400.0])
    own, by_torch = likelihood.expansion(y, eta, size), ScalarLikelihood.expansion(likelihood, y, eta, size)
    for found, expected in zip(own, by_torch, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    # And the kernel is the log density up to terms without the linear predictor.
    ways = torch.ones(1, 1, dtype=torch.bool)
    given = Given(None if isinstance(size, float) else torch.from_numpy(size)[None])
    labels = torch.from_numpy(y)[None]
    one, two = (
        likelihood.log_prob(labels, at.unsqueeze(-1), ways, given) - likelihood.kernel(labels, at, given)
        for at in (torch.zeros(1, 3).double(), torch.from_numpy(eta)[None])
    )
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("freedom", [2.2, 10.0, 100.0, 1e3, 1e4, 1e6])
@pytest.mark.parametrize("var", [1e-4, 0.3, 9.0])
def test_student_t_labels_of_an_uncertain_predictor_are_a_sum_of_both_whatever_the_freedom(freedom, var):
    """A grid over precisions that is coarser than these are had a spread of its own."""
    likelihood = StudentT(1.0, freedom).double()
    z, sd, nu = np.linspace(-40.0, 40.0, 40001), var**0.5, likelihood.freedom.item()
    ends, mass = z[1:] / 2 + z[:-1] / 2, np.diff(special.ndtr(z))
    for y in (0.0, 0.7, 2.0, 5.0):
        label, loc, wide = (torch.tensor(v, dtype=torch.float64).reshape(1, 1, -1) for v in (y, 0.0, var))
        way = torch.ones(1, 1, dtype=torch.bool)
        found = likelihood.predictive_log_prob(label[..., 0], loc, wide, way, torch.zeros(1))
        density = (mass * stats.t.pdf(y - sd * ends, nu)).sum()
        assert found.item() == pytest.approx(np.log(density), abs=2e-5)
        below = (mass * stats.t.cdf(y - sd * ends, nu)).sum()
        assert likelihood.predictive_cdf(label[..., 0], loc, wide).item() == pytest.approx(below, abs=1e-6)
