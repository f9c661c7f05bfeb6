"""Likelihoods of whole numbers: starting values, labels that tell nothing, and counts that are refused."""

import math

import numpy as np
import pytest
import torch

from ebmeta.likelihood import Bernoulli, Binomial, Given, NegativeBinomial, Poisson, ScalarLikelihood

ONE = np.ones(4)


def test_intercepts_are_log_rates_and_log_odds_of_all_rows_together():
    y, size = torch.tensor([0.0, 3.0, 4.0]), torch.tensor([2.0, 5.0, 8.0])
    assert Poisson().intercept(y, size) == pytest.approx(math.log(7.5 / 15))
    assert NegativeBinomial().intercept(y, None) == pytest.approx(math.log(7.5 / 3))
    assert Binomial().intercept(y, size) == pytest.approx(math.log(7.5 / 8.5))
    assert Bernoulli().intercept(torch.tensor([1.0, 0.0, 1.0]), None) == pytest.approx(math.log(2.5 / 1.5))
    assert math.isfinite(Poisson().intercept(torch.zeros(3), None))


def test_labels_at_an_end_of_their_range_are_extreme():
    assert Poisson().extreme(0 * ONE, ONE)
    assert not Poisson().extreme(ONE, ONE)
    for likelihood in (Binomial(), Bernoulli()):
        assert likelihood.extreme(0 * ONE, ONE)
        assert likelihood.extreme(ONE, ONE)
        assert not likelihood.extreme(np.array([0.0, 1.0, 1.0, 1.0]), ONE)
    assert not Binomial().extreme(ONE, 2 * ONE)


def test_single_trials_and_free_shapes_say_nothing_of_a_spread_of_rows():
    assert Binomial().alone(ONE)
    assert not Binomial().alone(2 * ONE)
    assert NegativeBinomial().alone(2 * ONE)


def test_a_negative_binomial_of_a_large_shape_is_poisson():
    eta, y = torch.tensor([0.3, 2.0], dtype=torch.float64), torch.tensor([1.0, 9.0], dtype=torch.float64)
    wide, plain = NegativeBinomial(1e9), Poisson()
    torch.testing.assert_close(wide.variance(eta), plain.variance(eta), rtol=1e-6, atol=0)
    torch.testing.assert_close(wide.cdf(y, eta), plain.cdf(y, eta), rtol=1e-6, atol=0)
    assert NegativeBinomial(2.0).variance(eta)[1].item() == pytest.approx(math.exp(2) + math.exp(4) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "y", "size", "message"),
    [
        (Poisson(), 1.5, None, "expected counts 0, 1, 2, ..., got 1.5 at task 0, row 1"),
        (NegativeBinomial(), -1.0, None, "expected counts 0, 1, 2, ..., got -1 at task 0, row 1"),
        (Binomial(), 3.0, 2.0, "expected at most as many successes as trials, got 3 of 2 at task 0, row 1"),
        (Binomial(), 1.0, 2.5, "expected whole numbers of trials, got 2.5 at task 0, row 1"),
    ],
)
def test_impossible_counts_are_named_where_they_are_no_padding(likelihood, y, size, message):
    labels = torch.tensor([[0.0, y]])
    sizes = None if size is None else torch.tensor([[1.0, size]])
    mask = torch.tensor([[True, True]])
    with pytest.raises(ValueError, match=f"y: {message}"):
        likelihood.check("y", labels, mask, sizes)
    likelihood.check("y", labels, torch.tensor([[True, False]]), sizes)


def test_counts_beyond_the_digits_of_a_type_are_refused():
    for value, dtype, advice in ((1e13, torch.float32, "use model.double"), (1e30, torch.float64, "larger units")):
        y = torch.tensor([value], dtype=torch.float64)
        with pytest.raises(ValueError, match=f"expected counts that a model of {dtype} can tell apart, .*{advice}"):
            Poisson().check_precision("y", y, dtype)
    Poisson().check_precision("y", torch.tensor([1e13], dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Binomial(), Poisson(), NegativeBinomial(3.0).double()])
def test_a_kernel_is_the_log_probability_up_to_terms_without_the_linear_predictor(likelihood):
    eta, y = torch.linspace(-2, 2, 5).double(), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]).double()
    given = Given(torch.tensor([1.0, 2.0, 3.0, 1.0, 4.0]).double())
    exact = likelihood.log_prob(y, eta.view(1, -1, 1), torch.ones(1, 1), given)[0]
    exact = exact - likelihood.log_prob(y, 0 * eta.view(1, -1, 1), torch.ones(1, 1), given)[0]
    found = likelihood.kernel(y, eta, given) - likelihood.kernel(y, 0 * eta, given)
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Binomial(), Poisson(), NegativeBinomial(3.0).double()])
def test_slopes_and_curvatures_in_closed_form_are_those_of_the_kernel(likelihood):
    y, size = np.array([[1.0], [0.0], [2.0]]), np.array([[1.0], [2.5], [3.0]])
    eta = np.linspace(-30.0, 30.0, 15) + np.zeros((3, 1))
    closed = likelihood.expansion(y, eta, size)
    for found, exact in zip(closed, ScalarLikelihood.expansion(likelihood, y, eta, size), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(likelihood.expansion(y, eta)[0], likelihood.expansion(y, eta, np.ones((3, 1)))[0])


def test_a_density_of_ones_own_has_a_kernel_of_its_own():
    class Doubled(Poisson):
        def log_prob(self, y, eta, way_mask, given=None):
            return 2 * super().log_prob(y, eta, way_mask, given)

    eta, y = torch.zeros(1, 3).double(), torch.arange(3).double()
    torch.testing.assert_close(Doubled().kernel(y, eta), 2 * Poisson().log_prob(y, eta.unsqueeze(-1), eta))
    one, two = (v.expansion(y[None].numpy(), eta.numpy()) for v in (Poisson(), Doubled()))
    np.testing.assert_allclose(two[1:], 2 * np.array(one[1:]))


@pytest.mark.parametrize("log_mean", [5.0, 21.0, 25.0, 30.0])
def test_large_counts_have_the_kernel_and_slopes_of_exact_sums(log_mean):
    shape, y = 1.7, np.floor(np.exp(log_mean) * np.array([0.2, 1.0, 3.0]))
    likelihood = NegativeBinomial(shape).double()
    end, start = (likelihood.expansion(y, np.full(3, at), 1.0)[0] for at in (log_mean + 0.5, log_mean))
    torch_end, torch_start = (
        likelihood.kernel(torch.from_numpy(y), torch.full((3,), at, dtype=torch.float64)).detach().numpy()
        for at in (log_mean + 0.5, log_mean)
    )
    tail = [math.log1p(shape * math.exp(-at)) for at in (log_mean + 0.5, log_mean)]  # of y log p and of r log q
    gain = -y * (tail[0] - tail[1]) - shape * (0.5 + tail[0] - tail[1])
    np.testing.assert_allclose(end - start, gain, rtol=1e-7)
    np.testing.assert_allclose(torch_end - torch_start, gain, rtol=1e-7)
    q = shape / (shape + math.exp(log_mean))
    _, slope, bend = likelihood.expansion(y, np.full(3, log_mean), 1.0)
    np.testing.assert_allclose(slope, y * q - shape * (1 - q), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(bend, -(y + shape) * q * (1 - q), rtol=1e-7)
