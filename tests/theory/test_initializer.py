"""Numerical checks of theory/initializer.md: the amortized initializer."""

from __future__ import annotations

import itertools
import math

import numpy as np
import scipy.optimize
import torch
from equations import checks
from torch import Tensor

from ebmeta import EmpiricalBayes
from ebmeta.likelihood import Bernoulli, Categorical, Likelihood, NegativeBinomial, Poisson
from ebmeta.likelihood.scalar import NODES
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from ebmeta.parts.initializer import ConjugateInitializer, PrototypeInitializer
from ebmeta.simulate.conjugate import posterior
from ebmeta.tasks.training_rows import TrainingRows
from tests.theory.tools import conjugate_case, constant, dense, equal, hermite, jiggle, make, randn


def prototype_case(
    rng: torch.Generator, support: int = 6
) -> tuple[PrototypeInitializer, tuple[Gaussian, Likelihood, Tensor, Tensor, Tensor]]:
    initializer = PrototypeInitializer(3).double().requires_grad_(False)
    jiggle(initializer, rng)
    y = (torch.arange(support) % 2).expand(2, -1)  # class 2 has no support
    mask = torch.ones(2, support, dtype=torch.bool)
    return initializer, (make(DiagonalGaussian, rng), Categorical(), randn(rng, 2, support, 3), y, mask)


def log_density(q: Gaussian, w: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(q.loc, precision_matrix=dense(q)).log_prob(w).sum(-1)


@checks("eq-conjugate")
def test_conjugate_initializer_is_bayes_rule(rng: torch.Generator) -> None:
    prior, likelihood, x, y, mask = conjugate_case(rng)
    q = ConjugateInitializer()(prior, likelihood, x, y, mask)
    w = randn(rng, 6, 2, 1, 3)
    eta = torch.einsum("tnp,stcp->stn", x, w)
    data = torch.distributions.Normal(eta, 0.6).log_prob(y).sum(-1)
    gap = log_density(q, w) - log_density(prior, w) - data
    for t in range(2):
        constant(gap[:, t])
    exact = posterior(prior, x, y, mask, likelihood.dispersion())
    equal(q.loc, exact.loc)
    equal(q.precision, exact.precision)


@checks("eq-unit-step")
def test_conjugate_update_is_one_natural_step(rng: torch.Generator) -> None:
    prior, likelihood, x, y, mask = conjugate_case(rng)
    loc = prior.loc.clone().requires_grad_(True)
    covariance = torch.linalg.inv(prior.precision).requires_grad_(True)
    eta, var = torch.einsum("tqp,tcp->tqc", x, loc), torch.einsum("tqp,tcpr,tqr->tqc", x, covariance, x)
    ways, none = torch.ones(2, 1, dtype=torch.bool), torch.zeros(1)
    loss = -likelihood.expected_log_prob(y, eta, var, ways, none).sum()
    by_loc, by_covariance = torch.autograd.grad(loss, (loc, covariance))
    precision = prior.precision + 2 * by_covariance
    q = ConjugateInitializer()(prior, likelihood, x, y, mask)
    equal(q.precision, precision)
    equal(q.loc, prior.loc - torch.linalg.solve(precision, by_loc))


def best_gaussian(likelihood: Likelihood, y: float, loc: float, scale: float) -> tuple[float, float]:
    """Location and precision of the best Gaussian for one weight of prior N(loc, scale^2) and one label."""
    points, weights = hermite(60)

    def loss(at: np.ndarray) -> float:
        m, log_s = at.tolist()
        eta = (m + math.exp(log_s) * points[:, 0])[:, None, None]
        nll = -likelihood.log_prob(torch.full((60, 1), y, dtype=torch.float64), eta, torch.ones(60, 1).bool())[:, 0]
        prior = (math.exp(2 * log_s) + (m - loc) ** 2) / (2 * scale**2) - log_s
        return float(weights @ nll) + prior

    tight = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000}
    m, log_s = scipy.optimize.minimize(loss, [loc, 0.0], method="Nelder-Mead", options=tight).x
    return m, math.exp(-2 * log_s)


