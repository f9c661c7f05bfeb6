"""Small exact tools that the checks of several pages share."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ebmeta import TaskBatch
from ebmeta.likelihood import Likelihood, Normal
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from ebmeta.refine.base import SyntheticGradient
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.state import QueryState

FAMILIES = pytest.mark.parametrize("family", [DiagonalGaussian, FullGaussian])


def randn(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def rand(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=rng, dtype=torch.float64)


def equal(got: Tensor, wanted: Tensor | float, atol: float = 1e-10) -> None:
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(got.double(), wanted.expand(got.shape), rtol=1e-9, atol=atol)


def constant(values: Tensor, atol: float = 1e-10) -> None:
    """Assert that numbers that may differ by a constant alone are all equal."""
    equal(values, values.flatten()[0].item(), atol)


def hermite(nodes: int, dims: int = 1) -> tuple[Tensor, Tensor]:
    """Nodes (n ** dims, dims) and weights of the tensor-product rule for a standard normal vector."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    points = torch.tensor(list(itertools.product(x, repeat=dims)), dtype=torch.float64)
    weights = torch.tensor(list(itertools.product(w / w.sum(), repeat=dims)), dtype=torch.float64).prod(-1)
    return points, weights


def normal(noise: float) -> Normal:
    """A fixed normal likelihood whose noise is exact in 64 bits (its parameter is made in 32)."""
    likelihood = Normal(noise).double().requires_grad_(False)
    likelihood.log_noise.fill_(math.log(noise))
    return likelihood


def make(family: type[Gaussian], rng: torch.Generator, tasks: int = 2, ways: int = 3, weights: int = 3) -> Gaussian:
    loc = randn(rng, tasks, ways, weights)
    if family is DiagonalGaussian:
        return DiagonalGaussian(loc, 0.5 + rand(rng, tasks, ways, weights))
    root = randn(rng, tasks, ways, weights, weights) / 2
    return FullGaussian(loc, root @ root.mT + 0.5 * torch.eye(weights, dtype=torch.float64))


def dense(q: Gaussian) -> Tensor:
    """The precision as a matrix."""
    return q.precision if isinstance(q, FullGaussian) else torch.diag_embed(q.precision)


def probabilities(rng: torch.Generator, *shape: int) -> Tensor:
    p = 0.1 + rand(rng, *shape)
    return p / p.sum(-1, keepdim=True)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def jiggle(module: nn.Module, rng: torch.Generator, size: float = 0.2) -> None:
    """Move every parameter away from its start, so that nothing is zero by construction."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn(p.shape, generator=rng, dtype=p.dtype))


def regression(rng: torch.Generator, tasks: int = 3, support: int = 3, queries: int = 5) -> TaskBatch:
    rows = support + queries
    x, y = randn(rng, tasks, rows, 2), randn(rng, tasks, rows)
    return TaskBatch(x[:, :support], y[:, :support], x[:, support:], y[:, support:])


def classification(rng: torch.Generator, ways: int = 3, queries: int = 6) -> TaskBatch:
    support_y = torch.arange(ways).repeat(2)
    return TaskBatch(
        randn(rng, 2, 2 * ways, 4),
        support_y.expand(2, -1),
        randn(rng, 2, queries, 4),
        torch.randint(ways, (2, queries), generator=rng),
        way_mask=torch.ones(2, ways, dtype=torch.bool),
    )


def query_terms(q: Gaussian, x: Tensor, y: Tensor, likelihood: Likelihood) -> tuple[Tensor, Tensor]:
    """Expected and predictive negative log likelihood of every query, for real labels."""
    loc, var = q.marginal(x)
    ways = torch.ones(len(x), 1, dtype=torch.bool)
    none = torch.zeros(1, dtype=torch.float64)
    gibbs = -likelihood.expected_log_prob(y, loc, var, ways, none)
    return gibbs, -likelihood.predictive_log_prob(y, loc, var, ways, none)


class Fixed(SyntheticGradient):
    """A synthetic gradient that does not look at its input."""

    def __init__(self, xi: Tensor) -> None:
        super().__init__()
        self.xi = xi

    def forward(self, state: QueryState) -> Tensor:
        return self.xi


class Believer(SyntheticGradient):
    """The residual form with a given belief."""

    def __init__(self, belief: Tensor) -> None:
        super().__init__()
        self.belief = belief

    def forward(self, state: QueryState) -> Tensor:
        return state.mean - self.belief


def refiner(xi: SyntheticGradient, steps: int, mean: float, pull: float, precision: float) -> GradientRefiner:
    module = GradientRefiner(xi, steps).double()
    nn.init.constant_(module.log_step, math.log(mean))
    nn.init.constant_(module.prior_pull, pull)
    nn.init.constant_(module.precision_step, precision)
    return module


def conjugate_case(rng: torch.Generator, support: int = 5) -> tuple[Gaussian, Likelihood, Tensor, Tensor, Tensor]:
    likelihood = normal(0.6)
    mask = torch.ones(2, support, dtype=torch.bool)
    return make(FullGaussian, rng, 2, 1), likelihood, randn(rng, 2, support, 3), randn(rng, 2, support), mask


def all_ways(ways: int) -> Tensor:
    return torch.ones(1, ways, dtype=torch.bool)


def given(joint: Tensor, index: tuple[int, ...]) -> Tensor:
    """p(w | support x, support y, query x, query x)."""
    p = joint.sum((-2, -1))[(slice(None), *index)]
    return p / p.sum()
