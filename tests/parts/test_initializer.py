"""Initializers: the posterior of noisy looks at weights, and the best Gaussian."""

from __future__ import annotations

import pytest
import torch
from builders import class_tasks, close, number_tasks

import ebmeta
from ebmeta.likelihood import LIKELIHOODS, Categorical, Given
from ebmeta.parts.initializer import PrototypeInitializer
from ebmeta.parts.prior import DiagonalPrior
from tests.parts.test_prior import moved


def test_prototypes_are_the_posterior_of_noisy_looks_at_each_weight():
    """Weight by weight: the conditional of a joint Gaussian of one weight and its class's examples."""
    prior, init = moved(DiagonalPrior(4)), moved(PrototypeInitializer(4, amplitude=2.0))
    batch = class_tasks()
    q = init(prior(4, 5), Categorical(), batch.support_x, batch.support_y, batch.support_mask)
    look = 1 / init.log_precision.exp()
    sigma = (2 * prior.log_scale).exp()
    for t in range(4):
        for c in range(int(batch.way_mask[t].sum())):
            x = init.log_amplitude.exp() * batch.support_x[t][batch.support_mask[t] & (batch.support_y[t] == c)]
            for p in range(4):
                joint = sigma[p] + look[p] * torch.eye(len(x), dtype=torch.float64)
                gain = torch.linalg.solve(joint, sigma[p].expand(len(x)))
                close(q.loc[t, c, p], prior.loc[p] + gain @ (x[:, p] - prior.loc[p]))
                close(1 / q.precision[t, c, p], sigma[p] - gain.sum() * sigma[p])


SCALARS = [name for name in LIKELIHOODS if name != "categorical"]
#: Nats a task that the initializer may be off where a density is not log-concave. The fixed point of student_t is that
#: of the augmented posterior, over every row's weight too; elsewhere a curvature below 0 is taken for 0.
NOT_CONCAVE = {"student_t": 0.05, "zero_inflated_poisson": 0.01, "zero_inflated_negative_binomial": 0.01}


@pytest.mark.parametrize("name", SCALARS)
def test_the_initializer_finds_the_best_gaussian(name):
    """Its loss has no slope in location and covariance, and is what a general optimiser finds."""
    model = ebmeta.EmpiricalBayes.regressor(3, name, num_steps=0).double().requires_grad_(False)
    batch = number_tasks(name)
    inferred = model.infer(batch)
    q, levels = inferred.path[0], inferred.num_levels
    x = model.predictor.features(batch.support_x, batch.support_mask).repeat_interleave(levels, 0)
    y, mask = (v.repeat_interleave(levels, 0) for v in (batch.support_y, batch.support_mask))
    size = None if batch.support_size is None else batch.support_size.repeat_interleave(levels, 0)
    given, ways = Given(size, inferred.setting.given.level), torch.ones(len(x), 1, dtype=torch.bool)

    def loss(loc, lower):
        covariance = lower @ lower.mT
        eta = (x @ loc.mT, ((x @ lower[:, 0]).square()).sum(-1, keepdim=True))
        fit = model.likelihood.expected_log_prob(y, *eta, ways, torch.zeros(1), given)
        prior = inferred.setting.prior
        kl = torch.distributions.kl_divergence(
            torch.distributions.MultivariateNormal(loc, covariance),
            torch.distributions.MultivariateNormal(prior.loc, precision_matrix=prior.precision),
        )
        return (-torch.where(mask, fit, 0.0).sum(1) + kl[:, 0]).sum()

    loc = q.loc.detach().clone().requires_grad_()
    lower = torch.linalg.cholesky(q.covariance()).detach().contiguous().requires_grad_()
    found = loss(loc, lower)
    slopes = torch.autograd.grad(found, (loc, lower))
    if name not in NOT_CONCAVE:
        assert max(s.abs().max() for s in slopes) < 2e-3
    optimizer = torch.optim.LBFGS([loc, lower], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        value = loss(loc, torch.tril(lower))
        value.backward()
        return value

    optimizer.step(closure)
    best = loss(loc, torch.tril(lower))
    assert 0 <= (found - best).item() / len(batch) < NOT_CONCAVE.get(name, 1e-6)
