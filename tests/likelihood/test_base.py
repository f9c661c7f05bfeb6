"""Likelihoods and the Gaussian-softmax integral against quadrature, integration and sampling."""

from __future__ import annotations

import pytest
import torch
from builders import close, generator

from ebmeta.likelihood import LIKELIHOODS, Categorical, Normal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def logits(ways, tasks=2, queries=5, scale=1.5, seed=0):
    loc = scale * normal(tasks, queries, ways, seed=seed)
    var = normal(tasks, queries, ways, seed=seed + 1).square()
    return loc, var, torch.ones(tasks, ways, dtype=torch.bool)


def test_statistics():
    y = torch.tensor([[2, 0]])
    assert Categorical().statistic(y, 3).tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert Normal().statistic(torch.tensor([[2.5, -1.0]]), 1).tolist() == [[[2.5], [-1.0]]]


@pytest.mark.parametrize("name", ["categorical", "normal"])
def test_every_likelihood_is_an_exponential_family(name):
    """Check the gradient of the log likelihood against its definition: (T(y) - A'(eta)) / dispersion."""
    likelihood = LIKELIHOODS[name]().double()
    if name == "normal":
        likelihood.log_noise.data.fill_(-0.4)
    ways = 4 if likelihood.categorical else 1
    eta, _, mask = logits(ways)
    y = torch.randint(ways, (2, 5), generator=generator(3)) if likelihood.categorical else normal(2, 5, seed=3)
    eta.requires_grad_(True)
    (gradient,) = torch.autograd.grad(likelihood.log_prob(y, eta, mask).sum(), eta)
    mean, curvature = likelihood.moments(eta, torch.zeros_like(eta), mask)
    close(gradient, (likelihood.statistic(y, ways) - mean) / likelihood.dispersion())
    (second,) = torch.autograd.grad(mean.sum(), eta, create_graph=True)  # columns of A'' sum to d mean / d eta
    close(second, torch.zeros_like(second) if likelihood.categorical else curvature)
