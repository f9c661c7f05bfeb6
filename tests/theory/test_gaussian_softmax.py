"""Numerical checks of theory/gaussian_softmax.md: the Gaussian-softmax integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch
from equations import checks
from torch import Tensor

from ebmeta.likelihood import Categorical, gaussian_softmax
from tests.theory.tools import all_ways, equal, hermite, rand, randn


def tensor_rule(loc: Tensor, var: Tensor, nodes: int) -> Tensor:
    points, weights = hermite(nodes, len(loc))
    return weights @ torch.softmax(loc + var.sqrt() * points, -1)


@checks("eq-race")
def test_softmax_is_a_race(rng: torch.Generator) -> None:
    eta = 2 * randn(rng, 4)
    z = torch.linspace(-10, 45, 2001, dtype=torch.float64)
    u = eta[:, None] - z
    integrand = torch.exp(u - u.exp().sum(0))
    equal(gaussian_softmax(eta[None, None], 0 * eta[None, None], all_ways(4))[0, 0], eta.softmax(-1))
    equal(integrand.sum(-1) * (z[1] - z[0]), eta.softmax(-1))


@checks("eq-laplace")
def test_softmax_is_a_laplace_transform(rng: torch.Generator) -> None:
    eta = randn(rng, 3)
    got = gaussian_softmax(eta[None, None], 0 * eta[None, None], all_ways(3))[0, 0]
    for c in range(3):
        total = eta.exp().sum().item()
        value, _ = scipy.integrate.quad(
            lambda s, c=c, total=total: math.exp(eta[c].item() - s * total), 0, math.inf, epsabs=1e-12
        )
        equal(got[c], value)


@checks("eq-cdf")
def test_density_is_the_derivative_of_the_distribution_function(rng: torch.Generator) -> None:
    points, weights = hermite(40)
    z = torch.linspace(-6, 20, 50, dtype=torch.float64, requires_grad=True)
    u = 0.3 + 0.8 * points[:, 0] - z[:, None]
    cdf, pdf = torch.exp(-u.exp()) @ weights, torch.exp(u - u.exp()) @ weights
    (slope,) = torch.autograd.grad(cdf.sum(), z)
    equal(slope, pdf.detach())
    low, *_, high = cdf.detach().tolist()
    assert bool((cdf.diff() >= 0).all())
    assert low < 1e-6
    assert high > 1 - 1e-6
    # ... of eta + g: convolve the normal density with the Gumbel distribution function.
    for at in (-1.0, 0.5, 3.0):
        wanted, _ = scipy.integrate.quad(
            lambda e, at=at: math.exp(-e * e / 2 - math.exp(0.3 + 0.8 * e - at)) / math.sqrt(2 * math.pi), -12, 12
        )
        got = torch.exp(-torch.exp(0.3 + 0.8 * points[:, 0] - at)) @ weights
        equal(got, wanted, atol=1e-6)


@checks("eq-integral")
def test_gaussian_softmax_is_one_integral(rng: torch.Generator) -> None:
    for _ in range(5):
        loc, var = 2 * randn(rng, 3), 0.05 + rand(rng, 3)
        got = gaussian_softmax(loc[None, None], var[None, None], all_ways(3), num_nodes=40, num_points=400)[0, 0]
        equal(got, tensor_rule(loc, var, 40), atol=1e-8)
    # The figures of page and docstring, for variances up to each value; the fine rule has four times the nodes.
    for most, error in ((0.25, 1e-6), (1.0, 1e-6), (4.0, 1e-6), (9.0, 1e-4), (25.0, 1e-3), (100.0, 0.02)):
        loc, var = 2 * randn(rng, 1, 12, 3), most * rand(rng, 1, 12, 3)
        var[..., 0] = most
        fine = gaussian_softmax(loc, var, all_ways(3), num_nodes=96, num_points=900)
        assert float((gaussian_softmax(loc, var, all_ways(3)) - fine).abs().max()) < error


@checks("eq-tensor")
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_linear_cost_equals_the_tensor_product(scale: float, rng: torch.Generator) -> None:
    loc, var = 2 * randn(rng, 4), (scale * (0.5 + rand(rng, 4))).square()
    got = gaussian_softmax(loc[None, None], var[None, None], all_ways(4), num_nodes=6, num_points=600)[0, 0]
    equal(got, tensor_rule(loc, var, 6), atol=1e-8)


@checks("eq-trapezoid")
def test_trapezoid_error() -> None:
    def bound(h: float) -> float:
        k = np.arange(1, 30)
        x = 2 * np.pi**2 * k / h
        gamma = np.abs(scipy.special.gamma(1 + 2j * np.pi * k / h))
        np.testing.assert_allclose(gamma, np.sqrt(2 * x / -np.expm1(-2 * x)) * np.exp(-x / 2), rtol=1e-9)
        return float(2 * gamma.sum())

    for h in (0.7, 1.1, 1.6):
        errors = []
        for offset in np.linspace(0, h, 25):
            z = offset + h * np.arange(-40, 80)
            for log_sum in (0.0, 1.7):
                g = np.exp(log_sum - z - np.exp(np.minimum(log_sum - z, 600)))
                errors.append(abs(h * g.sum() - 1))
        assert max(errors) <= bound(h) * (1 + 1e-6) + 1e-14
        assert max(errors) >= 0.9 * bound(h) - 1e-14  # the bound is reached
    assert bound(0.4) == pytest.approx(4e-10, rel=0.1)
    assert bound(0.5) == pytest.approx(5e-8, rel=0.1)
    assert bound(1.1) == pytest.approx(1.5e-3, rel=0.1)
    # The package divides by the sum: without variance the error is common to all classes, whatever the spacing.
    eta = torch.tensor([[[1.0, -2.0, 0.3]]], dtype=torch.float64)
    equal(gaussian_softmax(eta, 0 * eta, all_ways(3), num_points=12), eta.softmax(-1))  # a spacing of nearly 2


@checks("eq-tails")
def test_tails() -> None:
    def density(z: float) -> float:
        return 3.0 * math.exp(-z - 3.0 * math.exp(-z))

    for cut in (-1.0, 0.5, 4.0):
        left, _ = scipy.integrate.quad(density, -6, cut, epsabs=1e-13)
        right, _ = scipy.integrate.quad(density, cut, 60, epsabs=1e-13)
        assert left == pytest.approx(math.exp(-3.0 * math.exp(-cut)), abs=1e-10)
        assert right == pytest.approx(1 - math.exp(-3.0 * math.exp(-cut)), abs=1e-10)
        assert right <= 3.0 * math.exp(-cut)
    assert math.exp(-math.exp(3.6)) < 2e-16
    assert math.exp(-17) == pytest.approx(4e-8, rel=0.05)


@checks("eq-reciprocal")
def test_reciprocal_of_a_softmax(rng: torch.Generator) -> None:
    eta = randn(rng, 4)
    got = Categorical().moments(eta[None, None], 0 * eta[None, None], all_ways(4))[0][0, 0]
    for c in range(4):
        others = [j for j in range(4) if j != c]
        wanted = 1 + sum(1 / torch.sigmoid(eta[c] - eta[j]) - 1 for j in others)
        equal(1 / got[c], wanted)
        equal(wanted, (eta - eta[c]).exp().sum())


@checks("eq-mean-field")
def test_mean_field_approximation(rng: torch.Generator) -> None:
    worst = 0.0
    for _ in range(40):
        loc, var = 3 * randn(rng, 3), rand(rng, 3)
        got = Categorical().moments(loc[None, None], var[None, None], all_ways(3))[0][0, 0]
        score = torch.stack(
            [
                1 / sum(torch.exp((loc[j] - loc[c]) / (1 + math.pi * (var[j] + var[c]) / 8).sqrt()) for j in range(3))
                for c in range(3)
            ]
        )
        equal(got, score / score.sum())
        worst = max(worst, float((got - tensor_rule(loc, var, 20)).abs().max()))
        exact = Categorical().moments(loc[None, None], 0 * var[None, None], all_ways(3))[0][0, 0]
        equal(exact, loc.softmax(-1))
    assert worst < 0.025


@checks("eq-mean-field-curvature")
def test_curvature_of_the_mean_is_above_the_mean_curvature(rng: torch.Generator) -> None:
    points, weights = hermite(24, 3)
    for _ in range(20):
        loc, var = 2 * randn(rng, 3), 0.1 + rand(rng, 3)
        p = torch.softmax(loc + var.sqrt() * points, -1)
        mean, exact = weights @ p, weights @ (p * (1 - p))
        equal(exact, mean * (1 - mean) - weights @ (p - mean).square())
        assert bool((exact < mean * (1 - mean)).all())
        approximate, taken = (v[0, 0] for v in Categorical().moments(loc[None, None], var[None, None], all_ways(3)))
        equal(taken, approximate * (1 - approximate))
        assert float((taken - mean * (1 - mean)).abs().max()) < 0.02
    # One query of two classes that nobody can tell apart, and logits of standard deviation 3.
    loc, var = torch.zeros(1, 1, 2, dtype=torch.float64), torch.full((1, 1, 2), 9.0, dtype=torch.float64)
    points, weights = hermite(60, 2)
    p = torch.softmax(3 * points, -1)
    taken = Categorical().moments(loc, var, all_ways(2))[1][0, 0]
    equal(taken, 0.25)
    assert float(taken[0] / (weights @ (p * (1 - p)))[0]) > 1.5
