"""The oracle itself, against brute force: joint Gaussians of weights and labels, written out in full."""

from __future__ import annotations

import pytest
import torch
from builders import close, generator, random_precision

from ebmeta.likelihood import Normal
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian
from ebmeta.parts.initializer import ConjugateInitializer
from ebmeta.simulate import conjugate

TASKS, ROWS, WEIGHTS = 4, 6, 3
NOISE = torch.tensor(0.7, dtype=torch.float64)


def case(family):
    g = generator(0)
    loc = torch.randn(TASKS, 1, WEIGHTS, generator=g, dtype=torch.float64)
    precision = random_precision((TASKS, 1), WEIGHTS, g)
    prior = FullGaussian(loc, precision) if family == "full" else DiagonalGaussian(loc, precision.diagonal(0, -2, -1))
    x = torch.randn(TASKS, ROWS, WEIGHTS, generator=g, dtype=torch.float64)
    y = 2 * torch.randn(TASKS, ROWS, generator=g, dtype=torch.float64)
    mask = torch.arange(ROWS) < torch.tensor([[6], [4], [1], [0]])
    x[~mask], y[~mask] = 1e3, -1e3
    return prior, x, y, mask


def likelihood():
    out = Normal().double()
    torch.nn.init.constant_(out.log_noise, NOISE.log().item() / 2)
    return out


def brute_force(prior, x, y, mask, t):
    """Return mean, covariance and evidence of task `t` from the joint Gaussian of its real rows."""
    x, y = x[t, mask[t]], y[t, mask[t]]
    mu = prior.loc[t, 0]
    precision = prior.precision[t, 0]
    sigma = torch.linalg.inv(precision if precision.dim() == 2 else torch.diag(precision))
    marginal = x @ sigma @ x.T + NOISE * torch.eye(len(x), dtype=torch.float64)
    gain = torch.linalg.solve(marginal, x @ sigma).T
    evidence = torch.tensor(0.0, dtype=torch.float64)
    if len(x):
        evidence = torch.distributions.MultivariateNormal(x @ mu, marginal).log_prob(y)
    return mu + gain @ (y - x @ mu), sigma - gain @ x @ sigma, evidence


def test_the_posterior_is_the_conditional_of_the_joint_gaussian():
    prior, x, y, mask = case("full")
    q = conjugate.posterior(prior, x, y, mask, NOISE)
    for t in range(TASKS):
        mean, covariance, _ = brute_force(prior, x, y, mask, t)
        close(q.loc[t, 0], mean)
        close(q.covariance()[t, 0], covariance)


def test_the_evidence_is_the_density_of_the_marginal_gaussian():
    prior, x, y, mask = case("full")
    got = conjugate.log_evidence(prior, x, y, mask, NOISE)
    close(got, torch.stack([brute_force(prior, x, y, mask, t)[2] for t in range(TASKS)]))


def test_the_evidence_is_the_product_of_sequential_predictions():
    prior, x, y, mask = case("full")
    total = torch.zeros(TASKS, dtype=torch.float64)
    q = prior
    for i in range(ROWS):
        one = slice(i, i + 1)
        total = total + conjugate.log_evidence(q, x[:, one], y[:, one], mask[:, one], NOISE)
        q = conjugate.posterior(q, x[:, one], y[:, one], mask[:, one], NOISE)
    close(total, conjugate.log_evidence(prior, x, y, mask, NOISE))
    at_once = conjugate.posterior(prior, x, y, mask, NOISE)
    close(q.loc, at_once.loc)
    close(q.precision, at_once.precision)


def test_the_initializer_equals_the_oracle():
    prior, x, y, mask = case("full")
    q = ConjugateInitializer()(prior, likelihood(), x, y, mask)
    exact = conjugate.posterior(prior, x, y, mask, likelihood().dispersion())
    close(q.loc, exact.loc)
    close(q.precision, exact.precision)


def test_a_single_weight_makes_the_diagonal_family_exact():
    prior, x, y, mask = case("diagonal")
    prior, x = DiagonalGaussian(prior.loc[..., :1], prior.precision[..., :1]), x[..., :1]
    q = ConjugateInitializer()(prior, likelihood(), x, y, mask)
    for t in range(TASKS):
        mean, covariance, _ = brute_force(prior, x, y, mask, t)
        close(q.loc[t, 0], mean)
        close(1 / q.precision[t, 0], covariance[0])


@pytest.mark.parametrize("fill", [0.0, 1e3])
def test_masked_rows_say_nothing(fill):
    prior, x, y, mask = case("full")
    mask = mask & (torch.arange(ROWS) < 3)
    x, y = torch.where(mask.unsqueeze(-1), x, fill), torch.where(mask, y, fill)
    for f in (conjugate.log_evidence, lambda *args: conjugate.posterior(*args).loc):
        close(f(prior, x, y, mask, NOISE), f(prior, x[:, :3], y[:, :3], mask[:, :3], NOISE))
