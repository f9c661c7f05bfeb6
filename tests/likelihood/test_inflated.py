"""Counts of which some are replaced by 0."""

import math

import numpy as np
import pytest
import torch

from ebmeta.likelihood import (
    Given,
    NegativeBinomial,
    Poisson,
    ScalarLikelihood,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)

WAYS = torch.ones(1, 1, dtype=torch.bool)
Y = torch.tensor([0.0, 3.0, 0.0, 1.0], dtype=torch.float64)
ETA = torch.tensor([-0.5, 1.0, 3.0, 0.2], dtype=torch.float64)
GIVEN = Given(torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=torch.float64))
KINDS = [ZeroInflatedPoisson(0.3).double(), ZeroInflatedNegativeBinomial(0.3, 2.5).double()]


@pytest.mark.parametrize("likelihood", KINDS)
def test_a_kernel_is_the_log_probability_up_to_terms_without_the_linear_predictor(likelihood):
    exact = [likelihood.log_prob(Y, e.view(1, -1, 1), WAYS, GIVEN)[0] for e in (ETA, 0 * ETA)]
    found = [likelihood.kernel(Y, e, GIVEN) for e in (ETA, 0 * ETA)]
    torch.testing.assert_close(found[0] - found[1], exact[0] - exact[1])
    y, at, size = Y[:, None].numpy(), np.stack([ETA, 1 - ETA], 1), GIVEN.size[:, None].numpy()
    both = (likelihood.expansion(y, at, size), ScalarLikelihood.expansion(likelihood, y, at, size))
    for closed, differentiated in zip(*both, strict=True):
        np.testing.assert_allclose(closed, differentiated, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("likelihood", KINDS)
def test_the_information_is_the_mean_square_of_the_score(likelihood):
    counts = torch.arange(3000).double()
    for eta in (-1.0, 0.5, 2.0):
        at = torch.full_like(counts, eta)
        p = likelihood.log_prob(counts, at.view(1, -1, 1), WAYS)[0].exp()
        assert p.sum().item() == pytest.approx(1.0, abs=1e-9)
        score = torch.from_numpy(likelihood.expansion(counts.numpy(), at.numpy())[1])
        found = likelihood.information(torch.tensor([eta]).double())
        assert found.item() == pytest.approx((p * score.square()).sum().item(), rel=1e-6)


def test_no_inflation_is_none():
    few, plain = ZeroInflatedPoisson(1e-15).double(), Poisson().double()
    for ask in (lambda p: p.mean(ETA, GIVEN), lambda p: p.variance(ETA, GIVEN), lambda p: p.cdf(Y, ETA, GIVEN)):
        torch.testing.assert_close(ask(few), ask(plain))
    gradients = [p.gradients(Y, ETA.view(1, -1, 1), 0 * ETA.view(1, -1, 1), WAYS, GIVEN) for p in (few, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other.expand_as(one))


def test_a_row_of_0_may_curve_upwards():
    """At a high rate a 0 is one of the others, and says nothing of the rate."""
    _, slope, bend = KINDS[0].expansion(np.zeros(3), np.array([-2.0, 1.0, 6.0]))
    assert (slope < 0).all()
    assert bend[0] < 0 < bend[1]
    np.testing.assert_allclose([slope[2], bend[2]], 0.0, atol=1e-100)


def test_what_is_no_matter_of_zeros_is_that_of_the_other_likelihood():
    one, y = ZeroInflatedNegativeBinomial(0.25), torch.tensor([0.0, 3.0, 6.0])
    assert one.intercept(y, None) == pytest.approx(NegativeBinomial().intercept(y, None) - math.log(0.75))
    assert one.alone(np.ones(2))
    assert not ZeroInflatedPoisson().alone(np.ones(2))
    assert one.extreme(np.zeros(2), np.ones(2))
    assert one.learned()["inflation"].item() == pytest.approx(0.25)
    assert one.learned()["shape"].item() == pytest.approx(2.0)
    with pytest.raises(ValueError, match="y: expected counts that a model of torch.float32 can tell apart"):
        one.check_precision("y", torch.tensor([1e13], dtype=torch.float64), torch.float32)


@pytest.mark.parametrize("likelihood", KINDS)
def test_a_zero_is_silent_with_the_probability_of_bayes(likelihood):
    y, eta, size = Y.numpy(), ETA.numpy(), GIVEN.size.numpy()
    none = likelihood.rest.log_prob(torch.zeros(4), ETA.view(1, -1, 1), WAYS, GIVEN)[0].exp().detach().numpy()
    wanted = np.where(y == 0, 0.3 / (0.3 + 0.7 * none), 0.0)
    np.testing.assert_allclose(np.exp(likelihood.log_silent(y, eta, size)), wanted, rtol=1e-6)
    np.testing.assert_array_equal(likelihood.rest.log_silent(y, eta, size), -np.inf)
