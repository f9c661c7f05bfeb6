"""Shares, numbers between 0 and 1."""

import math

import numpy as np
import pytest
import torch

from ebmeta.likelihood import Beta, ScalarLikelihood

WAYS = torch.ones(1, 1, dtype=torch.bool)
Y = torch.tensor([0.02, 0.4, 0.97], dtype=torch.float64)
ETA = torch.tensor([-1.5, 0.3, 2.0], dtype=torch.float64)


def test_a_kernel_is_the_log_density_up_to_terms_without_the_linear_predictor():
    likelihood = Beta(6.0).double()
    exact = [likelihood.log_prob(Y, e.view(1, -1, 1), WAYS)[0] for e in (ETA, 0 * ETA)]
    found = [likelihood.kernel(Y, e) for e in (ETA, 0 * ETA)]
    torch.testing.assert_close(found[0] - found[1], exact[0] - exact[1])
    y, at = Y[:, None].numpy(), np.stack([ETA, 1 - ETA], 1)
    both = (likelihood.expansion(y, at), ScalarLikelihood.expansion(likelihood, y, at))
    for closed, differentiated in zip(*both, strict=True):
        np.testing.assert_allclose(closed, differentiated, rtol=1e-9, atol=1e-10)
    far = likelihood.expansion(y, np.array([[-2000.0, 2000.0]]))
    assert all(np.isfinite(part).all() for part in far)


def test_the_information_is_the_mean_square_of_the_score():
    likelihood, share = Beta(6.0).double(), torch.linspace(0.5e-5, 1 - 0.5e-5, 100_000).double()
    for eta in (-1.0, 0.5):
        p = likelihood.log_prob(share, torch.full((1, len(share), 1), eta).double(), WAYS)[0].exp() / len(share)
        score = torch.from_numpy(likelihood.expansion(share.numpy(), np.full(len(share), eta))[1])
        found = likelihood.information(torch.tensor([eta]).double()).item()
        assert found == pytest.approx((p * score.square()).sum().item(), rel=1e-3)


def test_a_label_is_likeliest_at_its_peak():
    likelihood = Beta(3.0).double()
    eta = likelihood.peak(Y).view(1, -1, 1).detach().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.log_prob(Y, eta, WAYS).sum(), eta)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


def test_the_intercept_is_the_log_odds_of_the_mean_and_labels_alike_tell_nothing():
    assert Beta().intercept(torch.tensor([0.1, 0.3]), None) == pytest.approx(math.log(0.25), rel=1e-6)
    assert Beta().extreme(np.full(3, 0.5), np.ones(3))
    assert not Beta().extreme(np.array([0.5, 0.6]), np.ones(2))
    assert Beta().alone(np.ones(2))


def test_padding_may_be_0_and_labels_may_not():
    y, mask, eta = torch.tensor([[0.5, 0.0]]), torch.tensor([[True, False]]), torch.zeros(1, 2, 1, requires_grad=True)
    likelihood = Beta()
    likelihood.check("y", y, mask, None)
    kept = torch.where(mask, likelihood.distribution(eta, WAYS).log_prob(y), 0.0).sum()
    assert bool(torch.autograd.grad(kept, eta)[0].isfinite().all())
    with pytest.raises(ValueError, match="y: expected shares between 0 and 1, neither of them, .*, got 0 at task 0"):
        likelihood.check("y", y, ~mask, None)
