"""Numerical checks of theory/synthetic_gradient.md: synthetic gradients and the refinement step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import torch
from equations import checks
from torch import Tensor, nn

from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.likelihood import Bernoulli, Categorical, Likelihood, NegativeBinomial, Poisson
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from ebmeta.prediction.calibration import bin_sums, brier_decomposition
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.exchangeable import ExchangeableLinear, Table
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient
from ebmeta.refine.state import QueryState, Setting
from ebmeta.simulate.conjugate import posterior
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from tests.theory.tools import (
    FAMILIES,
    Believer,
    Fixed,
    all_ways,
    classification,
    conjugate_case,
    dense,
    equal,
    hermite,
    jiggle,
    make,
    normal,
    probabilities,
    query_terms,
    randn,
    refiner,
    regression,
)


class Inputs(Fixed):
    """The same, with a given score and information of the inputs."""

    reads_inputs = True

    def __init__(self, xi: Tensor, score: Tensor, information: Tensor) -> None:
        super().__init__(xi)
        self.score, self.information = score, information

    def inputs(self, state: QueryState) -> tuple[Tensor, Tensor]:
        return self.score, self.information


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
    u, _ = layer(Table.of_cells(h.transpose(1, 2).contiguous()), *weights)
    real = h[0, :queries, :classes]
    for i, c in itertools.product(range(queries), range(classes)):
        wanted = layer.cell.weight @ real[i, c] + layer.cell.bias + layer.by_class.weight @ real[:, c].mean(0)
        wanted = wanted + layer.by_query.weight @ real[i].mean(0) + layer.overall.weight @ real.mean((0, 1))
        equal(u[0, c, i], wanted)
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
