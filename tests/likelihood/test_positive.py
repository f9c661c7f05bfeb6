"""Likelihoods of numbers above 0: their logarithms, their units, and labels that are refused."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ebmeta.likelihood import Gamma, Given, LogNormal, Normal, ScalarLikelihood
from ebmeta.tasks.training_rows import TrainingRows

WAYS = torch.ones(1, 1, dtype=torch.bool)
Y = torch.tensor([0.2, 1.5, 7.0], dtype=torch.float64)


def rows_of(y: torch.Tensor) -> TrainingRows:
    return TrainingRows(torch.zeros(len(y), 1), y, torch.zeros(len(y)), standardize=True)


def test_a_log_normal_label_is_a_normal_logarithm():
    eta, var = torch.linspace(-1, 1, 3).double(), torch.tensor([0.2, 1.0, 3.0]).double()
    given, plain, logs = Given(torch.tensor([[1.0, 2.0, 0.5]]).double()), Normal(0.7), LogNormal(0.7)
    laid, spread, none = eta.view(1, -1, 1), var.view(1, -1, 1), torch.zeros(1)
    for likelihood in (plain, logs):
        likelihood.center.fill_(0.4)
        likelihood.unit.fill_(1.3)
    torch.testing.assert_close(logs.transformed(Y), Y.log())
    torch.testing.assert_close(logs.log_jacobian(Y), -Y.log())
    for ask in (
        lambda p, y: p.log_prob(y, laid, WAYS, given),
        lambda p, y: p.expected_log_prob(y, laid, spread, WAYS, none, given),
        lambda p, y: p.predictive_log_prob(y, laid, spread, WAYS, none, given),
    ):
        torch.testing.assert_close(ask(logs, Y), ask(plain, Y.log()) - Y.log())
    torch.testing.assert_close(
        logs.predictive_cdf(Y, laid, spread, given), plain.predictive_cdf(Y.log(), laid, spread, given)
    )
    for found, wanted in zip(
        logs.gradients(Y, laid, spread, WAYS, given), plain.gradients(Y.log(), laid, spread, WAYS, given), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_a_log_density_of_a_gamma_keeps_its_digits():
    """Of a shape of 1e9 the label is nearly normal, with a relative deviation of 1e9 ** -0.5."""
    likelihood, sd = Gamma(1e9).double(), 1e9**-0.5
    likelihood.log_shape.data.fill_(math.log(1e9))
    y = torch.tensor([1 + 0.5 * sd, 1 - 2 * sd], dtype=torch.float64)
    found = likelihood.log_prob(y, torch.zeros(1, 2, 1).double(), WAYS)[0]
    np.testing.assert_allclose(found.detach(), stats.norm(1, sd).logpdf(y), atol=2e-4)


@pytest.mark.parametrize("likelihood", [Gamma(3.0).double(), LogNormal(0.5).double()])
def test_a_label_is_likeliest_at_its_peak(likelihood):
    likelihood.center.fill_(0.6)
    eta = likelihood.peak(Y).view(1, -1, 1).clone().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.log_prob(Y, eta, WAYS).sum(), eta)
    torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_a_kernel_of_a_gamma_is_its_log_density_up_to_terms_without_the_linear_predictor():
    likelihood, given = Gamma(3.0).double(), Given(torch.tensor([1.0, 2.0, 3.0]).double())
    likelihood.center.fill_(0.6)
    eta = torch.tensor([-1.0, 0.3, 2.0]).double()
    exact = [likelihood.log_prob(Y, e.view(1, -1, 1), WAYS, given)[0] for e in (eta, 0 * eta)]
    found = [likelihood.kernel(Y, e, given) for e in (eta, 0 * eta)]
    torch.testing.assert_close(found[0] - found[1], exact[0] - exact[1])
    y, at, size = Y[:, None].numpy(), np.stack([eta, 1 - eta], 1), given.size[:, None].numpy()
    both = (likelihood.expansion(y, at, size), ScalarLikelihood.expansion(likelihood, y, at, size))
    for closed, differentiated in zip(*both, strict=True):
        np.testing.assert_allclose(closed, differentiated, rtol=1e-12, atol=1e-12)


def test_training_takes_centre_and_unit_on_the_scale_of_logarithms():
    y = torch.tensor([1e-9, 2e-9, 6e-9], dtype=torch.float64)
    gamma, logs = Gamma(), LogNormal()
    assert gamma.measure(rows_of(y)).intercept == 0.0
    assert logs.measure(rows_of(y)).intercept == 0.0
    assert gamma.center.item() == pytest.approx(math.log(3e-9))
    assert gamma.unit.item() == 1.0
    assert logs.center.item() == pytest.approx(y.log().mean().item())
    assert logs.unit.item() == pytest.approx(y.log().std(correction=0).item())


def test_labels_that_are_all_alike_tell_nothing_of_a_shape():
    assert Gamma().extreme(np.full(3, 2.0), np.ones(3))
    assert not Gamma().extreme(np.array([2.0, 3.0]), np.ones(2))
    assert Gamma().alone(np.ones(3))
    assert LogNormal().alone(np.ones(3))


@pytest.mark.parametrize("likelihood", [Gamma(), LogNormal()])
def test_padding_may_be_0_and_labels_may_not(likelihood):
    y, mask = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    likelihood.check("y", y, mask, None)
    g, h = likelihood.gradients(y, torch.zeros(1, 2, 1), torch.ones(1, 2, 1), WAYS)
    assert bool(g.isfinite().all() and h.isfinite().all())
    eta = torch.zeros(1, 2, 1, requires_grad=True)
    kept = torch.where(mask, likelihood.distribution(eta, WAYS).log_prob(y), 0.0).sum()
    assert bool(torch.autograd.grad(kept, eta)[0].isfinite().all())
    with pytest.raises(ValueError, match=f"y: expected numbers above 0 for a {likelihood.name} likelihood, got 0 at"):
        likelihood.check("y", y, ~mask, None)
