"""Numerical checks of theory/simulation_calibration.md."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import xarray as xr
from equations import checks
from scipy import integrate, special, stats

from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.diagnostics import simulation_based_calibration
from ebmeta.diagnostics.simulation import Posterior
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.prediction import uniformity
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

PRIOR = np.array([0.2, 0.5, 0.3])  # of w = 0, 1, 2
LIKELIHOOD = np.array([[0.8, 0.15, 0.05], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]])  # p(y | w), rows w
JOINT = PRIOR[:, None] * LIKELIHOOD
POSTERIOR = JOINT / JOINT.sum(0)  # p(w | y), columns y
QUANTITIES = {
    "weight": lambda w, y: w,
    "folded": lambda w, y: abs(w - 1),  # has ties
    "likelihood": lambda w, y: LIKELIHOOD[w, y],
}


def law(q: np.ndarray, f, points: np.ndarray) -> np.ndarray:
    """Return the distribution function of u exactly, for a posterior `q` (columns y) and a quantity."""
    out = np.zeros_like(points)
    for w, y in itertools.product(range(3), range(3)):
        below = sum(q[v, y] for v in range(3) if f(v, y) < f(w, y))
        equal = sum(q[v, y] for v in range(3) if f(v, y) == f(w, y))
        out += JOINT[w, y] * np.clip((points - below) / equal, 0, 1)
    return out


TASKS = LinearGaussianTasks(np.zeros(3), np.eye(3), seed=5)  # what an untrained regressor of two features is made for


def numbers(posterior: Posterior | None = None, num_tasks: int = 2000, num_draws: int = 2) -> xr.DataArray:
    """Return the package's values of u."""
    model = EmpiricalBayes.regressor(2, num_steps=0, standardize=False).double()
    return simulation_based_calibration(
        model, simulator=TASKS.simulate, posterior=posterior, num_tasks=num_tasks, num_draws=num_draws
    ).pit


def exact(batch: TaskBatch) -> FullGaussian:
    return TASKS.exact_posterior(batch, transductive=False)


def looks_uniform(u: np.ndarray) -> bool:
    """Refuse one sample of uniform numbers in a million."""
    return bool(stats.kstest(u, "uniform").pvalue > 1e-6)


@checks("eq-sbc-exchange")
def test_truth_and_draw_are_exchangeable() -> None:
    pair = np.einsum("y,wy,vy->wvy", JOINT.sum(0), POSTERIOR, POSTERIOR)
    np.testing.assert_allclose(pair, pair.transpose(1, 0, 2))
    np.testing.assert_allclose(pair.sum(1), JOINT)  # the truth and its data have the law of the simulation


@checks("eq-sbc-uniform")
def test_the_randomised_probability_is_uniform_for_every_quantity() -> None:
    points = np.linspace(0, 1, 41)
    for f in QUANTITIES.values():
        np.testing.assert_allclose(law(POSTERIOR, f, points), points, atol=1e-12)
    other = np.tile(np.array([0.3, 0.4, 0.3])[:, None], 3)
    assert np.abs(law(other, QUANTITIES["weight"], points) - points).max() > 0.01
    found = numbers(exact)
    assert all(looks_uniform(found.sel(quantity=name).values) for name in ("weight 0", "predictor", "region", "label"))


@checks("eq-sbc-rank")
def test_randomised_ranks_are_uniform_for_any_number_of_draws() -> None:
    points, draws = np.linspace(0, 1, 41), 3
    for f in QUANTITIES.values():
        total = np.zeros_like(points)
        for w, y, *rest in itertools.product(range(3), repeat=2 + draws):
            weight = JOINT[w, y] * math.prod(POSTERIOR[v, y] for v in rest)
            below, ties = (sum(g(f(v, y), f(w, y)) for v in rest) for g in (lambda a, b: a < b, lambda a, b: a == b))
            total += weight * np.clip((points * (draws + 1) - below) / (ties + 1), 0, 1)
        np.testing.assert_allclose(total, points, atol=1e-12)
    found = numbers(exact, num_tasks=4000, num_draws=4)  # at so few draws no other rank than this one is uniform
    assert all(looks_uniform(found.sel(quantity=name).values) for name in ("log likelihood", "surprise"))


@checks("eq-sbc-blind")
def test_the_average_posterior_is_the_prior() -> None:
    np.testing.assert_allclose(POSTERIOR @ JOINT.sum(0), PRIOR)
    points, prior = np.linspace(0, 1, 2001), np.tile(PRIOR[:, None], 3)
    np.testing.assert_allclose(law(prior, QUANTITIES["weight"], points), points, atol=1e-12)
    mean = 1 - integrate.trapezoid(law(prior, QUANTITIES["likelihood"], points), points)
    assert mean > 0.6  # the truth fits its data better than draws of the prior do
    prior_of = EmpiricalBayes.regressor(2, num_steps=0, standardize=False).double().prior_of
    found = numbers(prior_of, num_draws=20)
    assert all(looks_uniform(found.sel(quantity=name).values) for name in ("weight 0", "weight 2", "sum of weights"))
    assert found.sel(quantity="log likelihood").mean() > 0.6


