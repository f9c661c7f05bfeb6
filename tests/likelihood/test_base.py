"""Likelihoods and the Gaussian-softmax integral against quadrature, integration and sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from builders import close, generator
from scipy import integrate

from ebmeta.likelihood import LIKELIHOODS, NEVER, Categorical, Normal, gaussian_softmax


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def logits(ways, tasks=2, queries=5, scale=1.5, seed=0):
    loc = scale * normal(tasks, queries, ways, seed=seed)
    var = normal(tasks, queries, ways, seed=seed + 1).square()
    return loc, var, torch.ones(tasks, ways, dtype=torch.bool)


def tensor_product(loc, var, nodes):
    """Average the softmax over the full grid of Gauss-Hermite nodes, one axis per class."""
    x, w = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    total = torch.zeros_like(loc)
    for index in itertools.product(range(nodes), repeat=loc.shape[-1]):
        i = list(index)
        total = total + (w[i] / w.sum()).prod() * torch.softmax(loc + var.sqrt() * x[i], -1)
    return total


@pytest.mark.parametrize("ways", [2, 3])
@pytest.mark.parametrize("nodes", [5, 12])
def test_the_softmax_integral_equals_tensor_product_quadrature(ways, nodes):
    loc, var, mask = logits(ways)
    expected = tensor_product(loc, var, nodes)
    close(gaussian_softmax(loc, var, mask, num_nodes=nodes, num_points=200), expected, 1e-9)
    close(gaussian_softmax(loc, var.clamp(max=1.0), mask), tensor_product(loc, var.clamp(max=1.0), 12), 1e-6)
    close(gaussian_softmax(loc, var.clamp(max=4.0), mask), tensor_product(loc, var.clamp(max=4.0), 12), 1e-4)


@pytest.mark.parametrize(
    ("gap", "var"), [(0.3, 0.5), (2.0, 1.0), (-4.0, 1.0), (8.0, 0.1), (1.0, 4.0), (3.0, 9.0), (3.0, 25.0)]
)
def test_two_classes_equal_the_logistic_normal_integral(gap, var):
    exact, _ = integrate.quad(
        lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (1 + math.exp(-gap - math.sqrt(2 * var) * z)), -9, 9
    )
    loc = torch.tensor([[[gap, 0.0]]], dtype=torch.float64)
    p = gaussian_softmax(loc, torch.full_like(loc, var), torch.ones(1, 2, dtype=torch.bool))
    tol = {4.0: 2e-4, 9.0: 2e-3, 25.0: 0.02}.get(var, 1e-6)  # twelve nodes see less of a wider logit
    close(p[0, 0], torch.tensor([exact, 1 - exact], dtype=torch.float64), tol)


def test_five_classes_agree_with_sampling():
    loc, var, mask = logits(5)
    draws = 100_000
    p = torch.softmax(loc + var.sqrt() * normal(draws, *loc.shape, seed=5), -1)
    z = (gaussian_softmax(loc, var, mask) - p.mean(0)) / (p.std(0) / draws**0.5)
    assert z.abs().max() < 5.5  # 50 cells at 4e-8 each: false alarms at 2e-6


def test_the_softmax_integral_commutes_with_relabelling():
    loc, var, mask = logits(6)
    order = torch.randperm(6, generator=generator(2))
    close(gaussian_softmax(loc[..., order], var[..., order], mask), gaussian_softmax(loc, var, mask)[..., order], 1e-12)


@pytest.mark.parametrize("fill", [0.0, 1e3])
def test_masked_classes_have_no_probability_and_no_influence(fill):
    loc, var, mask = logits(5)
    mask[0, 3:] = False
    filled = (torch.where(mask.unsqueeze(1), v, fill) for v in (loc, var))
    p = gaussian_softmax(*filled, mask)
    assert torch.equal(p[0, :, 3:], torch.zeros(5, 2, dtype=torch.float64))
    close(p[0, :, :3], gaussian_softmax(loc[:1, :, :3], var[:1, :, :3], mask[:1, :3])[0], 1e-6)


def test_without_variance_the_integral_is_the_softmax():
    loc, var, mask = logits(4, scale=3.0)
    close(gaussian_softmax(loc, torch.zeros_like(var), mask), torch.softmax(loc, -1), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("var", [0.0, 25.0, 1e4, 1e8])
def test_extreme_logits_stay_probabilities(dtype, gap, var):
    loc = torch.tensor([[[gap, 0.0, -gap]]], dtype=dtype)
    p = gaussian_softmax(loc, torch.full_like(loc, var), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(p.sum(-1), torch.ones(1, 1, dtype=dtype))
    assert bool((p >= 0).all())
    if gap <= 30 or var <= 25:
        assert bool((p.diff(dim=-1) <= 1e-6).all())  # the larger location is the likelier class


@pytest.mark.parametrize(("ways", "most"), [(2, 2.0), (5, 0.5), (20, 0.2)])
def test_the_mean_field_moments_approximate_the_integral(ways, most):
    loc, var, mask = logits(ways, queries=50)
    p, curvature = Categorical().moments(loc, var.clamp(max=most), mask)
    close(p.sum(-1), torch.ones(2, 50, dtype=torch.float64), 1e-12)
    close(curvature, p * (1 - p), 1e-12)
    assert (p - gaussian_softmax(loc, var.clamp(max=most), mask)).abs().max() < 0.03


def test_the_mean_field_moments_follow_their_formula():
    loc, var, mask = logits(4)
    mask[0, 3] = False
    p, _ = Categorical().moments(loc, var, mask)
    for t, ways in ((0, 3), (1, 4)):
        for i in range(5):
            m, v = loc[t, i], var[t, i]
            score = [
                1 / sum(math.exp((m[j] - m[c]) / math.sqrt(1 + math.pi * (v[j] + v[c]) / 8)) for j in range(ways))
                for c in range(ways)
            ]
            close(p[t, i], torch.tensor([s / sum(score) for s in score] + [0.0] * (4 - ways), dtype=torch.float64))


def test_categorical_log_prob_is_that_of_its_distribution():
    loc, _, mask = logits(4)
    mask[0, 2:] = False
    y = torch.tensor([[0, 1, 1, 0, 1], [3, 2, 1, 0, 3]])
    eta = loc + normal(6, *loc.shape, seed=4)
    got = Categorical().log_prob(y, eta, mask)
    close(got, Categorical().distribution(eta, mask).log_prob(y))
    close(got[:, 0], torch.log_softmax(eta[:, 0, :, :2], -1).gather(-1, y[0].expand(6, 5)[..., None])[..., 0])


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


def test_the_categorical_objectives_average_over_draws():
    likelihood = Categorical()
    loc, var, mask = logits(3)
    y = torch.randint(3, (2, 5), generator=generator(3))
    noise = normal(4, *loc.shape, seed=5)
    rows = [likelihood.log_prob(y, loc + var.sqrt() * n, mask) for n in noise]
    close(likelihood.expected_log_prob(y, loc, var, mask, noise), sum(rows) / 4)
    close(likelihood.predictive_log_prob(y, loc, var, mask, noise), torch.log(sum(r.exp() for r in rows) / 4))
    mask[:, 2] = False
    eta = loc.masked_fill(~mask.unsqueeze(1), NEVER)
    close(likelihood.distribution(loc, mask).probs, torch.softmax(eta, -1))


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_must_be_positive(noise):
    with pytest.raises(ValueError, match=r"noise: expected a finite number above 0, got"):
        Normal(noise)


@pytest.mark.parametrize(
    ("variance", "bound"),
    [(0.05, 1e-6), (0.25, 1e-6), (0.5, 1e-6), (1.0, 1e-6), (4.0, 1e-6), (25.0, 1e-3), (100.0, 0.01)],
)
def test_gaussian_softmax_is_as_accurate_as_its_docstring_says(variance, bound):
    g = torch.Generator().manual_seed(0)
    loc = 3 * torch.randn(1, 50, 5, generator=g, dtype=torch.float64)
    var, ways = torch.full_like(loc, variance), torch.ones(1, 5, dtype=torch.bool)
    dense = gaussian_softmax(loc, var, ways, num_nodes=120, num_points=4000)
    assert (gaussian_softmax(loc, var, ways) - dense).abs().max() < bound