@checks("eq-damped-steps")
def test_other_likelihoods_take_sixteen_damped_steps(rng: torch.Generator) -> None:
    prior, _, x, _, mask = conjugate_case(rng)
    y = torch.tensor([[0.0, 9.0, 1.0, 40.0, 2.0], [3.0, 0.0, 0.0, 7.0, 1.0]], dtype=torch.float64)
    likelihood = Poisson().double()
    q = ConjugateInitializer()(prior, likelihood, x, y, mask)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    for t in range(2):
        p0, mu, phi = (v.numpy() for v in (prior.precision[t, 0], prior.loc[t, 0], x[t]))
        loc, precision, shortened = mu, p0, 0
        for k in range(16):
            eta = (phi @ loc)[:, None]
            if k >= 5:
                eta = eta + np.sqrt(np.einsum("ip,pr,ir->i", phi, np.linalg.inv(precision), phi))[:, None] * nodes
            rate = np.exp(eta) if k < 5 else np.exp(eta) @ weights[:, None] / weights.sum()
            fresh = p0 + phi.T @ (rate * phi)
            precision = fresh if k < 5 else 0.75 * fresh + 0.25 * precision
            step = np.linalg.solve(precision, phi.T @ (rate[:, 0] - y[t].numpy()) + p0 @ (loc - mu))
            size = min(1.0, 2 / np.abs(phi @ step).max())
            loc, shortened = loc - size * step, shortened + (size < 1)
        equal(q.loc[t, 0], torch.from_numpy(loc), atol=1e-8)
        equal(q.precision[t, 0], torch.from_numpy(precision), atol=1e-7)
        assert shortened
    for other, label in ((Poisson(), 7.0), (Bernoulli(), 1.0), (NegativeBinomial(3.0), 0.0)):  # the fixed point
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        start, row = FullGaussian(0.3 * one, one.unsqueeze(-1) / 1.44), torch.full((1, 1), label, dtype=torch.float64)
        found = ConjugateInitializer()(start, other.double().requires_grad_(False), one, row, torch.ones(1, 1).bool())
        got = torch.stack([found.loc.flatten(), found.precision.flatten()])[:, 0]
        equal(got, torch.tensor(best_gaussian(other, label, 0.3, 1.2)), atol=2e-4)
    one = ConjugateInitializer()
    parts = one(prior, likelihood, x[:, :2], y[:, :2], mask[:, :2])
    chained = one(parts, likelihood, x[:, 2:], y[:, 2:], mask[:, 2:])
    assert float((chained.loc - q.loc).abs().max()) > 1e-3  # and the page says so


@checks("eq-looks")
def test_prototype_initializer_is_bayes_rule_for_noisy_looks(rng: torch.Generator) -> None:
    initializer, (prior, likelihood, x, y, mask) = prototype_case(rng)
    q = initializer(prior, likelihood, x, y, mask)
    w = randn(rng, 6, 2, 3, 3)
    scale = (-initializer.log_precision / 2).exp()
    own = w[:, :, y[0]]  # the weight vector behind each look
    looks = torch.distributions.Normal(own, scale).log_prob(initializer.log_amplitude.exp() * x).sum((-2, -1))
    gap = log_density(q, w) - log_density(prior, w) - looks
    for t in range(2):
        constant(gap[:, t], atol=1e-8)


@checks("eq-widths")
def test_the_working_model_spreads_features_within_and_between_classes(rng: torch.Generator) -> None:
    a, look, prior = 7.0, torch.tensor([2.0, 9.0]).double(), torch.tensor([0.5, 4.0]).double()
    w = randn(rng, 4000, 1, 2) / prior.sqrt()
    phi = (w + randn(rng, 4000, 6, 2) / look.sqrt()) / a
    within = phi.var(1).mean(0)
    between = phi.mean(1).var(0) - within / 6
    # 20,000 and 3,999 degrees of freedom: standard errors of 1% and below 3%; six of them, false alarms at 1e-8.
    torch.testing.assert_close(a**2 * within, 1 / look, rtol=0.06, atol=0)
    torch.testing.assert_close(a**2 * between, 1 / prior, rtol=0.18, atol=0)
    # What the package takes from these rows, for its own amplitude: in classes of one size, exactly the above.
    model = EmpiricalBayes.classifier(2, synthetic_gradient="mixture", widths="measured").double()
    order = torch.randperm(24_000, generator=rng)
    rows = torch.cat([phi.flatten(0, 1), torch.ones(24_000, 1, dtype=torch.float64)], 1)[order]
    label = torch.arange(4000).repeat_interleave(6)[order]
    seen = TrainingRows(rows, label.double(), label, features=lambda: rows)
    for part in (model.prior, model.initializer, model.refiner):
        assert part.measure(seen) is seen
    with torch.no_grad():
        amplitude = model.initializer.log_amplitude.exp()
        equal((-model.initializer.log_precision[:2]).exp(), amplitude**2 * within)
        equal((2 * model.prior.log_scale[:2]).exp(), amplitude**2 * between)


@checks("eq-prototype")
def test_prototype_update(rng: torch.Generator) -> None:
    initializer, (prior, likelihood, x, y, mask) = prototype_case(rng)
    q = initializer(prior, likelihood, x, y, mask)
    a, lam = initializer.log_amplitude.exp(), initializer.log_precision.exp()
    for t, c in itertools.product(range(2), range(3)):
        rows = x[t][y[t] == c]
        precision = prior.precision[t, c] + len(rows) * lam
        equal(q.precision[t, c], precision)
        equal(q.loc[t, c], (prior.precision[t, c] * prior.loc[t, c] + lam * a * rows.sum(0)) / precision)