@checks("eq-sbc-gaussian")
def test_linear_quantities_of_a_gaussian() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    precision, m, w, a = root @ root.T + np.eye(3), rng.normal(size=3), rng.normal(size=3), rng.normal(size=3)
    q = FullGaussian(torch.from_numpy(m)[None, None], torch.from_numpy(precision)[None, None])
    loc, var = q.marginal(torch.from_numpy(a)[None, None])
    u = stats.norm.cdf((a @ w - a @ m) / math.sqrt(a @ np.linalg.solve(precision, a)))
    assert float(special.ndtr((a @ w - loc.item()) / math.sqrt(var.item()))) == pytest.approx(u, abs=1e-12)
    draws = rng.multivariate_normal(m, np.linalg.inv(precision), 200_000) @ a
    assert abs((draws < a @ w).mean() - u) < 5 * math.sqrt(0.25 / 200_000)  # 5 sigma


@checks("eq-sbc-region")
def test_the_mass_inside_the_truth() -> None:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(3, 3))
    precision, off = root @ root.T + np.eye(3), rng.normal(size=3) / 2
    u = stats.chi2.cdf(off @ precision @ off, 3)
    q = stats.multivariate_normal(np.zeros(3), np.linalg.inv(precision))
    denser = q.logpdf(q.rvs(200_000, random_state=2)) > q.logpdf(off)
    assert abs(denser.mean() - u) < 5 * math.sqrt(0.25 / 200_000)  # 5 sigma
    batch, weights = TASKS.simulate(20, 0)
    q = exact(batch)
    for t, value in enumerate(numbers(exact, num_tasks=20).sel(quantity="region").values):
        off = (weights[t, 0] - q.loc[t, 0]).numpy()
        assert value == pytest.approx(stats.chi2.cdf(off @ q.precision[t, 0].numpy() @ off, 3), abs=1e-9)


@checks("eq-sbc-shape")
def test_mean_and_spread_of_a_wrong_scale_or_location() -> None:
    for s in (0.5, 0.8, 1.0, 2.0):
        spread, _ = integrate.quad(lambda z, s=s: (stats.norm.cdf(z / s) - 0.5) ** 2 * stats.norm.pdf(z), -12, 12)
        assert spread == pytest.approx(math.asin(1 / (1 + s**2)) / (2 * math.pi), abs=1e-9)
    assert math.asin(1 / 2) / (2 * math.pi) == pytest.approx(1 / 12)
    for d in (-0.3, 1.0):
        mean, _ = integrate.quad(lambda z, d=d: stats.norm.cdf(z + d) * stats.norm.pdf(z), -12, 12)
        assert mean == pytest.approx(stats.norm.cdf(d / math.sqrt(2)), abs=1e-9)
    # The package's values for posteriors that are too narrow, too wide and shifted; 5 standard errors each.
    for s, d in ((0.5, 0.0), (2.0, 0.0), (1.0, 0.7)):

        def wrong(batch: TaskBatch, s: float = s, d: float = d) -> FullGaussian:
            q = exact(batch)
            return q.with_(q.loc - d * q.scale, q.precision / s**2)

        u = numbers(wrong).sel(quantity="weight 1").values
        values = (u - 0.5) ** 2 if d == 0 else u
        wanted = math.asin(1 / (1 + s**2)) / (2 * math.pi) if d == 0 else stats.norm.cdf(d / math.sqrt(2))
        assert abs(values.mean() - wanted) < 5 * values.std() / math.sqrt(len(u))


@checks("eq-sbc-peek")
def test_a_label_that_was_seen_is_predicted_too_well() -> None:
    family = LinearGaussianTasks(np.zeros(2), np.diag([1.0, 0.7]), 0.6, n_support=2, n_query=1, seed=0)
    one = family.sample(1).to(torch.float64)
    batch = one[torch.zeros(40_000, dtype=torch.long)]
    x = torch.nn.functional.pad(one.query_x, (0, 1), value=1.0)
    loc, var = (v[:, 0, 0] for v in family.exact_posterior(one, transductive=False).marginal(x))
    label = loc + (var + 0.36).sqrt() * torch.randn(40_000, generator=torch.Generator().manual_seed(0)).double()
    seen = family.exact_posterior(
        type(batch)(batch.support_x, batch.support_y, batch.query_x, label[:, None]).pooled(), transductive=False
    )
    after, left = (v[:, 0, 0] for v in seen.marginal(x.expand(40_000, -1, -1)))
    ratio = float((label - after).square().mean() / (left[0] + 0.36))
    exact = 0.36 / (0.36 + 2 * float(var))
    assert abs(ratio / exact - 1) < 5 * math.sqrt(2 / 40_000)  # 5 sigma


@checks("eq-sbc-statistic")
def test_the_statistic_is_the_least_tail_probability() -> None:
    u = np.random.default_rng(3).random(25)
    least = 1.0
    for k in range(1, 25):
        count = int((u <= k / 25).sum())
        b = stats.binom(25, k / 25)
        least = min(least, 2 * b.cdf(count), 2 * b.sf(count - 1))
    assert uniformity.least_tail(u) == pytest.approx(least, rel=1e-12)


@checks("eq-sbc-chain")
def test_the_recursion_is_the_sum_over_all_counts() -> None:
    """Every one of the 5^5 ways that five values can fall into five cells."""
    n = 5
    points = np.arange(1, n) / n
    statistics = []
    for cells in itertools.product(range(n), repeat=n):
        counts = np.array([sum(c < k for c in cells) for k in range(1, n)])
        lower, upper = stats.binom.cdf(counts, n, points), stats.binom.sf(counts - 1, n, points)
        statistics.append(2 * min(lower.min(), upper.min()))
    for g in (0.005, 0.05, 0.2, 0.5, 0.9):
        share = np.mean(np.array(statistics) <= g)
        assert uniformity._probability(n, g) == pytest.approx(max(share, uniformity.LEAST), abs=1e-12)
