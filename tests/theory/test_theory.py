"""One numerical check for every labelled equation of theory/*.md.

`CHECKS` maps an equation's label to its test, here and in `test_theory_<page>.py`, and a test at the end
holds the two lists against each other. Expectations are exact sums or converged quadratures in 64-bit floats,
so a check cannot fail by chance. The one exception here is `eq-family`, which tests a sampler; its false-alarm
rate is stated there.
"""

from __future__ import annotations

import importlib
import itertools
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import torch
from equations import ALGEBRA, CHECKS, REASONS, checks
from pyro import poutine
from torch import Tensor, nn

from ebmeta import EmpiricalBayes, Objective, TaskBatch
from ebmeta.likelihood import (
    Bernoulli,
    Categorical,
    Likelihood,
    NegativeBinomial,
    Normal,
    Poisson,
    gaussian_softmax,
)
from ebmeta.likelihood.scalar import NODES
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from ebmeta.parts.initializer import ConjugateInitializer, PrototypeInitializer
from ebmeta.prediction.calibration import bin_sums, brier_decomposition
from ebmeta.refine.base import QueryState, Setting, SyntheticGradient
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.exchangeable import ExchangeableLinear
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient
from ebmeta.simulate.conjugate import log_evidence, posterior
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.tasks.training_rows import TrainingRows

THEORY = Path(__file__).parents[2] / "theory"
FAMILIES = pytest.mark.parametrize("family", [DiagonalGaussian, FullGaussian])


# Tools ------------------------------------------------------------------------------------------------


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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


def regressor(rng: torch.Generator, beta: float = 0.3) -> EmpiricalBayes:
    model = EmpiricalBayes.regressor(num_features=2, num_steps=2, beta=beta).double()
    jiggle(model, rng)
    return model


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


class Inputs(Fixed):
    """The same, with a given score and information of the inputs."""

    reads_inputs = True

    def __init__(self, xi: Tensor, score: Tensor, information: Tensor) -> None:
        super().__init__(xi)
        self.score, self.information = score, information

    def inputs(self, state: QueryState) -> tuple[Tensor, Tensor]:
        return self.score, self.information


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


# theory/model.md --------------------------------------------------------------------------------------


@checks("eq-generative")
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_joint_density_is_prior_times_likelihood(kind: str, rng: torch.Generator) -> None:
    if kind == "classifier":
        model, batch = EmpiricalBayes.classifier(num_features=4).double(), classification(rng)
    else:
        model, batch = EmpiricalBayes.regressor(num_features=2).double(), regression(rng)
    jiggle(model, rng)
    with pyro.get_param_store().scope(), torch.no_grad():
        trace = poutine.trace(model.model).get_trace(batch, observe="both")
        w = trace.nodes["w"]["value"]
        got = trace.log_prob_sum()
    prior = model.prior.gaussian()
    precision = prior.precision if kind == "regressor" else prior.precision.diag()
    wanted = torch.distributions.MultivariateNormal(prior.loc, precision_matrix=precision).log_prob(w).sum()
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        for t in range(batch.num_tasks):
            eta = model.predictor.features(x)[t] @ w[t].T
            if kind == "classifier":
                wanted = wanted + eta.log_softmax(-1)[torch.arange(len(eta)), y[t]].sum()
            else:
                sigma = model.likelihood.dispersion().sqrt()
                wanted = wanted + torch.distributions.Normal(eta[:, 0], sigma).log_prob(y[t]).sum()
    equal(got, wanted.detach())


@checks("eq-predictor")
def test_linear_predictor(rng: torch.Generator) -> None:
    model = EmpiricalBayes.classifier(num_features=4).double()
    phi, w = model.predictor.features(randn(rng, 2, 5, 4)), randn(rng, 2, 3, 5)
    eta = model.predictor(phi, w)
    for t, i, c in itertools.product(range(2), range(5), range(3)):
        equal(eta[t, i, c], phi[t, i] @ w[t, c])


@checks("eq-marginal")
@FAMILIES
def test_marginal_of_the_linear_predictor(family: type[Gaussian], rng: torch.Generator) -> None:
    q, x = make(family, rng, ways=2, weights=2), randn(rng, 2, 4, 2)
    points, weights = hermite(4, 2)
    root = torch.linalg.cholesky(torch.linalg.inv(dense(q)))
    w = q.loc + torch.einsum("tcpr,nr->ntcp", root, points)
    eta = torch.einsum("tqp,ntcp->ntqc", x, w)
    mean = torch.einsum("n,ntqc->tqc", weights, eta)
    var = torch.einsum("n,ntqc->tqc", weights, (eta - mean).square())
    loc, v = q.marginal(x)
    equal(loc, mean)
    equal(v, var)


@checks("eq-exponential-family")
@pytest.mark.parametrize("name", ["categorical", "normal"])
def test_exponential_family(name: str, rng: torch.Generator) -> None:
    if name == "categorical":
        likelihood, eta, labels = Categorical(), randn(rng, 1, 7, 3), list(range(3))
    else:
        likelihood, eta, labels = normal(0.7), randn(rng, 1, 7, 1), [-1.3, 0.4]
    ways = torch.ones(1, eta.shape[-1], dtype=torch.bool)
    eta.requires_grad_(True)
    log_partition = eta.logsumexp(-1) if name == "categorical" else eta.square().sum(-1) / 2
    for label in labels:
        y = torch.full((1, 7), label)
        y = y if name == "categorical" else y.double()
        inner = (likelihood.statistic(y, eta.shape[-1]) * eta).sum(-1)
        gap = -likelihood.log_prob(y, eta, ways) - (log_partition - inner) / likelihood.dispersion()
        constant(gap.detach())
    (slope,) = torch.autograd.grad(log_partition.sum(), eta)
    labelled = likelihood.distribution(eta.detach(), ways)
    mean = labelled.probs if name == "categorical" else labelled.mean.unsqueeze(-1)
    equal(slope, mean)
    equal(likelihood.moments(eta.detach(), torch.zeros_like(eta), ways)[0], slope)


@checks("eq-evidence")
def test_evidence_is_an_integral_over_the_prior(rng: torch.Generator) -> None:
    prior, x, y = make(FullGaussian, rng, 1, 1, 2), randn(rng, 1, 3, 2), randn(rng, 1, 3)
    points, weights = hermite(60, 2)
    root = torch.linalg.cholesky(torch.linalg.inv(prior.precision[0, 0]))
    eta = (prior.loc[0, 0] + points @ root.T) @ x[0].T
    likelihood = torch.distributions.Normal(eta, 1.5).log_prob(y[0]).sum(-1)
    wanted = torch.logsumexp(weights.log() + likelihood, 0)
    mask = torch.ones(1, 3, dtype=torch.bool)
    equal(log_evidence(prior, x, y, mask, torch.tensor(2.25, dtype=torch.float64)), wanted, atol=1e-8)


@checks("eq-kl")
@FAMILIES
def test_divergence_between_gaussians(family: type[Gaussian], rng: torch.Generator) -> None:
    q, p = make(family, rng), make(family, rng)
    mvn = torch.distributions.MultivariateNormal
    wanted = torch.distributions.kl_divergence(
        mvn(q.loc, precision_matrix=dense(q)), mvn(p.loc, precision_matrix=dense(p))
    )
    equal(q.kl(p), wanted.sum(-1))


@checks("eq-gibbs")
def test_gibbs_objective(rng: torch.Generator) -> None:
    model, batch = regressor(rng), regression(rng)
    with torch.no_grad():
        got = Objective("gibbs").terms(model, batch).loss[-1]
        inferred = model.infer(batch)
        path, prior, x = inferred.path, inferred.prior, inferred.x
        q = path[-1]
        points, weights = hermite(4, 3)  # exact: the loss is quadratic in w
        root = torch.linalg.cholesky(q.covariance()[:, 0])
        w = q.loc[:, 0] + torch.einsum("tpr,nr->ntp", root, points)
        eta = torch.einsum("tqp,ntp->ntq", x, w)
        loss = -torch.distributions.Normal(eta, model.likelihood.dispersion().sqrt()).log_prob(batch.query_y)
        equal(got, torch.einsum("n,ntq->t", weights, loss) + model.beta * q.kl(prior))


@checks("eq-elbo")
def test_gibbs_at_beta_one_is_the_negative_elbo(rng: torch.Generator) -> None:
    model, batch = regressor(rng, beta=1.0), regression(rng)
    with torch.no_grad():
        got = Objective("gibbs").terms(model, batch).loss[-1]
        inferred = model.infer(batch)
        path, prior, x = inferred.path, inferred.prior, inferred.x
        problem = (prior, x, batch.query_y, batch.query_mask, model.likelihood.dispersion())
        equal(got, -log_evidence(*problem) + path[-1].kl(posterior(*problem)))


