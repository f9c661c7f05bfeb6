"""Numerical checks of theory/calibration.md.

Expectations are exact sums over small populations, or quadratures, so no check can fail by chance.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from equations import checks
from scipy import integrate, optimize, stats

from ebmeta.likelihood import Bernoulli, Categorical, Normal
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.prediction.calibration import bin_edges, bin_sums, brier_decomposition, calibration_error
from ebmeta.prediction.risk_coverage import area_under_risk_coverage, risk_coverage


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def close(got: object, wanted: object, tol: float = 1e-10) -> None:
    np.testing.assert_allclose(got, wanted, atol=tol, rtol=tol)


@checks("eq-proper-split")
def test_proper_scores_split(rng: np.random.Generator) -> None:
    predictions, truth = rng.dirichlet(np.ones(3), 6), rng.dirichlet(np.ones(3), 6)  # p, and the frequencies given p
    share = rng.dirichlet(np.ones(6))
    log_score = brier = 0.0
    for k, y in itertools.product(range(6), range(3)):
        mass = share[k] * truth[k, y]
        log_score -= mass * math.log(predictions[k, y])
        brier += mass * ((predictions[k] - np.eye(3)[y]) ** 2).sum()
    kl = stats.entropy(truth, predictions, axis=1)
    close(log_score, share @ (kl + stats.entropy(truth, axis=1)))
    close(brier, share @ (((predictions - truth) ** 2).sum(1) + (truth * (1 - truth)).sum(1)))
    # The package's parts, every probability in a bin of its own, and its score of labels.
    p = np.sort(predictions, axis=None)
    edges = np.r_[0.0, (p[1:] + p[:-1]) / 2, 1.0]
    parts = brier_decomposition(weighted_sums(predictions.ravel(), truth.ravel(), share.repeat(3), edges))
    close(parts["brier"], brier)
    close(parts["reliability"], share @ ((predictions - truth) ** 2).sum(1))
    close(parts["uncertainty"] - parts["resolution"], share @ (truth * (1 - truth)).sum(1))
    eta, every = torch.from_numpy(np.log(predictions))[None], torch.ones(1, 3, dtype=torch.bool)
    scores = [Categorical().log_prob(torch.full((1, 6), y), eta, every)[0].numpy() for y in range(3)]
    close(-share @ (truth * np.stack(scores, 1)).sum(1), log_score)


BETA, NOISE, SPREAD, PRIOR = 0.7, 1.3, 2.1, 0.4  # beta, sigma^2, s^2 and the precision of the prior


def spread_losses(v: float, beta: float, noise: float, spread: float, prior: float) -> tuple[float, float]:
    divergence = beta / 2 * (prior * v - math.log(v))
    gibbs = (spread + v) / (2 * noise) + divergence
    return gibbs, math.log(noise + v) / 2 + spread / (2 * (noise + v)) + divergence


def objectives(v: float, beta: float, noise: float, spread: float, prior: float) -> tuple[float, float]:
    """Return the package's Gibbs and predictive losses of a posterior, averaged over the label."""
    likelihood = Normal(1.0).double().requires_grad_(False)
    likelihood.log_noise.fill_(math.log(noise) / 2)
    loc = torch.full((1, 1, 1), 0.3, dtype=torch.float64)
    q, p = (FullGaussian(loc, torch.full((1, 1, 1, 1), k, dtype=torch.float64)) for k in (1 / v, prior))
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    y = torch.from_numpy(0.3 + math.sqrt(spread) * nodes)[None]
    eta, var = (t.expand(1, 20, 1) for t in q.marginal(torch.ones(1, 1, 1, dtype=torch.float64)))
    row = y, eta, var, torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.float64)
    scores = [
        float(f(*row)[0].numpy() @ weights / weights.sum())
        for f in (likelihood.expected_log_prob, likelihood.predictive_log_prob)
    ]
    divergence = beta * float(q.kl(p))
    return divergence - scores[0], divergence - scores[1]


def best_spread(kind: int, beta: float, noise: float, spread: float, prior: float) -> float:
    """Return the variance at which the package's loss is least."""

    def loss(log_v: float) -> float:
        return objectives(math.exp(log_v), beta, noise, spread, prior)[kind]

    return math.exp(optimize.minimize_scalar(loss, bounds=(-12, 5), method="bounded", options={"xatol": 1e-12}).x)


