"""Numerical checks of theory/target.md: what refinement aims at."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from equations import checks
from torch import Tensor

from ebmeta import TaskBatch
from ebmeta.likelihood import Categorical
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian, Gaussian
from ebmeta.refine.state import Setting
from ebmeta.simulate.conjugate import posterior
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from tests.theory.tools import (
    Believer,
    Fixed,
    all_ways,
    conjugate_case,
    constant,
    equal,
    given,
    hermite,
    kl,
    make,
    normal,
    probabilities,
    query_terms,
    rand,
    randn,
    refiner,
)


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