@checks("eq-predictive")
def test_predictive_objective(rng: torch.Generator) -> None:
    model, batch = regressor(rng), regression(rng)
    with torch.no_grad():
        got = Objective("predictive").terms(model, batch).loss[-1]
        inferred = model.infer(batch)
        path, prior, x = inferred.path, inferred.prior, inferred.x
        points, weights = hermite(100)
        loc, var = path[-1].marginal(x)
        eta = (loc + var.sqrt() * points[:, 0])[:, :, :]  # (T, Q, nodes)
        logp = torch.distributions.Normal(eta, model.likelihood.dispersion().sqrt()).log_prob(
            batch.query_y.unsqueeze(-1)
        )
        nll = -torch.logsumexp(logp + weights.log(), -1).sum(1)
        equal(got, nll + model.beta * path[-1].kl(prior), atol=1e-7)


@checks("eq-jensen")
def test_gap_of_the_objectives_is_a_sum_of_divergences(rng: torch.Generator) -> None:
    model, batch = regressor(rng), regression(rng)
    with torch.no_grad():
        gap = Objective("gibbs").terms(model, batch).loss[-1] - Objective("predictive").terms(model, batch).loss[-1]
        inferred = model.infer(batch)
        path, x = inferred.path, inferred.x
        wanted = torch.zeros_like(gap)
        for i in range(x.shape[1]):
            row = slice(i, i + 1)
            one = (x[:, row], batch.query_y[:, row], batch.query_mask[:, row], model.likelihood.dispersion())
            wanted += path[-1].kl(posterior(path[-1], *one))
        equal(gap, wanted)
        assert bool((gap > 0).all())


@checks("eq-type-two")
def test_evidence_objective_is_exact_in_the_conjugate_case(rng: torch.Generator) -> None:
    model, batch = regressor(rng), regression(rng)
    with torch.no_grad():
        got = Objective("evidence").terms(model, batch).loss[-1]
        x = model.predictor.features(torch.cat([batch.support_x, batch.query_x], 1))
        y = torch.cat([batch.support_y, batch.query_y], 1)
        mask = torch.ones_like(y, dtype=torch.bool)
        equal(got, -log_evidence(model.prior(3, 1), x, y, mask, model.likelihood.dispersion()))


@checks("eq-normal-terms")
def test_closed_forms_of_the_normal_likelihood(rng: torch.Generator) -> None:
    likelihood = normal(0.8)
    loc, var, y = randn(rng, 2, 4, 1), 0.1 + rand(rng, 2, 4, 1), randn(rng, 2, 4)
    points, weights = hermite(100)
    logp = torch.distributions.Normal(loc + var.sqrt() * points[:, 0], 0.8).log_prob(y.unsqueeze(-1))
    ways, none = torch.ones(2, 1, dtype=torch.bool), torch.zeros(1)
    equal(likelihood.expected_log_prob(y, loc, var, ways, none).detach(), logp @ weights, atol=1e-7)
    predictive = likelihood.predictive_log_prob(y, loc, var, ways, none).detach()
    equal(predictive, torch.logsumexp(logp + weights.log(), -1), atol=1e-7)


@checks("eq-draws")
def test_finite_draws_lie_between_the_two_objectives(rng: torch.Generator) -> None:
    atoms, mass = 2 * randn(rng, 4, 3), probabilities(rng, 4)  # a discrete q over the linear predictor
    likelihood, y, ways = Categorical(), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool)
    zero, one = torch.zeros(1, 1, 3, dtype=torch.float64), torch.ones(1, 1, 3, dtype=torch.float64)

    def expected(draws: int) -> float:
        total = 0.0
        for pick in itertools.product(range(4), repeat=draws):
            noise = atoms[list(pick)][:, None, None]
            score = likelihood.predictive_log_prob(y, zero, one, ways, noise)
            total -= mass[list(pick)].prod().item() * score.item()
        return total

    logp = atoms.log_softmax(-1)[:, 0]
    gibbs, predictive = -(mass @ logp).item(), -(mass @ logp.exp()).log().item()
    values = [expected(d) for d in (1, 2, 3, 4, 5)]
    assert values[0] == pytest.approx(gibbs, rel=1e-12)
    assert all(a > b for a, b in itertools.pairwise(values))
    assert values[-1] > predictive


@checks("eq-tempered")
def test_labelled_optimum_is_a_tempered_posterior(rng: torch.Generator) -> None:
    prior, x, y = make(FullGaussian, rng, 1, 1), randn(rng, 1, 5, 3), randn(rng, 1, 5)
    likelihood, beta = normal(0.6), 0.4
    mask = torch.ones(1, 5, dtype=torch.bool)
    best = posterior(prior, x, y, mask, beta * likelihood.dispersion().detach())
    gaps = []
    for _ in range(4):
        q = make(FullGaussian, rng, 1, 1)
        gibbs = query_terms(q, x, y, likelihood)[0].sum() + beta * q.kl(prior)
        gaps.append(gibbs.detach() - beta * q.kl(best))
    constant(torch.cat(gaps))


@checks("eq-bottleneck")
def test_mean_divergence_is_information_plus_mismatch(rng: torch.Generator) -> None:
    task, q, prior = probabilities(rng, 4), probabilities(rng, 4, 6), probabilities(rng, 6)
    average = task @ q
    information = kl((task[:, None] * q).flatten(), (task[:, None] * average).flatten())
    equal(task @ kl(q, prior), information + kl(average, prior))
    # The package's Gaussians, four posteriors of one weight, on a grid.
    made = [make(FullGaussian, rng, 1, 1, 1) for _ in range(5)]
    grid = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    *q, prior = (torch.exp(g.distribution().log_prob(grid[:, None, None, None]))[:, 0] / 100 for g in made)
    average = task @ torch.stack(q)
    information = task @ torch.stack([kl(each, average) for each in q])
    rate = task @ torch.cat([g.kl(made[-1]) for g in made[:-1]])
    equal(rate, information + kl(average, prior), atol=1e-7)


# theory/initializer.md --------------------------------------------------------------------------------


def conjugate_case(rng: torch.Generator, support: int = 5) -> tuple[Gaussian, Likelihood, Tensor, Tensor, Tensor]:
    likelihood = normal(0.6)
    mask = torch.ones(2, support, dtype=torch.bool)
    return make(FullGaussian, rng, 2, 1), likelihood, randn(rng, 2, support, 3), randn(rng, 2, support), mask


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
    model, order = EmpiricalBayes.classifier(2, widths="measured").double(), torch.randperm(24_000, generator=rng)
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


# theory/synthetic_gradient.md -------------------------------------------------------------------------


def smooth(w: Tensor) -> Tensor:
    """A function of two variables that no quadrature integrates trivially."""
    return torch.logsumexp(torch.stack([w[..., 0], -0.5 * w[..., 1], w[..., 0] * 0.3 + w[..., 1]], -1), -1)


