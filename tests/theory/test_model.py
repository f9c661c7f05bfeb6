"""Numerical checks of theory/model.md: the model and its objectives."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from equations import checks
from pyro import poutine

from ebmeta import EmpiricalBayes, Objective
from ebmeta.likelihood import Categorical
from ebmeta.parts.gaussian import FullGaussian, Gaussian
from ebmeta.simulate.conjugate import log_evidence, posterior
from tests.theory.tools import (
    FAMILIES,
    classification,
    constant,
    dense,
    equal,
    hermite,
    jiggle,
    kl,
    make,
    normal,
    probabilities,
    query_terms,
    rand,
    randn,
    regression,
)


def regressor(rng: torch.Generator, beta: float = 0.3) -> EmpiricalBayes:
    model = EmpiricalBayes.regressor(num_features=2, num_steps=2, beta=beta).double()
    jiggle(model, rng)
    return model


@checks("eq-generative")
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_joint_density_is_prior_times_likelihood(kind: str, rng: torch.Generator) -> None:
    if kind == "classifier":
        model = EmpiricalBayes.classifier(num_features=4, synthetic_gradient="mixture").double()
        batch = classification(rng)
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
