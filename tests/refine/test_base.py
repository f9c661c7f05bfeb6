"""One step of refinement is a natural-gradient step on the objective, where the residual is the true one."""

from __future__ import annotations

import math

import pytest
import torch
from builders import class_tasks, classifier, close, generator, random_precision, real_tasks, regressor
from torch.distributions import MultivariateNormal, kl_divergence

from ebmeta.likelihood import Normal
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian
from ebmeta.refine.base import GradientRefiner, Setting
from ebmeta.refine.synthetic_gradient import MLPSyntheticGradient, SyntheticGradient
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
    _, after = refiner(q, prior, likelihood(), x, MASK, WAYS, beta)

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
    end = refiner(q, prior, likelihood(), x, MASK, WAYS, 1.0, num_steps=400)[-1]
    diagonal = exact.precision.diagonal(dim1=-2, dim2=-1)  # the best diagonal Gaussian has the exact diagonal
    close(end.loc, exact.loc, 1e-6)
    close(end.precision, exact.precision if family is FullGaussian else diagonal, 1e-6)


def test_the_exact_posterior_is_a_fixed_point():
    prior = draw(FullGaussian, 1)
    refiner, x, y = oracle(3, precision_step=0.3)
    exact = conjugate.posterior(prior, x, y, MASK, likelihood().dispersion())
    for q in refiner(exact, prior, likelihood(), x, MASK, WAYS, 1.0):
        close(q.loc, exact.loc)
        close(q.precision, exact.precision)


def test_a_number_of_steps_below_zero_is_refused():
    with pytest.raises(ValueError, match="num_steps: expected at least 0, got -1"):
        GradientRefiner(MLPSyntheticGradient(2), -1)
    with pytest.raises(ValueError, match="num_steps: expected at least 0, got -2"):
        classifier().posterior(class_tasks(), -2)


def test_steps_need_a_trained_step():
    model = regressor(num_steps=0)
    assert len(model.posterior(real_tasks(), 0)) == len(model.posterior(real_tasks())) == 1
    with pytest.raises(ValueError, match="built with no refinement steps, got 2"):
        model.posterior(real_tasks(), 2)


def test_fewer_steps_are_the_start_of_the_path():
    model, batch = classifier(num_steps=3), class_tasks()
    for a, b in zip(model.posterior(batch, 1), model.posterior(batch), strict=False):
        assert torch.equal(a.loc, b.loc)
        assert torch.equal(a.precision, b.precision)


def test_each_step_has_sizes_of_its_own_and_those_beyond_repeat_the_last():
    """The path under other sizes of one step changes from that step on."""
    refiner, x, _ = oracle(2)
    prior = draw(FullGaussian, 1)

    def path():
        return refiner(draw(FullGaussian, 2), prior, likelihood(), x, MASK, WAYS, 1.0, num_steps=3)

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
    setting = Setting(before[0], prior, likelihood(), x * MASK.unsqueeze(-1), MASK, WAYS, 1.0)
    close(after[3].precision, refiner.step(1, after[2], setting).precision)
    close(after[3].loc, refiner.step(1, after[2], setting).loc)


def test_strength_is_the_mean_log_ratio_of_precisions_over_real_classes():
    prior = DiagonalGaussian(torch.zeros(1, 3, 2).double(), torch.ones(1, 3, 2).double())
    q0 = DiagonalGaussian(prior.loc, torch.tensor([[[4.0, 16.0], [1.0, 2.0], [99.0, 99.0]]]).double())
    ways = torch.tensor([[True, True, False]])
    setting = Setting(
        q0, prior, likelihood(), torch.zeros(1, 1, 2).double(), torch.ones(1, 1, dtype=torch.bool), ways, 1.0
    )
    close(setting.strength, torch.tensor([math.log(4 * 16 * 1 * 2) / 4], dtype=torch.float64))
