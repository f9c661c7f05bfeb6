"""Likelihoods of real labels: the closed forms of the normal one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import close

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