@checks("eq-shrinkage")
def test_prototype_is_shrunk_towards_the_prior(rng: torch.Generator) -> None:
    initializer, (prior, likelihood, x, y, mask) = prototype_case(rng)
    q = initializer(prior, likelihood, x, y, mask)
    a, lam = initializer.log_amplitude.exp(), initializer.log_precision.exp()
    for c in (0, 1):
        n, mean = 3, x[:, y[0] == c].mean(1)
        alpha = n * lam / (prior.precision[:, c] + n * lam)
        assert bool(((alpha >= 0) & (alpha < 1)).all())
        equal(q.loc[:, c], (1 - alpha) * prior.loc[:, c] + alpha * a * mean)


@checks("eq-empty")
def test_no_support_leaves_the_prior(rng: torch.Generator) -> None:
    initializer, (prior, likelihood, x, y, mask) = prototype_case(rng)
    q = initializer(prior, likelihood, x, y, mask)
    equal(q.loc[:, 2], prior.loc[:, 2])
    equal(q.precision[:, 2], prior.precision[:, 2])
    q = initializer(prior, likelihood, x[:, :0], y[:, :0], mask[:, :0])
    equal(q.loc, prior.loc)
    prior, likelihood, x, y, mask = conjugate_case(rng)
    for rows in ((x[:, :0], y[:, :0], mask[:, :0]), (x, y, torch.zeros_like(mask))):
        q = ConjugateInitializer()(prior, likelihood, *rows)
        equal(q.loc, prior.loc)
        equal(q.precision, prior.precision)


@checks("eq-invariance")
def test_order_of_the_support_does_not_matter(rng: torch.Generator) -> None:
    order = torch.randperm(5, generator=rng)
    initializer, (prior, likelihood, x, y, mask) = prototype_case(rng, 5)
    cases = [(initializer, prior, likelihood, x, y, mask), (ConjugateInitializer(), *conjugate_case(rng))]
    for module, p, lik, a, b, m in cases:
        one, two = module(p, lik, a, b, m), module(p, lik, a[:, order], b[:, order], m[:, order])
        equal(one.loc, two.loc)
        equal(one.precision, two.precision)


@checks("eq-sequential")
def test_updates_chain(rng: torch.Generator) -> None:
    initializer, (prior, likelihood, x, y, mask) = prototype_case(rng, 5)
    cases = [(initializer, prior, likelihood, x, y, mask), (ConjugateInitializer(), *conjugate_case(rng))]
    for module, p, lik, a, b, m in cases:
        first = module(p, lik, a[:, :2], b[:, :2], m[:, :2])
        chained, whole = module(first, lik, a[:, 2:], b[:, 2:], m[:, 2:]), module(p, lik, a, b, m)
        equal(chained.loc, whole.loc)
        equal(chained.precision, whole.precision)


@checks("eq-limit-prototype")
def test_prototype_limit(rng: torch.Generator) -> None:
    initializer, (prior, likelihood, x, y, mask) = prototype_case(rng)
    a, lam = initializer.log_amplitude.exp(), initializer.log_precision.exp()
    gaps = []
    for copies in (1, 1000, 2000):
        rows = (x.repeat(1, copies, 1), y.repeat(1, copies), mask.repeat(1, copies))
        q, n = initializer(prior, likelihood, *rows), 3 * copies
        target = a * x[:, y[0] == 1].mean(1)
        gaps.append(q.loc[:, 1] - target)
        shrunk = prior.precision[:, 1] * (prior.loc[:, 1] - target) / (prior.precision[:, 1] + n * lam)
        equal(gaps[-1], shrunk)
        equal(q.precision[:, 1] / n, lam + prior.precision[:, 1] / n)
    torch.testing.assert_close(gaps[1], 2 * gaps[2], rtol=1e-2, atol=0.0)  # rate 1/n


@checks("eq-limit-regression")
def test_regression_limit(rng: torch.Generator) -> None:
    prior, likelihood, x, y, mask = conjugate_case(rng)
    least_squares = torch.linalg.lstsq(x, y.unsqueeze(-1)).solution.squeeze(-1)
    phi, gaps = likelihood.dispersion(), []
    for copies in (1, 1000, 2000):
        rows = (x.repeat(1, copies, 1), y.repeat(1, copies), mask.repeat(1, copies))
        q, n = ConjugateInitializer()(prior, likelihood, *rows), 5 * copies
        gaps.append(q.loc[:, 0] - least_squares)
        equal(gaps[-1], q.solve(prior.times(prior.loc - least_squares.unsqueeze(1)))[:, 0], atol=1e-9)
        equal(q.precision[:, 0] / n, x.mT @ x / (5 * phi) + prior.precision[:, 0] / n)
    torch.testing.assert_close(gaps[1], 2 * gaps[2], rtol=1e-2, atol=1e-8)
