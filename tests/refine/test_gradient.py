"""One step of refinement is a natural-gradient step on the objective, where the residual is the true one."""

from __future__ import annotations

import math

import pytest
import torch
from builders import close, generator, random_precision
from torch.distributions import MultivariateNormal, kl_divergence

from ebmeta.likelihood import Normal, Poisson
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian
from ebmeta.refine.base import SyntheticGradient
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.state import QueryState, Setting
from ebmeta.simulate import conjugate

TASKS, QUERIES, WEIGHTS, NOISE = 3, 6, 4, 0.8
WAYS = torch.ones(TASKS, 1, dtype=torch.bool)
MASK = torch.arange(QUERIES) < torch.tensor([[6], [4], [1]])
FAMILIES = pytest.mark.parametrize("family", [DiagonalGaussian, FullGaussian])


def likelihood():
    out = Normal().double()
    torch.nn.init.constant_(out.log_noise, math.log(NOISE))
    return out


class TrueResidual(SyntheticGradient):
    """The gradient that needs the labels, given them."""

    def __init__(self, y):
        super().__init__()
        self.y = y

    def forward(self, state):
        return state.mean - self.y.unsqueeze(-1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def draw(family, seed):
    precision = random_precision((TASKS, 1), WEIGHTS, generator(seed))
    precision = precision if family is FullGaussian else precision.diagonal(dim1=-2, dim2=-1)
    return family(normal(TASKS, 1, WEIGHTS, seed=seed + 9), precision)


def oracle(num_steps=1, *, step=1.0, pull=1.0, precision_step=1.0):
    """Return a refiner with the true residual, its features and labels."""
    x, y = normal(TASKS, QUERIES, WEIGHTS), normal(TASKS, QUERIES, seed=1)
    refiner = GradientRefiner(TrueResidual(y), num_steps).double()
    torch.nn.init.constant_(refiner.log_step, math.log(step))
    torch.nn.init.constant_(refiner.prior_pull, pull)
    torch.nn.init.constant_(refiner.precision_step, precision_step)
    return refiner, x, y


def objective(x, y, beta, prior, m, covariance):
    """Return F, the expected negative log likelihood plus beta KL, in plain torch."""
    variance = torch.einsum("tqp,tpr,tqr->tq", x, covariance, x)
    error = (y - torch.einsum("tqp,tp->tq", x, m)).square() + variance
    nll = torch.where(MASK, error / (2 * NOISE**2), 0.0).sum()
    dense = prior.precision[:, 0] if isinstance(prior, FullGaussian) else torch.diag_embed(prior.precision[:, 0])
    p = MultivariateNormal(prior.loc[:, 0], precision_matrix=dense)
    return nll + beta * kl_divergence(MultivariateNormal(m, covariance), p).sum()


@FAMILIES
@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize(("step", "precision_step"), [(1.0, 1.0), (0.5, -0.7)])
def test_a_step_follows_the_gradients_of_the_objective(family, beta, step, precision_step):
    """Bonnet and Price: the step's two gradients are those with respect to mean and covariance."""
    q, prior = draw(family, 0), draw(family, 1)
    refiner, x, y = oracle(step=step, precision_step=precision_step)
    after = refiner(Setting(q, prior, likelihood(), x, MASK, WAYS, beta))[1].q

    m = q.loc[:, 0].clone().requires_grad_(True)
    if family is FullGaussian:
        size = torch.linalg.inv(q.precision[:, 0]).requires_grad_(True)
        value = objective(x, y, beta, prior, m, size)
    else:
        size = q.precision[:, 0].reciprocal().requires_grad_(True)
        value = objective(x, y, beta, prior, m, torch.diag_embed(size))
    by_mean, by_size = torch.autograd.grad(value, (m, size))
    if family is FullGaussian:
        by_size = (by_size + by_size.mT) / 2

    growth = 2 * precision_step * by_size.unsqueeze(1)
    expected = q.with_(q.loc, q.retract(growth))
    close(after.precision, expected.precision)
    close(after.loc, q.loc - step * expected.solve(by_mean.unsqueeze(1)))


@FAMILIES
def test_repeated_steps_reach_the_minimum_of_the_objective(family):
    q, prior = draw(family, 0), draw(family, 1)
    refiner, x, y = oracle(step=0.5, precision_step=0.5)
    exact = conjugate.posterior(
        FullGaussian(prior.loc, prior.precision if family is FullGaussian else torch.diag_embed(prior.precision)),
        x,
        y,
        MASK,
        likelihood().dispersion(),
    )
    end = refiner(Setting(q, prior, likelihood(), x, MASK, WAYS, 1.0), num_steps=400)[-1].q
    diagonal = exact.precision.diagonal(dim1=-2, dim2=-1)  # the best diagonal Gaussian has the exact diagonal
    close(end.loc, exact.loc, 1e-6)
    close(end.precision, exact.precision if family is FullGaussian else diagonal, 1e-6)


def test_the_exact_posterior_is_a_fixed_point():
    prior = draw(FullGaussian, 1)
    refiner, x, y = oracle(3, precision_step=0.3)
    exact = conjugate.posterior(prior, x, y, MASK, likelihood().dispersion())
    for iterate in refiner(Setting(exact, prior, likelihood(), x, MASK, WAYS, 1.0)):
        close(iterate.q.loc, exact.loc)
        close(iterate.q.precision, exact.precision)


def test_each_step_has_sizes_of_its_own_and_those_beyond_repeat_the_last():
    """The path under other sizes of one step changes from that step on."""
    refiner, x, _ = oracle(2)
    setting = Setting(draw(FullGaussian, 2), draw(FullGaussian, 1), likelihood(), x, MASK, WAYS, 1.0)

    def path():
        return [iterate.q for iterate in refiner(setting, num_steps=3)]

    before = path()
    with torch.no_grad():
        refiner.precision_step[1] = 0.3
    after = path()
    assert [torch.equal(a.precision, b.precision) for a, b in zip(before, after, strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    close(after[3].precision, refiner.step(1, QueryState(setting, after[2])).precision)
    close(after[3].loc, refiner.step(1, QueryState(setting, after[2])).loc)


class Drift(SyntheticGradient):
    """A gradient that pulls every linear predictor by its curvature, as that of a network does."""

    def forward(self, state):
        return -state.curvature * 0.1


@pytest.mark.parametrize(("scale", "size"), [(5.0, 0.05), (5.0, -0.05), (9.0, 0.0), (1.0, 0.2)])
def test_a_step_on_counts_is_bounded_where_the_posterior_is_wide(scale, size):
    """The mean curvature $e^{m + v/2}$ of rates left precisions that had no Cholesky factor in 32 bits."""
    x = torch.cat([normal(TASKS, QUERIES, 2), torch.ones(TASKS, QUERIES, 1)], -1).float() * MASK.unsqueeze(-1)
    q = FullGaussian(torch.zeros(TASKS, 1, 3), torch.eye(3).expand(TASKS, 1, 3, 3) / scale**2)
    refiner = GradientRefiner(Drift(), 1)
    torch.nn.init.constant_(refiner.precision_step, size)
    setting = Setting(q, q, Poisson(), x, MASK, WAYS, 0.0)
    after = refiner(setting)[1].q

    var = scale**2 * x.double().square().sum(-1)
    curvature = QueryState(setting, q).curvature[..., 0].double() * MASK
    trace = (curvature * var).sum(1) * max(abs(size), 0.01)
    share = (30 / trace).clamp(max=1)[:, None]
    growth = size * torch.einsum("tq,tqp,tqr->tpr", curvature * share, x.double(), x.double())
    before = q.precision[:, 0].double()
    exact = before + growth + growth @ growth * scale**2 / 2
    close(after.precision[:, 0].double() * scale**2, exact * scale**2, 1e-3)
    move = torch.linalg.solve(exact, 0.1 * torch.einsum("tq,tqp->tp", curvature * share, x.double()))
    reach = torch.einsum("tqp,tp->tq", x.double(), move).abs().amax(1)
    close(after.loc[:, 0].double(), move * (2 / reach.clamp(min=2))[:, None], 1e-3)
