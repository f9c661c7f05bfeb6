"""Likelihoods of real labels: the closed forms of the normal one."""

from __future__ import annotations

import pytest
import torch
from builders import close

from ebmeta.likelihood import Normal
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
