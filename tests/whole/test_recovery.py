"""Groups simulated from a likelihood's own model: the fitted prior is the true one, within what the data leave open."""

from __future__ import annotations

import math

import pytest
import torch

import ebmeta
from ebmeta import EmpiricalBayes, TaskBatch

LOC, SCALE, GROUPS, ROWS = 0.5, 0.7, 80, 6


def simulated(likelihood: str, seed: int) -> TaskBatch:
    """Return groups whose linear predictor is their intercept alone, all rows labelled queries."""
    g = torch.Generator().manual_seed(seed)
    w = LOC + SCALE * torch.randn(GROUPS, 1, generator=g, dtype=torch.float64)
    eta = w.expand(-1, ROWS)
    if likelihood == "poisson":
        y = torch.poisson(eta.exp(), generator=g)
    else:
        y = torch.bernoulli(eta.sigmoid(), generator=g)
    x = torch.empty(GROUPS, ROWS, 0, dtype=torch.float64)
    return TaskBatch(x[:, :0], y[:, :0], x, y)


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli"])
@pytest.mark.parametrize("seed", range(2))
def test_the_fitted_prior_is_the_true_one(likelihood, seed):
    """Four standard errors in eight comparisons: false alarms at 5e-4 where estimates are normal."""
    batch = simulated(likelihood, seed)
    model = EmpiricalBayes.regressor(0, likelihood, num_steps=0).double()
    assert ebmeta.fit_evidence(model, batch, boundary=False).converged
    drawn = ebmeta.propagate(model, batch, hyperprior=False, num_draws=32)
    weight = drawn.log_weight.exp()[:, None]
    columns = [drawn.names.index(name) for name in ("prior.loc", "prior.log_scale")]
    values = drawn.values[:, columns]
    mean = (weight * values).sum(0)
    error = (weight * (values - mean).square()).sum(0).sqrt()
    assert (error < 0.5).all()  # the data say something
    z = (mean - torch.tensor([LOC, math.log(SCALE)], dtype=torch.float64)) / error
    assert (z.abs() < 4).all(), z
