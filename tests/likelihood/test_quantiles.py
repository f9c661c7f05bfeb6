"""Where cdfs reach a level, compared with SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from builders import close
from scipy import stats

from ebmeta.likelihood import LIKELIHOODS, Given, LogNormal, Normal, Poisson
from ebmeta.likelihood.quantiles import quantile
from tests.likelihood.test_scalar import as_inference

LAWS = {
    "normal": stats.norm(np.array([-3.0, 0.0, 1e6]), np.array([1.0, 4.0, 1e-3])),
    "student_t": stats.t(3.0, np.array([-3.0, 0.0, 1e3]), np.array([1.0, 4.0, 1e-2])),
    "log_normal": stats.lognorm(np.array([0.1, 2.0, 12.0]), scale=np.array([1e-6, 1.0, 1e3])),
    "gamma": stats.gamma(np.array([0.3, 2.0, 1e4]), scale=np.array([1e5, 1.0, 1e-3])),
    "beta": stats.beta(np.array([0.2, 3.0, 50.0]), np.array([4.0, 0.3, 60.0])),
    "poisson": stats.poisson(np.array([0.3, 40.0, 1e7])),
    "negative_binomial": stats.nbinom(np.array([0.2, 3.0, 100.0]), np.array([1e-4, 0.1, 0.5])),
    "binomial": stats.binom(np.array([1, 30, 10**6]), np.array([0.4, 0.98, 0.1])),
}
REALS = [name for name in LAWS if not LIKELIHOODS[name].discrete]


def solve(law, level, likelihood, mean=None, std=None, dtype=torch.float64):
    """Return quantiles of three laws, and the rows of each call."""
    calls = []

    def below(y, rows):
        calls.append(rows.tolist())
        every = np.zeros(3)
        every[rows.numpy()] = y.numpy()
        return torch.from_numpy(law.cdf(every)[rows.numpy()]).to(dtype)

    mean, std = (
        torch.full((3,), v, dtype=dtype) if v else torch.from_numpy(own).to(dtype)
        for v, own in ((mean, law.mean()), (std, law.std()))
    )
    return quantile(below, level, mean, std, likelihood), calls


@pytest.mark.parametrize("level", [1e-6, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("name", LAWS)
def test_quantiles_of_laws_are_those_of_scipy_in_a_few_calls(name, level):
    """Halving 8 standard deviations to their rounding takes 50 calls."""
    got, calls = solve(LAWS[name], level, LIKELIHOODS[name])
    if LIKELIHOODS[name].discrete:
        np.testing.assert_array_equal(got, LAWS[name].ppf(level))
    else:
        np.testing.assert_allclose(got, LAWS[name].ppf(level), rtol=1e-10, atol=1e-13)
    assert len(calls) <= (10 if name != "beta" else 25)  # of which a row has its quantile next to 1
    for before, after in itertools.pairwise(calls):  # no row is looked at again
        assert set(after) <= set(before)
    if name in ("normal", "log_normal"):
        assert len(calls) <= 3


@pytest.mark.parametrize("name", ["log_normal", "gamma", "poisson", "negative_binomial"])
def test_moments_that_are_far_beyond_all_quantiles_do_no_harm(name):
    """As those of wide linear predictors are, and where they have no end."""
    for mean, std in ((1e40, 1e60), (math.inf, math.inf), (1e-9, 1e-20)):
        for level in (0.05, 0.975):
            got, calls = solve(LAWS[name], level, LIKELIHOODS[name], mean, std)
            np.testing.assert_allclose(got, LAWS[name].ppf(level), rtol=1e-9)
            assert len(calls) < 100


@pytest.mark.parametrize("level", [0.05, 0.95])
def test_quantiles_of_wide_linear_predictors_are_those_of_a_log_normal_distribution(level):
    """Their standard deviation is e^100 times the median."""
    loc, var = torch.tensor([[[0.0], [3.0]]]).double(), torch.full((1, 2, 1), 100.0).double()
    likelihood = LogNormal(1e-3).double()
    got = as_inference(likelihood, loc, var, Given()).quantile(0, torch.tensor([level]).double())[0, 0]
    close(got.log(), loc[0, :, 0] + 10 * stats.norm.ppf(level), 1e-5)  # and a thousandth of noise


def test_shares_as_near_to_an_end_as_there_are_numbers_are_found():
    law = stats.beta(np.array([50.0, 0.002, 2.0]), np.array([1e-4, 5.0, 1e-15]))
    got, calls = solve(law, 0.5, LIKELIHOODS["beta"])
    np.testing.assert_allclose(got, [1.0, law.ppf(0.5)[1], 1.0], rtol=1e-9)
    assert (got < 1).all()
    assert len(calls) < 80


def test_steps_flats_and_a_law_without_spread_are_enclosed():
    place = torch.tensor([-3.0, 0.0, 1e-20, 7.0], dtype=torch.float64)
    for std in (0.0, 1.0, 1e4):
        spread = torch.full_like(place, std)
        for f in (lambda y, rows: (y >= place[rows]).double(), lambda y, rows: 0.3 + 0.4 * (y >= place[rows])):
            got = quantile(lambda y, rows, f=f: f(y, rows).double(), 0.5, place + 0.3 * std, spread, Normal)
            close(got, place, 1e-12 * max(std, 1.0))


def test_a_count_that_reaches_the_level_to_the_digit_is_the_quantile():
    below = lambda y, rows: torch.tensor([0.25, 0.5, 0.5, 1.0], dtype=torch.float64)[y.clamp(0, 3).long()]  # noqa: E731
    mean = torch.full((1, 2), 1.25, dtype=torch.float64)
    for level, count in ((0.25, 0.0), (0.5, 1.0), (0.5000001, 3.0)):
        assert quantile(below, level, mean, mean, Poisson).tolist() == [[count, count]]


@pytest.mark.parametrize("name", LAWS)
def test_a_level_that_rounds_to_1_has_a_quantile(name):
    for level in (1.0, 1 - 1e-16):
        got, calls = solve(LAWS[name], level, LIKELIHOODS[name])
        last = got.numpy() == 1 - 2.0**-53  # of shares
        assert ((LAWS[name].cdf(got.numpy()) >= 1 - 2e-16) | (last & (name == "beta"))).all()
        assert got.isfinite().all()
        assert len(calls) < 100


@pytest.mark.parametrize("name", [*REALS, "poisson"])
def test_quantiles_in_32_bits_are_those_in_64_but_for_rounding(name):
    law = stats.norm(np.array([-3.0, 0.0, 10.0]), np.array([1.0, 4.0, 1e-2])) if name == "normal" else LAWS[name]
    if name == "poisson":
        law = stats.poisson(np.array([0.3, 4.0, 40.0]))
    for level in (0.05, 0.9):
        got, calls = solve(law, level, LIKELIHOODS[name], dtype=torch.float32)
        np.testing.assert_allclose(got, law.ppf(level), rtol=1e-4, atol=1e-6)
        assert got.dtype == torch.float32
        assert len(calls) < 60


@pytest.mark.parametrize("kind", [Normal, Poisson])
def test_rows_without_a_number_have_none_and_the_others_theirs(kind):
    mean = torch.tensor([[4.0, math.nan], [4.0, 9.0]], dtype=torch.float64)
    law = stats.poisson(4.0) if kind is Poisson else stats.norm(4.0, 2.0)

    def below(y, rows):
        return torch.where(rows < 3, torch.from_numpy(law.cdf(y.numpy())), math.nan)

    got = quantile(below, 0.9, mean, torch.full_like(mean, 2.0), kind)
    close(got[:, 0], torch.full((2,), law.ppf(0.9), dtype=torch.float64), 1e-9)
    assert got[1, 1].isnan()
