"""Log probabilities of counts keep their digits where differences of log-gammas lose them."""

from fractions import Fraction
from math import comb, log

import numpy as np
import pytest
import torch
from scipy import stats

from ebmeta.likelihood.log_gamma import log_binomial, log_poisson

COUNTS = torch.tensor([0.0, 1.0, 2.0, 7.0, 15.0, 16.0, 17.0, 150.0, 1e4], dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.01, 3.0])
def test_counts_have_the_probabilities_of_scipy(factor):
    mean = factor * COUNTS.clamp(min=0.1)
    got = log_poisson(COUNTS, mean.log())
    np.testing.assert_allclose(got, stats.poisson.logpmf(COUNTS, mean), rtol=1e-10, atol=1e-10)


def test_a_large_count_near_its_mean_keeps_the_digits_that_log_gammas_lose():
    for k in (1e9, 1e15):
        one = torch.tensor(k, dtype=torch.float64)
        assert log_poisson(one, one.log()).item() == pytest.approx(-log(2 * np.pi * k) / 2 - 1 / (12 * k), abs=1e-9)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_successes_have_the_probabilities_of_exact_fractions(share):
    p = torch.tensor(share, dtype=torch.float64)
    for k, rest in ((0, 0), (0, 5), (5, 0), (1, 2), (20, 7), (300, 500)):
        exact = Fraction(comb(k + rest, k)) * Fraction(share) ** k * (1 - Fraction(share)) ** rest
        wanted = log(exact.numerator) - log(exact.denominator)
        got = log_binomial(*torch.tensor([k, rest], dtype=torch.float64), p.log(), torch.log1p(-p))
        assert got.item() == pytest.approx(wanted, rel=1e-11, abs=1e-12)
