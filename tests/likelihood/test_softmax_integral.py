"""The Gaussian-softmax integral against quadrature, a closed form and sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from builders import close, generator
from scipy import integrate

from ebmeta.likelihood import gaussian_softmax
from tests.likelihood.test_base import logits, normal


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