def gradients_of_expectation(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loc = randn(rng, 2).requires_grad_(True)
    covariance = torch.tensor([[0.7, 0.2], [0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    points, weights = hermite(50, 2)
    w = loc + points @ torch.linalg.cholesky(covariance).T
    by_loc, by_covariance = torch.autograd.grad(weights @ smooth(w), (loc, covariance))
    inside = w.detach()
    inside.requires_grad_(True)
    (slopes,) = torch.autograd.grad(smooth(inside).sum(), inside, create_graph=True)
    rows = [torch.autograd.grad(slopes[:, p].sum(), inside, retain_graph=True)[0] for p in range(2)]
    slopes, curvatures = slopes.detach(), torch.stack(rows, -2)
    return by_loc, by_covariance, weights @ slopes, torch.einsum("n,npr->pr", weights, curvatures)


def likelihoods_of_numbers() -> list[tuple[Likelihood, Tensor, Callable[[float], float]]]:
    """Likelihoods, a label, and -log p of it as a function of the linear predictor, up to a constant."""
    return [
        (Poisson().double(), torch.full((1, 1), 3.0).double(), lambda e: math.exp(e) - 3 * e),
        (Bernoulli().double(), torch.ones(1, 1).double(), lambda e: math.log1p(math.exp(-e))),
        (normal(0.7), torch.full((1, 1), -1.2).double(), lambda e: (e + 1.2) ** 2 / 0.98),
        (
            NegativeBinomial(2.5).double(),
            torch.full((1, 1), 4.0).double(),
            lambda e: 6.5 * math.log(2.5 + math.exp(e)) - 4 * e,
        ),
    ]


def gaussian_eta(loc: float, var: float) -> tuple[Tensor, Tensor]:
    return torch.full((1, 1, 1), loc).double(), torch.full((1, 1, 1), var).double()


def mean_of(f: Callable[[float], float], loc: float, var: float) -> float:
    """Mean of a function of a normal variable."""
    scale = math.sqrt(var)
    values, _ = scipy.integrate.quad(
        lambda z: f(loc + scale * z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12, epsabs=1e-13, limit=200
    )
    return float(values)


@checks("eq-bonnet")
def test_bonnet(rng: torch.Generator) -> None:
    by_loc, _, slope, _ = gradients_of_expectation(rng)
    equal(by_loc, slope)
    for likelihood, y, loss in likelihoods_of_numbers():  # the mean gradient that the package takes, by differences
        at, h = 0.3, 1e-4
        got = likelihood.gradients(y, *gaussian_eta(at, 0.5), all_ways(1))[0]
        assert float(got.detach()) == pytest.approx(
            (mean_of(loss, at + h, 0.5) - mean_of(loss, at - h, 0.5)) / (2 * h), rel=1e-5
        )


@checks("eq-price")
def test_price(rng: torch.Generator) -> None:
    _, by_covariance, _, curvature = gradients_of_expectation(rng)
    symmetric = (by_covariance + by_covariance.T) / 2
    equal(symmetric, curvature / 2, atol=1e-6)  # the rule converges more slowly for the second derivative
    for likelihood, y, loss in likelihoods_of_numbers():
        at, h = 0.5, 1e-4
        got = likelihood.gradients(y, *gaussian_eta(0.3, at), all_ways(1))[1]
        slope = (mean_of(loss, 0.3, at + h) - mean_of(loss, 0.3, at - h)) / (2 * h)
        assert float(got.detach()) / 2 == pytest.approx(slope, rel=1e-5)


def gibbs_gradients(family: type[Gaussian], rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of F for two classes, by differentiation and by the formulas; the second times 2."""
    beta, prior, start = 0.6, make(family, rng, 1, 2), make(family, rng, 1, 2)
    x, y = randn(rng, 1, 4, 3), torch.tensor([0, 1, 1, 0])
    q = start.with_(start.loc.requires_grad_(True), start.precision.requires_grad_(True))
    points, weights = hermite(40, 2)
    loc, var = q.marginal(x)
    eta = loc[0] + var[0].sqrt() * points[:, None]  # (nodes, Q, C)
    nll = -eta.log_softmax(-1)[:, torch.arange(4), y]
    loss = (weights @ nll).sum() + beta * q.kl(prior).sum()
    by_loc, by_precision = torch.autograd.grad(loss, (q.loc, q.precision))
    p = eta.detach().softmax(-1)
    mean, curvature = (torch.einsum("n,nqc->qc", weights, v)[None] for v in (p, p * (1 - p)))
    residual = mean - nn.functional.one_hot(y, 2)
    slope = torch.einsum("tqp,tqc->tcp", x, residual) + beta * prior.times(q.loc - prior.loc)
    growth = q.gram(x, curvature) + beta * (prior.precision - q.precision)
    if family is DiagonalGaussian:
        by_covariance = -q.precision.square() * by_precision
    else:
        by_covariance = -q.precision @ by_precision @ q.precision
    return by_loc, slope.detach(), 2 * by_covariance.detach(), growth.detach()


@checks("eq-grad-mean")
@FAMILIES
def test_gradient_in_the_mean(family: type[Gaussian], rng: torch.Generator) -> None:
    by_loc, slope, _, _ = gibbs_gradients(family, rng)
    equal(by_loc, slope, atol=1e-8)


@checks("eq-grad-cov")
@FAMILIES
def test_gradient_in_the_covariance_has_no_label(family: type[Gaussian], rng: torch.Generator) -> None:
    _, _, by_covariance, growth = gibbs_gradients(family, rng)
    equal(by_covariance, growth, atol=1e-6)


@checks("eq-natural-step")
def test_natural_gradient_step(rng: torch.Generator) -> None:
    prior, likelihood, x, y, _ = conjugate_case(rng)
    q, beta, size = make(FullGaussian, rng, 2, 1), 0.7, 0.3

    def loss(loc: Tensor, covariance: Tensor) -> Tensor:
        member = FullGaussian(loc, torch.linalg.inv(covariance))
        return query_terms(member, x, y, likelihood)[0].sum() + beta * member.kl(prior).sum()

    covariance = q.covariance()
    first = q.loc.clone().requires_grad_(True)  # expectation parameters: m and Sigma + m m'
    second = (covariance + q.loc.unsqueeze(-1) * q.loc.unsqueeze(-2)).requires_grad_(True)
    value = loss(first, second - first.unsqueeze(-1) * first.unsqueeze(-2))
    by_first, by_second = torch.autograd.grad(value, (first, second))
    natural_1, natural_2 = q.times(q.loc) - size * by_first, -q.precision / 2 - size * by_second
    precision = -2 * natural_2
    loc = torch.linalg.solve(precision, natural_1)

    at = (q.loc.clone().requires_grad_(True), covariance.clone().requires_grad_(True))
    by_loc, by_covariance = torch.autograd.grad(loss(*at), at)
    equal(precision, q.precision + 2 * size * by_covariance)
    equal(loc, q.loc - size * torch.linalg.solve(precision, by_loc))


@checks("eq-retraction")
@FAMILIES
@pytest.mark.parametrize("size", [-100.0, -1.0, 0.0, 1.0, 100.0])
def test_retraction_stays_positive_definite(family: type[Gaussian], size: float, rng: torch.Generator) -> None:
    q = make(family, rng)
    step = size * randn(rng, *q.precision.shape)
    step = step if family is DiagonalGaussian else (step + step.mT) / 2
    new, full = q.retract(step), q.with_(q.loc, step)
    old, change = dense(q), dense(full)
    equal(dense(q.with_(q.loc, new)), old + change + change @ torch.linalg.solve(old, change) / 2, atol=1e-8)
    moved = old + change
    half = (old + moved @ torch.linalg.solve(old, moved)) / 2
    equal(dense(q.with_(q.loc, new)), half, atol=1e-8)
    floor = torch.linalg.eigvalsh(dense(q.with_(q.loc, new)) - old / 2)
    assert bool((floor > -1e-8 * (1 + size**2)).all())


@checks("eq-quadratic")
def test_unit_step_converges_quadratically(rng: torch.Generator) -> None:
    prior, likelihood, x, y, mask = conjugate_case(rng)
    best = posterior(prior, x, y, mask, likelihood.dispersion())
    q = make(FullGaussian, rng, 2, 1)
    weight = torch.ones(2, 5, 1, dtype=torch.float64) / likelihood.dispersion()
    new = q.retract(q.gram(x, weight) + prior.precision - q.precision)
    error = q.precision - best.precision
    equal(new - best.precision, error @ torch.linalg.solve(q.precision, error) / 2, atol=1e-8)


@checks("eq-step")
@FAMILIES
def test_refinement_step(family: type[Gaussian], rng: torch.Generator) -> None:
    ways = 3 if family is DiagonalGaussian else 1
    likelihood = Categorical() if ways == 3 else normal(0.7)
    q, prior, x = make(family, rng, 1, ways), make(family, rng, 1, ways), randn(rng, 1, 4, 3)
    xi, beta, (rho, kappa, s, nu) = randn(rng, 1, 4, ways), 0.3, (0.8, 0.6, -0.4, 0.7)
    score, information = randn(rng, 1, ways, 3), make(family, rng, 1, ways)
    masks = (torch.tensor([[True, True, True, False]]), torch.ones(1, ways, dtype=torch.bool))
    module = refiner(Inputs(xi, score, information.precision), 1, rho, kappa, s)
    nn.init.constant_(module.input_step, nu)
    with torch.no_grad():
        got = module(Setting(q, prior, likelihood, x, *masks, beta))[1].q
    _, curvature = likelihood.moments(*q.marginal(x), masks[1])
    for c in range(ways):
        growth = beta * (dense(prior) - dense(q))[0, c]
        slope = beta * kappa * dense(prior)[0, c] @ (q.loc - prior.loc)[0, c] - score[0, c]
        for i in range(3):  # the fourth query is padding
            phi = likelihood.dispersion()
            growth = growth + curvature[0, i, c] / phi * torch.outer(x[0, i], x[0, i])
            slope = slope + x[0, i] * xi[0, i, c] / phi
        if family is DiagonalGaussian:
            growth = growth.diagonal().diag()
        growth = s * growth + nu * dense(information)[0, c]
        old = dense(q)[0, c]
        new = old + growth + growth @ torch.linalg.solve(old, growth) / 2
        equal(dense(got)[0, c], new)
        equal(got.loc[0, c], q.loc[0, c] - rho * torch.linalg.solve(new, slope))


def query_state(rng: torch.Generator, ways: int = 3, queries: int = 4) -> QueryState:
    q, x = make(DiagonalGaussian, rng, 1, ways), randn(rng, 1, queries, 3)
    masks = torch.ones(1, queries, dtype=torch.bool), torch.ones(1, ways, dtype=torch.bool)
    prior = q.with_(q.loc, math.exp(-1) * q.precision)
    return QueryState(Setting(q, prior, Categorical(), x, *masks, 1.0), q)


@checks("eq-residual")
def test_expected_gradient_is_a_residual(rng: torch.Generator) -> None:
    mean, truth = probabilities(rng, 3), probabilities(rng, 3)  # E_q[A'], and p(y | known)
    statistic = Categorical().statistic(torch.arange(3), 3).double()
    expected = sum(truth[y] * (mean - statistic[y]) for y in range(3))
    best = truth @ statistic
    equal(expected, mean - best)


@checks("eq-xi")
def test_synthetic_gradient_is_a_residual(rng: torch.Generator) -> None:
    state, network = query_state(rng), ClassSyntheticGradient(8).double().requires_grad_(False)
    jiggle(network, rng)
    belief = network.belief(state)
    equal(belief.sum(-1), 1.0)
    assert bool((belief > 0).all())
    equal(network(state), state.mean - belief)
    assert float((network(state)).abs().max()) > 1e-3


@checks("eq-brier")
def test_gradient_matching_is_the_brier_score(rng: torch.Generator) -> None:
    state, network = query_state(rng), ClassSyntheticGradient(8).double().requires_grad_(False)
    jiggle(network, rng)
    for y in range(3):
        statistic = Categorical().statistic(torch.full((1, 4), y), 3)
        matching = (network(state) - (state.mean - statistic)).square().sum(-1)
        equal(matching, (network.belief(state) - statistic).square().sum(-1))


def beliefs(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Six states of knowledge: their probabilities, p(y | state), a belief for each, and T(y)."""
    belief = probabilities(rng, 6, 3)
    belief[3:] = belief[:3]  # a belief is shared by two states, so E[T | r] is not E[T | state]
    return probabilities(rng, 6), probabilities(rng, 6, 3), belief, torch.eye(3, dtype=torch.float64)


@checks("eq-proper")
def test_matching_splits_into_error_and_noise(rng: torch.Generator) -> None:
    state, truth, belief, statistic = beliefs(rng)
    total = torch.einsum("s,sy,sy->", state, truth, (belief[:, None] - statistic).square().sum(-1))
    error = state @ (belief - truth).square().sum(-1)
    noise = torch.einsum("s,sy,sy->", state, truth, (statistic - truth[:, None]).square().sum(-1))
    equal(total, error + noise)
    assert float(error) > 0
    best, own = (package_parts(state, truth, p) for p in (truth, belief))
    equal(own["brier"] - best["brier"], error)
    equal(best["brier"], noise)


def package_parts(state: Tensor, truth: Tensor, belief: Tensor) -> dict[str, Tensor]:
    """The package's parts of the Brier score of a belief, pooled over classes, with a bin for every probability."""
    p = np.unique(belief.numpy())
    edges = np.r_[0.0, (p[1:] + p[:-1]) / 2, 1.0]
    sums = state.numpy()[:, None, None] * bin_sums(belief.numpy(), truth.numpy(), edges)
    return {name: torch.from_numpy(np.asarray(v)) for name, v in brier_decomposition(sums.sum(0)).items()}


@checks("eq-decomposition")
def test_brier_decomposition(rng: torch.Generator) -> None:
    state, truth, belief, statistic = beliefs(rng)
    total = torch.einsum("s,sy,sy->", state, truth, (belief[:, None] - statistic).square().sum(-1))
    joint = state[:, None] * truth
    pair = joint[:3] + joint[3:]  # states that share a belief
    weight, given = pair.sum(-1), pair / pair.sum(-1, keepdim=True)
    base = joint.sum(0)
    miscalibration = weight @ (belief[:3] - given).square().sum(-1)
    resolution = weight @ (given - base).square().sum(-1)
    uncertainty = base @ (statistic - base).square().sum(-1)
    equal(total, miscalibration - resolution + uncertainty)
    parts = package_parts(state, truth, belief)  # resolution and uncertainty are about the base rate of all classes
    equal(parts["brier"], total)
    equal(parts["reliability"], miscalibration)
    equal(parts["uncertainty"] - parts["resolution"], uncertainty - resolution)


@checks("eq-gap")
def test_best_synthetic_gradient_is_the_gap_to_the_exact_posterior(rng: torch.Generator) -> None:
    w, exact, q = randn(rng, 5, 3, 2), probabilities(rng, 5), probabilities(rng, 5)
    x = randn(rng, 2)
    given = torch.softmax(w @ x, -1)  # p(y | x, w) = A'(eta)
    statistic = torch.eye(3, dtype=torch.float64)
    best = torch.einsum("w,wy,yc->c", exact, given, statistic)  # E[T(y) | known]
    equal(q @ given - best, q @ given - exact @ given)
    equal(exact @ given - best, 0.0)
    # In the linear-Gaussian family a perfect belief moves the mean to the exact posterior's.
    prior, likelihood, inputs, _, _ = conjugate_case(rng, 8)
    start, truth = make(FullGaussian, rng, 2, 1), make(FullGaussian, rng, 2, 1)
    module = refiner(Believer(torch.einsum("tqp,tcp->tqc", inputs, truth.loc)), 4000, 0.02, 0.0, 0.0)
    masks = torch.ones(2, 8, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    with torch.no_grad():
        equal(module(Setting(start, prior, likelihood, inputs, *masks, 0.5))[-1].q.loc, truth.loc, atol=1e-8)


@checks("eq-exchangeable")
def test_exchangeable_layer(rng: torch.Generator) -> None:
    layer = ExchangeableLinear(2, 3).double().requires_grad_(False)
    jiggle(layer, rng)
    h, queries, classes = randn(rng, 1, 5, 4, 2), 4, 3  # one query and one class are padding
    weights = torch.zeros(1, 5, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    weights[0][:, :queries], weights[1][:, :classes] = 1 / queries, 1 / classes
    u, real = layer(h, *weights), h[0, :queries, :classes]
    for i, c in itertools.product(range(queries), range(classes)):
        wanted = layer.cell.weight @ real[i, c] + layer.cell.bias + layer.by_class.weight @ real[:, c].mean(0)
        wanted = wanted + layer.by_query.weight @ real[i].mean(0) + layer.overall.weight @ real.mean((0, 1))
        equal(u[0, i, c], wanted)
    # There are no others: the maps of a 3 x 4 table that commute with both groups have dimension 4.
    size = 12
    swaps = []
    for axis, length in ((0, 3), (1, 4)):
        for k in range(length - 1):
            table = torch.arange(size).reshape(3, 4)
            order = list(range(length))
            order[k], order[k + 1] = order[k + 1], order[k]
            index = (table[order] if axis == 0 else table[:, order]).flatten()
            swaps.append(torch.eye(size, dtype=torch.float64)[index])
    eye = torch.eye(size, dtype=torch.float64)
    conditions = torch.cat([torch.kron(p, eye) - torch.kron(eye, p.T.contiguous()) for p in swaps])
    assert size**2 - int(torch.linalg.matrix_rank(conditions)) == 4


@checks("eq-equivariance")
def test_refinement_commutes_with_relabelling(rng: torch.Generator) -> None:
    model, batch = EmpiricalBayes.classifier(num_features=4, num_steps=3).double(), classification(rng)
    jiggle(model, rng)
    relabel, shuffle = torch.tensor([2, 0, 1]), torch.randperm(6, generator=rng)  # class c becomes relabel[c]
    other = TaskBatch(
        batch.support_x, relabel[batch.support_y], batch.query_x[:, shuffle], None, way_mask=batch.way_mask
    )
    with torch.no_grad():
        for q, p in zip(model.posterior(batch), model.posterior(other), strict=True):
            equal(p.loc[:, relabel], q.loc, atol=1e-9)
            equal(p.precision[:, relabel], q.precision, atol=1e-9)


@checks("eq-shift")
def test_real_belief_is_a_shift_of_the_weights(rng: torch.Generator) -> None:
    network = RealSyntheticGradient(3, 8).double().requires_grad_(False)
    jiggle(network, rng)
    prior, likelihood, x, _, mask = conjugate_case(rng)
    q, ways = make(FullGaussian, rng, 2, 1), torch.ones(2, 1, dtype=torch.bool)
    setting = Setting(q, prior, likelihood, x, mask, ways, 0.5)
    xi = network(QueryState(setting, q))
    module = refiner(Fixed(xi), 1, 0.7, 0.0, 0.2)
    with torch.no_grad():
        new = module(setting)[1].q
    shift = -torch.linalg.lstsq(x, xi).solution
    equal(-(x @ shift), xi)
    move = 0.7 * torch.linalg.solve(new.precision[:, 0], x.mT @ x @ shift / likelihood.dispersion())
    equal(new.loc[:, 0], q.loc[:, 0] + move.squeeze(-1))


def coupled_inputs(rng: torch.Generator, queries: int = 8) -> tuple[Tensor, Tensor, Tensor, Gaussian]:
    """B, S, features [x; 1] of two tasks' queries, and a Gaussian over the weights."""
    root = randn(rng, 2, 2) / 3
    x = torch.cat([randn(rng, 2, queries, 2), torch.ones(2, queries, 1, dtype=torch.float64)], -1)
    return randn(rng, 2, 3), root @ root.T + torch.eye(2, dtype=torch.float64), x, make(FullGaussian, rng, 2, 1)


def input_score(b: Tensor, s: Tensor, x: Tensor, q: Gaussian) -> tuple[Tensor, Tensor]:
    look = b.T @ torch.linalg.inv(s)
    surprise = x[..., :2].mean(1) - q.loc[:, 0] @ b.T
    return (x.shape[1] * surprise @ look.T).unsqueeze(1), (x.shape[1] * look @ b).expand(2, 1, 3, 3)


@checks("eq-input-score")
def test_inputs_act_through_a_score_and_an_information(rng: torch.Generator) -> None:
    _, _, x, q = coupled_inputs(rng)
    scale = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:  # a skewed p(x | w): Gumbel noise about the first two weights
        u = (x[:, :, :2] - w[..., None, :2]) / scale
        return (u + torch.exp(-u)).sum((-2, -1))

    points, weights = hermite(30, 3)
    loc = q.loc[:, 0].clone().requires_grad_(True)
    covariance = q.covariance()[:, 0] / 20
    covariance.requires_grad_(True)
    root = torch.linalg.cholesky(covariance)
    w = loc + torch.einsum("tpr,nr->ntp", root, points)
    value = (weights @ loss(w)).sum()
    by_loc, by_covariance = torch.autograd.grad(value, (loc, covariance))
    inside = w.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(inside).sum(), inside, create_graph=True)
    rows = [torch.autograd.grad(slope[..., p].sum(), inside, retain_graph=True)[0] for p in range(3)]
    score = -torch.einsum("n,ntp->tp", weights, slope.detach())
    information = torch.einsum("n,ntpr->tpr", weights, torch.stack(rows, -2))
    equal(by_loc, -score, atol=1e-7)
    equal(2 * by_covariance, information, atol=1e-5)


@checks("eq-input-gaussian")
def test_gaussian_inputs(rng: torch.Generator) -> None:
    b, s, x, q = coupled_inputs(rng)
    loc = q.loc[:, 0].clone().requires_grad_(True)
    normal_x = torch.distributions.MultivariateNormal((loc @ b.T)[:, None], s)
    (score,) = torch.autograd.grad(normal_x.log_prob(x[..., :2]).sum(), loc, create_graph=True)
    rows = [torch.autograd.grad(score[:, p].sum(), loc, retain_graph=True)[0] for p in range(3)]
    wanted, information = input_score(b, s, x, q)
    equal(score.detach(), wanted[:, 0])
    equal(-torch.stack(rows, 1), information[:, 0])
    # The package's family, where S is the identity: what inputs add to the natural parameters is J and zeta + J m.
    eye = torch.eye(2, dtype=torch.float64)
    world = LinearGaussianTasks(np.zeros(3), np.eye(3), coupling=b.numpy(), n_support=0)
    told, prior = (
        world.exact_posterior(TaskBatch(x[:, :0, :2], x[:, :0, 0], x[..., :2]), transductive=t) for t in (True, False)
    )
    score, information = input_score(b, eye, x, q)
    equal(told.precision - prior.precision, information.unsqueeze(1) if information.dim() == 3 else information)
    shift = score + torch.einsum("tcpr,tcr->tcp", information, q.loc)
    equal(told.times(told.loc) - prior.times(prior.loc), shift)


def input_network(b: Tensor, s: Tensor) -> RealSyntheticGradient:
    """The network whose score and information are those of Gaussian inputs."""
    network = RealSyntheticGradient(3, 4).double().requires_grad_(False)
    look = b.T @ torch.linalg.inv(s)
    network.score.weight[:, :2] = look  # the means of the features, without that of the constant
    network.score.weight[:, 6:] = -look @ b
    network.factor[:] = 0
    network.factor[:, :2] = look @ torch.linalg.cholesky(s)
    return network


@checks("eq-input-network")
def test_network_contains_gaussian_inputs(rng: torch.Generator) -> None:
    b, s, x, q = coupled_inputs(rng)
    mask, ways = torch.ones(2, 8, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    state = QueryState(Setting(q, q, normal(1.0), x, mask, ways, 1.0), q)
    network = input_network(b, s)
    score, information = network.inputs(state)
    wanted = input_score(b, s, x, q)
    equal(score, wanted[0])
    equal(information, wanted[1])
    equal(network(state), 0.0)
    jiggle(network, rng)
    score, information = network.inputs(state)
    u = torch.cat([x.mean(1), x.square().mean(1), q.loc[:, 0]], -1)
    left, right = network.left.weight, network.right.weight
    moments = torch.einsum("ap,tpr,ar->ta", left, x.mT @ x / 8, right)
    spread = torch.einsum("ap,tpr,ar->ta", left, q.covariance()[:, 0], left).log()
    count = torch.full((2, 1), math.log(8.0), dtype=torch.float64)
    h = nn.functional.silu(network.hidden(torch.cat([u, moments, spread, count], -1)))
    g, z, v = (0.3 * network.readout(h)).split([3, 3, 9], -1)
    root = network.factor + v.unflatten(-1, (3, 3))
    equal(network(state), -x @ g.unsqueeze(-1))
    equal(score[:, 0], 8 * (u @ network.score.weight.T + network.score.bias + z))
    equal(information[:, 0], 8 * root @ root.mT)


@checks("eq-assimilate")
def test_steps_take_in_the_inputs_once(rng: torch.Generator) -> None:
    b, s, x, q = coupled_inputs(rng)
    _, information = input_score(b, s, x, q)
    precision = q.precision + information
    seen = x.shape[1] * x[..., :2].mean(1) @ torch.linalg.inv(s) @ b
    exact = FullGaussian(torch.linalg.solve(precision[:, 0], q.times(q.loc)[:, 0] + seen).unsqueeze(1), precision)
    masks = torch.ones(2, 8, dtype=torch.bool), torch.ones(2, 1, dtype=torch.bool)
    errors = []
    for steps in (100, 200):
        module = refiner(input_network(b, s), steps, 1 / steps, 0.0, 0.0)
        nn.init.constant_(module.input_step, 1 / steps)
        with torch.no_grad():
            last = module(Setting(q, make(FullGaussian, rng, 2, 1), normal(0.7), x, *masks, 0.5))[-1].q
        errors.append(((last.loc - exact.loc).abs().max(), (last.precision - exact.precision).abs().max()))
    for coarse, fine in zip(*errors, strict=True):
        assert float(coarse / fine) == pytest.approx(2.0, rel=0.1)  # O(1/K)


@checks("eq-start")
@pytest.mark.parametrize("kind", ["residual", "mlp", "real"])
def test_untrained_refinement_is_the_identity(kind: str, rng: torch.Generator) -> None:
    if kind == "real":
        model, batch = EmpiricalBayes.regressor(num_features=2).double(), regression(rng)
    else:
        model = EmpiricalBayes.classifier(num_features=4, synthetic_gradient=kind, n_way=3).double()
        batch = classification(rng)
    with torch.no_grad():
        first, *rest = model.posterior(batch)
    assert rest
    for q in rest:
        equal(q.loc, first.loc)
        equal(q.precision, first.precision)


# theory/gaussian_softmax.md ---------------------------------------------------------------------------


def all_ways(ways: int) -> Tensor:
    return torch.ones(1, ways, dtype=torch.bool)


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


# theory/target.md -------------------------------------------------------------------------------------


def finite_world(rng: torch.Generator, *, coupled: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A task with 4 weights, 3 inputs and 2 labels: p(w), p(x | w), p(y | x, w) and the joint.

    The joint is over (w, x of one support row, y of it, x of two queries, y of them).
    """
    prior = probabilities(rng, 4)
    inputs = probabilities(rng, 4, 3) if coupled else probabilities(rng, 3).expand(4, 3)
    labels = probabilities(rng, 4, 3, 2)
    pair = torch.einsum("wx,wxy->wxy", inputs, labels)
    joint = torch.einsum("w,wab,wcd,wef->wabcedf", prior, pair, pair, pair)
    return prior, inputs, labels, joint


def given(joint: Tensor, index: tuple[int, ...]) -> Tensor:
    """p(w | support x, support y, query x, query x)."""
    p = joint.sum((-2, -1))[(slice(None), *index)]
    return p / p.sum()


@checks("eq-no-information")
def test_uncoupled_queries_say_nothing(rng: torch.Generator) -> None:
    prior, _, labels, joint = finite_world(rng, coupled=False)
    for index in itertools.product(range(3), range(2), range(3), range(3)):
        inductive = prior * labels[:, index[0], index[1]]
        equal(given(joint, index), inductive / inductive.sum())
    world = LinearGaussianTasks(np.array([1.0, -1.0]), np.eye(2), 0.5)
    batch = world.sample(3).to(torch.float64)
    told = world.exact_posterior(batch, transductive=True)
    for t in range(3):  # least squares with the prior as two more rows, labels of the support alone
        phi = np.c_[batch.support_x[t].numpy(), np.ones(3)]
        rows, y = np.r_[phi / 0.5, np.eye(2)], np.r_[batch.support_y[t].numpy() / 0.5, world.loc]
        equal(told.loc[t, 0], torch.from_numpy(np.linalg.lstsq(rows, y)[0]))
        equal(told.precision[t, 0], torch.from_numpy(rows.T @ rows))


@checks("eq-coupled")
def test_coupled_inputs_inform(rng: torch.Generator) -> None:
    prior, inputs, labels, joint = finite_world(rng, coupled=True)
    moved = 0.0
    for index in itertools.product(range(3), range(2), range(3), range(3)):
        a, b, c, e = index
        wanted = prior * labels[:, a, b] * inputs[:, a] * inputs[:, c] * inputs[:, e]
        equal(given(joint, index), wanted / wanted.sum())
        inductive = prior * labels[:, a, b]
        moved = max(moved, float((given(joint, index) - inductive / inductive.sum()).abs().max()))
    assert moved > 0.05
    drawn_labels(rng)


def drawn_labels(rng: torch.Generator) -> None:
    """Compare the package's coupled family with its factors, one by one."""
    world = family(queries=1)
    batch = world.sample(3).to(torch.float64)
    w, x = randn(rng, 5, 3, 3), torch.cat([batch.support_x, batch.query_x], 1)
    root = torch.from_numpy(world.scale_tril)
    factors = torch.distributions.MultivariateNormal(torch.from_numpy(world.loc), scale_tril=root).log_prob(w)
    eta = torch.einsum("ntp,tsp->nts", w, torch.cat([batch.support_x, torch.ones(3, 3, 1).double()], -1))
    factors = factors + torch.distributions.Normal(eta, world.noise).log_prob(batch.support_y).sum(-1)
    looks = torch.einsum("ntp,dp->ntd", w, torch.from_numpy(world.coupling)).unsqueeze(2)
    factors = factors + torch.distributions.Normal(looks, 1.0).log_prob(x).sum((2, 3))
    gap = world.exact_posterior(batch, transductive=True).distribution().log_prob(w.unsqueeze(2)) - factors
    for t in range(3):
        constant(gap[:, t], atol=1e-8)


@checks("eq-transductive-gain")
def test_other_inputs_are_worth_what_they_tell(rng: torch.Generator) -> None:
    *_, joint = finite_world(rng, coupled=True)
    joint = joint.sum(-1)  # (w, x and y of the support row, x of a query, x of another, y of the first)

    def information(table: Tensor) -> Tensor:
        """I(a; b | c) of a table (a, b, c)."""
        both = table * table.sum((0, 1)) / (table.sum(0) * table.sum(1).unsqueeze(1))
        return (table * both.log()).sum()

    labels = joint.sum(0).permute(4, 3, 0, 1, 2).reshape(2, 3, -1)
    weights = joint.sum(-1).permute(0, 4, 1, 2, 3).reshape(4, 3, -1)
    told = labels / labels.sum(0)  # p(y | all inputs, support label)
    alone = labels.sum(1) / labels.sum((0, 1))
    equal((labels * (told / alone.unsqueeze(1)).log()).sum(), information(labels))
    assert 0 < float(information(labels)) < float(information(weights))
    # The package's family, given all inputs: two exact predictions of a query, with and without the others.
    batch = family().sample(4).to(torch.float64)
    one = TaskBatch(batch.support_x, batch.support_y, batch.query_x[:, :1], batch.query_y[:, :1])
    phi = torch.cat([one.query_x, torch.ones(4, 1, 1, dtype=torch.float64)], -1)
    posteriors = [family().exact_posterior(b, transductive=True) for b in (batch, one)]
    exact, less = (torch.distributions.Normal(m, (v + 0.25).sqrt()) for m, v in (q.marginal(phi) for q in posteriors))
    gain, (points, weight) = torch.zeros(4, dtype=torch.float64), hermite(5)
    for e, share in zip(points[:, 0], weight, strict=True):
        y = (exact.mean + e * exact.stddev)[..., 0]
        with_others = TaskBatch(batch.support_x, batch.support_y, batch.query_x, y.expand(-1, 6))
        without = TaskBatch(one.support_x, one.support_y, one.query_x, y)
        scores = [family().exact_nll(b, transductive=True)[:, 0] for b in (without, with_others)]
        gain += share * (scores[0] - scores[1])
    equal(gain, torch.distributions.kl_divergence(exact, less)[:, 0, 0])
    assert bool((gain <= posteriors[0].kl(posteriors[1])).all())  # less than what the others say of the weights


@checks("eq-chosen-labels")
def test_chosen_labels_say_less_than_drawn_ones(rng: torch.Generator) -> None:
    """The labels of two support rows are set to (0, 1) in every task; a query of the same world has inputs alone."""
    prior, inputs, labels, _ = finite_world(rng, coupled=True)
    pair = torch.einsum("wx,wxy->wxy", inputs, labels)
    frequency = pair.sum(1)  # p(y | w)
    chosen = pair / frequency.unsqueeze(1)  # p(x | y, w)
    joint = torch.einsum("w,wa,wb,wc->wabc", prior, chosen[..., 0], chosen[..., 1], inputs)
    for a, b, c in itertools.product(range(3), repeat=3):
        factors = labels[:, a, 0] / frequency[:, 0] * labels[:, b, 1] / frequency[:, 1]
        wanted = prior * factors * inputs[:, a] * inputs[:, b] * inputs[:, c]
        equal(joint[:, a, b, c] / joint[:, a, b, c].sum(), wanted / wanted.sum())
    # The package's family takes its labels for drawn: its posterior has no such denominators.
    drawn_labels(rng)


def query_world(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """Given what is known: p_psi(w), p(y_i | w) of 3 queries (w, i, y), the joint of the labels, beta."""
    return probabilities(rng, 5), probabilities(rng, 5, 3, 2), probabilities(rng, 8).reshape(2, 2, 2), 0.7


def label_marginals(truth: Tensor) -> Tensor:
    return torch.stack([truth.sum((1, 2)), truth.sum((0, 2)), truth.sum((0, 1))])


def pool(prior: Tensor, labels: Tensor, truth: Tensor, beta: float) -> Tensor:
    expected = torch.einsum("iy,wiy->w", label_marginals(truth), labels.log())
    return torch.softmax(prior.log() + expected / beta, 0)


def average_gibbs(q: Tensor, prior: Tensor, labels: Tensor, truth: Tensor, beta: float) -> Tensor:
    total = beta * kl(q, prior)
    for y in itertools.product(range(2), repeat=3):
        loss = -sum(labels[:, i, y[i]].log() for i in range(3))
        total = total + truth[y] * (q @ loss)
    return total


@checks("eq-pointwise")
def test_amortized_optimum_is_pointwise(rng: torch.Generator) -> None:
    prior, labels, _, beta = query_world(rng)
    states, weight = [probabilities(rng, 8).reshape(2, 2, 2) for _ in range(3)], probabilities(rng, 3)
    best = [pool(prior, labels, truth, beta) for truth in states]

    def average(functions: list[Tensor]) -> Tensor:
        terms = [average_gibbs(q, prior, labels, t, beta) for q, t in zip(functions, states, strict=True)]
        return weight @ torch.stack(terms)

    lowest = average(best)
    logits = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)  # the amortized function, as a table
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = average(list(logits.softmax(-1)))
        loss.backward()
        return loss

    optimizer.step(closure)
    equal(closure().detach(), lowest)
    equal(logits.detach().softmax(-1), torch.stack(best), atol=1e-6)


@checks("eq-pool")
def test_gibbs_optimum_is_a_log_linear_pool(rng: torch.Generator) -> None:
    prior, labels, truth, beta = query_world(rng)
    best = pool(prior, labels, truth, beta)
    candidates = probabilities(rng, 6, 5)
    gaps = [average_gibbs(q, prior, labels, truth, beta) - beta * kl(q, best) for q in candidates]
    constant(torch.stack(gaps))


@checks("eq-log-pool")
def test_pool_is_a_geometric_mean_of_labelled_posteriors(rng: torch.Generator) -> None:
    prior, labels, truth, beta = query_world(rng)
    mean = torch.zeros(5, dtype=torch.float64)
    for y in itertools.product(range(2), repeat=3):
        labelled = prior.log() + sum(labels[:, i, y[i]].log() for i in range(3)) / beta
        mean += truth[y] * labelled.log_softmax(0)
    constant(pool(prior, labels, truth, beta).log() - mean)


@checks("eq-soft-label")
def test_average_over_labels_replaces_the_statistic(rng: torch.Generator) -> None:
    truth, eta, ways = probabilities(rng, 3), randn(rng, 1, 6, 3), all_ways(3)
    loss = -sum(truth[y] * Categorical().log_prob(torch.full((1, 6), y), eta, ways) for y in range(3))
    constant(loss - (eta.logsumexp(-1) - eta @ truth))
    likelihood, eta = normal(0.6), randn(rng, 1, 6, 1)
    points, weights = hermite(5)  # y ~ N(0.4, 1.3^2), any distribution with this mean would do
    labels = 0.4 + 1.3 * points[:, 0]
    loss = -sum(
        w * likelihood.log_prob(torch.full((1, 6), y.item(), dtype=torch.float64), eta, all_ways(1))
        for y, w in zip(labels, weights, strict=True)
    )
    constant(loss - (eta.square() / 2 - 0.4 * eta)[..., 0] / likelihood.dispersion())


@checks("eq-fixed-point")
@pytest.mark.parametrize("name", ["categorical", "normal"])
def test_refinement_with_fixed_beliefs_converges_to_the_pool(name: str, rng: torch.Generator) -> None:
    ways, beta = (3, 0.4) if name == "categorical" else (1, 0.4)
    likelihood = Categorical() if ways == 3 else normal(0.7)
    family = DiagonalGaussian if ways == 3 else FullGaussian
    q, prior, x = make(family, rng, 2, ways), make(family, rng, 2, ways), randn(rng, 2, 6, 3)
    belief = probabilities(rng, 2, 6, 3) if ways == 3 else randn(rng, 2, 6, 1)
    masks = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, ways, dtype=torch.bool)
    with torch.no_grad():
        setting = Setting(q, prior, likelihood, x, *masks, beta)
        last = refiner(Believer(belief), 3000, 0.5, 1.0, 0.5)(setting)[-1].q
    mean, curvature = likelihood.moments(*last.marginal(x), masks[1])
    slope = torch.einsum("tqp,tqc->tcp", x, mean - belief) / likelihood.dispersion()
    equal(slope + beta * prior.times(last.loc - prior.loc), 0.0, atol=1e-8)
    equal(last.precision, prior.precision + last.gram(x, curvature / likelihood.dispersion()) / beta, atol=1e-8)


@checks("eq-step-stability")
def test_steps_converge_where_beta_times_their_size_is_below_two() -> None:
    """One weight, one query of feature 1 and noise 1, prior precision 1; the refiner's own steps on the precision."""
    one, masks = torch.ones(1, 1, 1, dtype=torch.float64), (torch.ones(1, 1).bool(), torch.ones(1, 1).bool())

    def step(precision: float, beta: float, steps: int = 1) -> float:
        module = refiner(Fixed(0 * one), steps, 1.0, 0.0, 1.0)
        with torch.no_grad():
            q, prior = FullGaussian(0 * one, precision * one[None]), FullGaussian(0 * one, one[None])
            path = module(Setting(q, prior, *data, beta))
        return float(path[-1].q.precision)

    data = normal(1.0), one, *masks
    for beta in (0.3, 1.5, 1.9, 2.5, 3.0):
        best, nudge = 1 + 1 / beta, 1e-5
        assert step(best, beta) == pytest.approx(best, rel=1e-12)
        slope = (step(best + nudge, beta) - step(best - nudge, beta)) / (2 * nudge)
        assert slope == pytest.approx(1 - beta, abs=1e-7)
        assert (abs(step(best + 1e-3, beta, 200) - best) < 1e-6) == (beta < 2)
        if beta > 2:
            other = beta * best / (beta - 2)
            assert step(other, beta) == pytest.approx(other, rel=1e-12)
            slope = (step(other + nudge, beta) - step(other - nudge, beta)) / (2 * nudge)
            assert slope == pytest.approx(beta - 1, rel=1e-6)
            assert step(1.01 * other, beta, 60) > 100 * other
    assert step(4.0, 3.0) == pytest.approx(4.0, rel=1e-12)  # the numbers of the page


@checks("eq-pool-gaussian")
def test_linear_gaussian_pool(rng: torch.Generator) -> None:
    prior, likelihood, x, mean, mask = conjugate_case(rng, 7)
    beta, spread = 0.3, 0.9  # y_i has mean `mean` and standard deviation `spread` given what is known
    phi = likelihood.dispersion()
    precision = prior.precision[:, 0] + x.mT @ x / (beta * phi)
    error = mean - torch.einsum("tqp,tp->tq", x, prior.loc[:, 0])
    loc = prior.loc[:, 0] + torch.linalg.solve(precision, torch.einsum("tqp,tq->tp", x, error) / (beta * phi))
    best = FullGaussian(loc.unsqueeze(1), precision.unsqueeze(1))

    def average(q: Gaussian) -> Tensor:
        points, weights = hermite(5)
        losses = [query_terms(q, x, mean + spread * e, likelihood)[0].sum(1) for e in points[:, 0]]
        return torch.einsum("n,nt->t", weights, torch.stack(losses)) + beta * q.kl(prior)

    gaps = torch.stack([average(q) - beta * q.kl(best) for q in (make(FullGaussian, rng, 2, 1) for _ in range(4))])
    for t in range(2):
        constant(gaps[:, t])
    masks = mask, torch.ones(2, 1, dtype=torch.bool)
    start = make(FullGaussian, rng, 2, 1)
    with torch.no_grad():
        setting = Setting(start, prior, likelihood, x, *masks, beta)
        last = refiner(Believer(mean.unsqueeze(-1)), 400, 0.5, 1.0, 0.5)(setting)[-1].q
    equal(last.loc, best.loc, atol=1e-8)
    equal(last.precision, best.precision, atol=1e-8)


@checks("eq-noise")
def test_noise_takes_up_the_whole_prediction_error(rng: torch.Generator) -> None:
    q, x, y = make(FullGaussian, rng, 3, 1), randn(rng, 3, 5, 3), randn(rng, 3, 5)
    loc, var = q.marginal(x)
    error = ((y - loc[..., 0]).square() + var[..., 0]).mean()
    likelihood = normal(error.sqrt().item()).requires_grad_(True)
    query_terms(q, x, y, likelihood)[0].sum().backward()
    equal(likelihood.log_noise.grad, 0.0)


@checks("eq-predictive-score")
def test_predictive_objective_is_a_proper_score(rng: torch.Generator) -> None:
    _, labels, truth, _ = query_world(rng)
    q = probabilities(rng, 5)
    mixture, marginal = torch.einsum("w,wiy->iy", q, labels), label_marginals(truth)
    got = sum(truth[y] * -sum(mixture[i, y[i]].log() for i in range(3)) for y in itertools.product(range(2), repeat=3))
    entropy = -(marginal * marginal.log()).sum()
    equal(got, entropy + kl(marginal, mixture).sum())
    # The package's score of a Gaussian, over labels of another: entropy and divergence of two normals.
    q, x, likelihood = make(FullGaussian, rng, 1, 1), randn(rng, 1, 4, 3), normal(0.7)
    points, weights = hermite(5)
    truth = torch.distributions.Normal(randn(rng, 1, 4), 0.8 + rand(rng, 1, 4))
    labels = [truth.mean + truth.stddev * e for e in points[:, 0]]
    got = sum(w * query_terms(q, x, y, likelihood)[1] for y, w in zip(labels, weights, strict=True))
    loc, var = q.marginal(x)
    own = torch.distributions.Normal(loc[..., 0], (var[..., 0] + 0.49).sqrt())
    equal(got, truth.entropy() + torch.distributions.kl_divergence(truth, own))


@checks("eq-attained")
def test_exact_posterior_attains_the_best_predictive_score(rng: torch.Generator) -> None:
    _, _, labels, joint = finite_world(rng, coupled=True)
    for index in itertools.product(range(3), range(2), range(3), range(3)):
        _, _, c, e = index
        table = joint.sum(0)[index]  # p(x_s, y_s, x_1, x_2, y_1, y_2) as a table of the two labels
        table = table / table.sum()
        exact = given(joint, index)
        equal(exact @ labels[:, c], table.sum(1))
        equal(exact @ labels[:, e], table.sum(0))
    # The package's family: given the inputs, labels are jointly normal, so a query's label is a normal regression.
    world = family()
    batch = world.sample(2).to(torch.float64)
    x = torch.cat([batch.support_x, batch.query_x], 1).numpy()
    for t in range(2):
        prior_precision, b = np.linalg.inv(world.scale_tril @ world.scale_tril.T), world.coupling
        of_w = np.linalg.inv(prior_precision + 9 * b.T @ b)
        mean_w = of_w @ (prior_precision @ world.loc + b.T @ x[t].sum(0))
        phi = np.c_[x[t], np.ones(9)]
        mean, cov = phi @ mean_w, phi @ of_w @ phi.T + world.noise**2 * np.eye(9)
        gain = cov[3:, :3] @ np.linalg.inv(cov[:3, :3])
        loc = mean[3:] + gain @ (batch.support_y[t].numpy() - mean[:3])
        var = np.diag(cov[3:, 3:] - gain @ cov[:3, 3:])
        wanted = (np.log(2 * np.pi * var) + (batch.query_y[t].numpy() - loc) ** 2 / var) / 2
        equal(world.exact_nll(batch, transductive=True)[t], torch.from_numpy(wanted))


@checks("eq-beta-bound")
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_price_of_beta_is_bounded(beta: float, rng: torch.Generator) -> None:
    prior, likelihood, x, y, mask = conjugate_case(rng, 8)
    noise = likelihood.dispersion()
    exact = posterior(prior, x[:, :3], y[:, :3], mask[:, :3], noise)
    query = x[:, 3:]

    def predictive(q: Gaussian) -> torch.distributions.Normal:
        loc, var = q.marginal(query)
        return torch.distributions.Normal(loc, (var + noise).sqrt())

    loc = exact.loc.clone().requires_grad_(True)
    root = torch.linalg.cholesky(exact.precision).contiguous().requires_grad_(True)
    optimizer = torch.optim.LBFGS([loc, root], max_iter=300, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def excess() -> tuple[Tensor, Tensor]:
        lower = torch.tril(root)
        q = FullGaussian(loc, lower @ lower.mT)
        divergence = torch.distributions.kl_divergence(predictive(exact), predictive(q)).sum((1, 2))
        return divergence, q.kl(prior)

    def closure() -> Tensor:
        optimizer.zero_grad()
        divergence, complexity = excess()
        loss = (divergence + beta * complexity).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    divergence = excess()[0].detach()
    assert bool((divergence > 0).all())
    assert bool((divergence <= beta * exact.kl(prior)).all())


def family(queries: int = 6, seed: int = 0) -> LinearGaussianTasks:
    root = np.array([[1.0, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.2, 0.1, 0.6]])
    coupling = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -0.5]])
    return LinearGaussianTasks(np.array([1.0, -1.0, 0.5]), root, 0.5, coupling, 3, queries, seed)


@checks("eq-family")
def test_family_is_sampled_as_stated() -> None:
    """Nineteen z-tests at |z| < 5.5: a correct sampler fails with probability below 1e-6."""
    world, tasks = family(queries=1), 20_000
    batch = world.sample(tasks).to(torch.float64)
    x, y = batch.support_x[:, 0].numpy(), batch.support_y[:, 0].numpy()
    other = batch.query_x[:, 0].numpy()
    b, mu, sigma = world.coupling, world.loc, world.scale_tril @ world.scale_tril.T
    among = b @ sigma @ b.T
    statistics = [x[:, j] - (b @ mu)[j] for j in range(2)]
    centred, other = x - b @ mu, other - b @ mu
    for j, k in itertools.product(range(2), range(2)):
        statistics.append(centred[:, j] * centred[:, k] - among[j, k] - (j == k))
        statistics.append(centred[:, j] * other[:, k] - among[j, k])  # rows of a task share w
    # y given x of its row: w | x is Gaussian, so E[y | x] and E[(y - E[y | x])^2 | x] are known.
    precision = np.linalg.inv(sigma) + b.T @ b
    covariance = np.linalg.inv(precision)
    loc = (np.linalg.inv(sigma) @ mu + x @ b) @ covariance
    phi = np.c_[x, np.ones(tasks)]
    error = y - (phi * loc).sum(1)
    variance = ((phi @ covariance) * phi).sum(1) + world.noise**2
    statistics += [error, error**2 / variance - 1]
    statistics += [error * x[:, j] for j in range(2)] + [(error**2 - variance) * x[:, j] for j in range(2)]
    statistics += [error * x[:, 0] * x[:, 1], error * x[:, 0] ** 2, error * x[:, 1] ** 2]
    z = [s.mean() / (s.std() / math.sqrt(tasks)) for s in statistics]
    assert len(z) == 19
    assert max(map(abs, z)) < 5.5


@checks("eq-transductive")
def test_transductive_posterior(rng: torch.Generator) -> None:
    # General S: the log joint density minus the log posterior does not depend on w.
    weights, inputs, rows, support = 3, 2, 7, 3
    mu, b = randn(rng, weights), randn(rng, inputs, weights)
    prior_precision = make(FullGaussian, rng, 1, 1).precision[0, 0]
    s = torch.tensor([[0.8, 0.3], [0.3, 0.6]], dtype=torch.float64)
    sigma, x, y = 0.6, randn(rng, rows, inputs), randn(rng, support)
    phi = torch.cat([x, torch.ones(rows, 1, dtype=torch.float64)], 1)[:support]
    look = b.T @ torch.linalg.inv(s)
    precision = prior_precision + rows * look @ b + phi.T @ phi / sigma**2
    shift = prior_precision @ mu + look @ x.sum(0) + phi.T @ y / sigma**2
    mvn = torch.distributions.MultivariateNormal
    w = randn(rng, 6, weights)
    joint = mvn(mu, precision_matrix=prior_precision).log_prob(w)
    joint = joint + mvn((w @ b.T)[:, None], s).log_prob(x).sum(1)
    joint = joint + torch.distributions.Normal(w @ phi.T, sigma).log_prob(y).sum(1)
    constant(joint - mvn(torch.linalg.solve(precision, shift), precision_matrix=precision).log_prob(w))
    # The package's own, where S is the identity.
    world = family()
    batch = world.sample(4).to(torch.float64)
    q = world.exact_posterior(batch, transductive=True)
    b, mu = torch.from_numpy(world.coupling), torch.from_numpy(world.loc)
    prior_precision = torch.linalg.inv(torch.from_numpy(world.scale_tril @ world.scale_tril.T))
    for t in range(4):
        phi = torch.cat([batch.support_x[t], torch.ones(3, 1, dtype=torch.float64)], 1)
        precision = prior_precision + 9 * b.T @ b + phi.T @ phi / world.noise**2
        seen = batch.support_x[t].sum(0) + batch.query_x[t].sum(0)
        shift = prior_precision @ mu + b.T @ seen + phi.T @ batch.support_y[t] / world.noise**2
        equal(q.precision[t, 0], precision)
        equal(q.loc[t, 0], torch.linalg.solve(precision, shift))


@checks("eq-transductive-predictive")
def test_transductive_predictive(rng: torch.Generator) -> None:
    world = family()
    batch = world.sample(3).to(torch.float64)
    q = world.exact_posterior(batch, transductive=True)
    points, weights = hermite(16, 3)
    root = torch.linalg.cholesky(q.covariance()[:, 0])
    w = q.loc[:, 0] + torch.einsum("tpr,nr->ntp", root, points)
    phi = torch.cat([batch.query_x, torch.ones(3, 6, 1, dtype=torch.float64)], -1)
    logp = torch.distributions.Normal(torch.einsum("tqp,ntp->ntq", phi, w), world.noise).log_prob(batch.query_y)
    wanted = -torch.logsumexp(logp + weights.log()[:, None, None], 0)
    equal(world.exact_nll(batch, transductive=True), wanted, atol=1e-4)
    var = torch.einsum("tqp,tpr,tqr->tq", phi, q.covariance()[:, 0], phi) + world.noise**2
    closed = torch.distributions.Normal(torch.einsum("tqp,tp->tq", phi, q.loc[:, 0]), var.sqrt())
    equal(world.exact_nll(batch, transductive=True), -closed.log_prob(batch.query_y))


@checks("eq-shift-exact")
def test_exact_move_of_the_mean() -> None:
    world = family()
    batch = world.sample(3).to(torch.float64)
    exact, start = (world.exact_posterior(batch, transductive=k) for k in (True, False))
    b = torch.from_numpy(world.coupling)
    x = torch.cat([batch.support_x, batch.query_x], 1)
    surprise = (x - start.loc @ b.T).sum(1) @ b
    equal(exact.loc - start.loc, exact.solve(surprise.unsqueeze(1)))


# All of them ------------------------------------------------------------------------------------------


def labels_of(text: str) -> list[str]:
    return re.findall(r"^\$\$ \(([\w-]+)\)$", text, re.M) + re.findall(r"^:label: ([\w-]+)$", text, re.M)


@pytest.fixture(autouse=True, scope="module")
def _pages() -> None:
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"{__package__}.{file.stem}")


def test_every_label_has_a_check_and_every_check_a_label() -> None:
    found = [label for page in sorted(THEORY.glob("*.md")) for label in labels_of(page.read_text(encoding="utf-8"))]
    assert len(found) == len(set(found))
    assert set(found) == set(CHECKS)
    for test in CHECKS.values():
        assert test.__name__.startswith("test_")
        assert test is vars(sys.modules[test.__module__])[test.__name__]


def test_checks_of_algebra_alone_are_checks_and_listed_once() -> None:
    """That each of them runs no line of the package, and every other one does, is found as it runs."""
    assert set(CHECKS) >= ALGEBRA
    assert len(ALGEBRA) == sum(len(labels.split()) for labels in REASONS.values())


def test_every_displayed_equation_has_a_label_and_every_reference_a_target() -> None:
    for page in sorted(THEORY.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.startswith("$$")]
        assert all(line == "$$" or re.fullmatch(r"\$\$ \([\w-]+\)", line) for line in lines), page
        assert lines.count("$$") == len(labels_of(text)), page
        assert set(re.findall(r"\{eq\}`([\w-]+)`", text)) <= set(CHECKS), page
        assert len(re.findall(r"\(eq-[\w-]+\)", text)) == len(labels_of(text)), page  # none in plain text