@checks("eq-spread")
def test_losses_of_a_spread() -> None:
    loc, gaps = 0.3, []
    for v in (0.2, 0.9, 2.5):
        q = stats.norm(loc, math.sqrt(v))
        predictive = stats.norm(loc, math.sqrt(NOISE + v))
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        weights = weights / weights.sum()
        y, w = loc + math.sqrt(SPREAD) * nodes, loc + math.sqrt(v) * nodes
        gibbs = -weights @ stats.norm(w, math.sqrt(NOISE)).logpdf(y[:, None]) @ weights
        mixture = -(weights @ predictive.logpdf(y))
        kl = integrate.quad(
            lambda z, q=q: q.pdf(z) * (q.logpdf(z) - stats.norm(loc, PRIOR**-0.5).logpdf(z)), loc - 15, loc + 15
        )[0]
        got = spread_losses(v, BETA, NOISE, SPREAD, PRIOR)
        own = objectives(v, BETA, NOISE, SPREAD, PRIOR)
        close(own, (gibbs + BETA * kl, mixture + BETA * kl), 1e-7)
        gaps.append((own[0] - got[0], own[1] - got[1]))
    close(np.ptp(gaps, axis=0), 0, 1e-7)  # up to a constant


@checks("eq-gibbs-spread")
def test_gibbs_spread() -> None:
    for beta in (0.1, 1.0, 3.0):
        close(best_spread(0, beta, NOISE, SPREAD, PRIOR), 1 / (PRIOR + 1 / (beta * NOISE)), 1e-5)
        close(best_spread(0, beta, NOISE, 9.0, PRIOR), 1 / (PRIOR + 1 / (beta * NOISE)), 1e-5)
    assert 1 / (PRIOR + 1 / (1e-6 * NOISE)) < 1e-5


@checks("eq-beta-star")
def test_beta_that_calibrates() -> None:
    def star(noise: float, spread: float, prior: float) -> float:
        return (spread - noise) / (noise * (1 - prior * (spread - noise)))

    beta = star(NOISE, SPREAD, PRIOR)
    close(NOISE + best_spread(0, beta, NOISE, SPREAD, PRIOR), SPREAD, 1e-5)
    assert (
        NOISE + best_spread(0, beta / 2, NOISE, SPREAD, PRIOR) < SPREAD < NOISE + 1 / (PRIOR + 1 / (2 * beta * NOISE))
    )
    # the numbers of the page
    close(star(1, 2, 0.5), 2)
    close(1 / (0.5 + 1 / (1.0 * 1)), 2 / 3)
    close(best_spread(0, 1.0, 1.0, 2.0, 0.5), 2 / 3, 1e-5)
    # too narrow a prior: however large beta is, the posterior is no wider than the prior
    assert all(1 + best_spread(0, beta, 1.0, 2.0, 1.5) < 2 for beta in (1.0, 10.0, 1e6))


@checks("eq-predictive-spread")
def test_predictive_spread() -> None:
    for beta in (0.1, 1.0, 3.0):
        v = best_spread(1, beta, NOISE, SPREAD, PRIOR)
        close((NOISE + v - SPREAD) / (NOISE + v) ** 2, beta * (1 / v - PRIOR), 1e-5)
        assert (NOISE + v > SPREAD) == (v < 1 / PRIOR)
    close(1 + best_spread(1, 1e-9, 1.0, 2.0, 0.5), 2, 1e-4)
    assert all(1 + best_spread(1, beta, 1.0, 2.0, 0.5) > 2.01 for beta in (0.1, 1.0))


def best_logit(belief: float, beta: float, prior: float, queries: int) -> float:
    """Return the logit at which the package's loss of queries with one belief is least, for a point posterior."""
    every, given = torch.ones(1, 1, dtype=torch.bool), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    share = np.array([1 - belief, belief])
    precision = torch.full((1, 1, 1, 1), prior, dtype=torch.float64)
    start = FullGaussian(torch.zeros(1, 1, 1, dtype=torch.float64), precision)

    def loss(m: float) -> float:
        q = FullGaussian(torch.full((1, 1, 1), m, dtype=torch.float64), precision)
        fit = Bernoulli().double().log_prob(given, torch.full((1, 2, 1), m, dtype=torch.float64), every)
        return -queries * float(fit[0].numpy() @ share) + beta * float(q.kl(start))

    return float(optimize.minimize_scalar(loss, options={"xtol": 1e-12}).x)


@checks("eq-beta-logit")
def test_divergence_pulls_a_logit() -> None:
    for belief, beta, prior, queries in ((0.8, 0.3, 2.0, 5), (0.1, 2.0, 0.7, 3)):
        m = best_logit(belief, beta, prior, queries)
        close(1 / (1 + math.exp(-m)), belief - beta * prior / queries * m, 1e-7)


@checks("eq-smoothing")
def test_divergence_as_smoothing_and_temperature() -> None:
    belief, pull = 0.8, 1 / (20 * math.log(3))  # the numbers of the page
    m = best_logit(belief, pull * 5 / 2, 2.0, 5)
    close(m, math.log(3), 1e-6)
    m, p = math.log(3), 3 / 4
    close(belief - pull * m, p)
    epsilon, temperature = pull * m / (belief - 0.5), math.log(belief / (1 - belief)) / m
    close((epsilon, temperature), (1 / 6, math.log(4) / math.log(3)))
    close((1 - epsilon) * belief + epsilon / 2, p)
    close(1 / (1 + math.exp(-math.log(belief / (1 - belief)) / temperature)), p)
    assert f"{temperature:.2f}" == "1.26"


def ragged_pairs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Binary forecasts of every (query, class) pair, their outcomes and weights, and the Brier score."""
    p, y, weight, brier = [], [], [], 0.0
    shapes = ((2, 7), (5, 4), (3, 9))
    for ways, queries in shapes:
        probs, label = rng.dirichlet(np.ones(ways), queries), rng.integers(ways, size=queries)
        hit = np.eye(ways)[label]
        brier += ((probs - hit) ** 2).sum(1).mean() / len(shapes)
        p, y = [*p, *probs.ravel()], [*y, *hit.ravel()]
        weight += [1 / (queries * len(shapes))] * probs.size
    return np.array(p), np.array(y), np.array(weight), brier


def weighted_sums(p: np.ndarray, y: np.ndarray, weight: np.ndarray, edges: np.ndarray) -> np.ndarray:
    rows = [w * bin_sums(a[None], b[None], edges)[0] for a, b, w in zip(p[:, None], y[:, None], weight, strict=True)]
    return np.sum([row.reshape(-1, 5) for row in rows], 0)


@checks("eq-brier-parts")
def test_parts_of_the_brier_score(rng: np.random.Generator) -> None:
    p, y, weight, brier = ragged_pairs(rng)
    edges = bin_edges(p, 4)
    parts = brier_decomposition(weighted_sums(p, y, weight, edges))
    index = np.minimum((p * 4).astype(int), 3)
    base = np.average(y, weights=weight)
    wanted = dict.fromkeys(("reliability", "resolution", "within_variance", "within_covariance"), 0.0)
    for b in range(4):
        pb, yb, wb = p[index == b], y[index == b], weight[index == b]
        mean, rate = np.average(pb, weights=wb), np.average(yb, weights=wb)
        wanted["reliability"] += wb.sum() * (mean - rate) ** 2
        wanted["resolution"] += wb.sum() * (rate - base) ** 2
        wanted["within_variance"] += (wb * (pb - mean) ** 2).sum()
        wanted["within_covariance"] += 2 * (wb * (pb - mean) * (yb - rate)).sum()
    wanted["uncertainty"] = weight.sum() * base * (1 - base)
    for name, value in wanted.items():
        close(parts[name], value)
    close(weight.sum(), (2 + 5 + 3) / 3)  # the mean number of ways
    total = wanted["reliability"] - wanted["resolution"] + wanted["uncertainty"]
    close(total + wanted["within_variance"] - wanted["within_covariance"], brier)


@checks("eq-generalized-resolution")
def test_three_parts_add_up(rng: np.random.Generator) -> None:
    p, y, weight, brier = ragged_pairs(rng)
    for bins in (1, 3, 15):
        parts = brier_decomposition(weighted_sums(p, y, weight, bin_edges(p, bins)))
        close(
            parts["generalized_resolution"],
            parts["resolution"] - parts["within_variance"] + parts["within_covariance"],
        )
        close(parts["reliability"] - parts["generalized_resolution"] + parts["uncertainty"], brier)
        close(parts["brier"], brier)
    # tasks of C ways: the uncertainty is 1 - 1/C, and a uniform guess has no other part
    guess, hit = np.full((1, 20), 0.2), np.eye(5)[[0, 2, 2, 4]].reshape(1, -1)
    parts = brier_decomposition(bin_sums(guess, hit, bin_edges(guess))[0] / 4)
    close([parts[k] for k in ("brier", "uncertainty", "reliability", "generalized_resolution")], [0.8, 0.8, 0, 0])


@checks("eq-ece-bias")
def test_bias_of_one_bin() -> None:
    for n, c in ((1, 0.3), (10, 0.5), (25, 0.93), (200, 0.61)):
        hits = np.arange(n + 1)
        mass = stats.binom.pmf(hits, n, c)
        wanted = mass @ np.abs(hits / n - c)
        k = math.floor(n * c) + 1
        close(2 * k / n * math.comb(n, k) * c**k * (1 - c) ** (n - k + 1), wanted)
        measured = [calibration_error(np.full(n, c), np.arange(n) < h) for h in hits]
        close(mass @ measured, wanted)
    assert math.sqrt(2 * 0.61 * 0.39 / (math.pi * 200)) / wanted == pytest.approx(1, abs=0.01)


@checks("eq-ece-floor")
def test_floor_of_the_calibration_error() -> None:
    counts, confidence = np.array([300, 500, 800]), np.array([0.42, 0.61, 0.93])
    exact = 0.0
    for n, c in zip(counts, confidence, strict=True):
        hits = np.arange(n + 1)
        exact += n / counts.sum() * (stats.binom.pmf(hits, n, c) @ np.abs(hits / n - c))
    floor = (counts / counts.sum() * np.sqrt(2 * confidence * (1 - confidence) / (math.pi * counts))).sum()
    bound = math.sqrt(3 / (2 * math.pi * counts.sum()))
    assert floor == pytest.approx(exact, rel=0.01)
    assert floor < bound
    # The package's error of simulated outcomes, bins of a single confidence each: 5 standard errors of 2,000.
    rng, p = np.random.default_rng(0), np.repeat(confidence, counts)
    found = [calibration_error(p, rng.uniform(size=len(p)) < p, bins=50) for _ in range(2000)]
    assert abs(np.mean(found) - exact) < 5 * np.std(found) / math.sqrt(2000)
    even = np.full(3, 500)
    close((even / 1500 * np.sqrt(2 * 0.25 / (math.pi * even))).sum(), math.sqrt(3 / (2 * math.pi * 1500)))


def equicorrelated(queries: int, rate: float, rho: float) -> list[tuple[tuple[int, ...], float]]:
    """All outcomes of a task: with probability rho one draw for all queries, else independent draws."""
    out = []
    for y in itertools.product((0, 1), repeat=queries):
        free = math.prod(rate if v else 1 - rate for v in y)
        shared = rate if all(y) else (1 - rate if not any(y) else 0.0)
        out.append((y, (1 - rho) * free + rho * shared))
    return out


@checks("eq-design-effect")
def test_design_effect() -> None:
    queries, rate, rho, tasks = 4, 0.7, 0.3, 10
    outcomes = equicorrelated(queries, rate, rho)
    mean = sum(mass * sum(y) for y, mass in outcomes)
    variance = sum(mass * (sum(y) - mean) ** 2 for y, mass in outcomes)
    pair = sum(mass * y[0] * y[1] for y, mass in outcomes) - rate**2
    close(pair / (rate * (1 - rate)), rho)
    n = tasks * queries
    of_the_mean = tasks * variance / n**2
    close(of_the_mean, rate * (1 - rate) / (n / (1 + (queries - 1) * rho)))
    # Tasks with 2, 5 and 9 queries in a bin, 20 of each, whatever they have elsewhere: the law of the number of hits.
    sizes, law = [2, 5, 9] * 20, np.ones(1)
    for size in sizes:
        k = np.arange(size + 1)
        task = (1 - rho) * stats.binom.pmf(k, size, rate) + rho * (rate * (k == size) + (1 - rate) * (k == 0))
        law = np.convolve(law, task)
    n, hits = sum(sizes), np.arange(sum(sizes) + 1)
    effective = n / (1 + (sum(s * s for s in sizes) / n - 1) * rho)
    close(law @ (hits / n - rate) ** 2, rate * (1 - rate) / effective)
    error = law @ [calibration_error(np.full(n, rate), np.arange(n) < h) for h in hits]
    assert error == pytest.approx(math.sqrt(2 * rate * (1 - rate) / (math.pi * effective)), rel=0.01)


@checks("eq-aurc")
def test_area_under_the_risk_coverage_curve(rng: np.random.Generator) -> None:
    confidence, correct = rng.permutation(np.linspace(0.2, 1.0, 12)), rng.uniform(size=12) < 0.6
    errors = 1.0 - correct[np.argsort(-confidence)]
    curve = [errors[:k].mean() for k in range(1, 13)]
    close(risk_coverage(confidence, correct), curve)
    close(area_under_risk_coverage(confidence, correct).value, np.mean(curve))
    tails = np.array([sum(1 / k for k in range(j, 13)) for j in range(1, 13)])
    close(errors @ tails / 12, np.mean(curve))
