"""Numerical checks of theory/information_bottleneck.md.

Information is summed exactly in a small world: a task decides the law of its rows, a row is one of four pairs of bits,
a task has two support rows and one query, and the weights take three values. Nothing here is random but the tables,
which are fixed by seeds; the posterior is made to overfit, so that the gaps are not zero.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property

import numpy as np
import pytest
import torch
import xarray as xr
from builders import class_tasks, classifier
from equations import checks
from scipy import integrate, stats
from torch.nn import functional

from ebmeta import EmpiricalBayes
from ebmeta.diagnostics import generalization_gap, linear_gaussian_information
from ebmeta.diagnostics.bottleneck import contrastive
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

SUPPORT, QUERIES = 2, 1
TASK, Z1, Z2, X, Y, W = range(6)  # axes of the joint table
SEEDS = pytest.mark.parametrize("seed", range(8))


class World:
    """The joint law of task, two support rows, query input, query label and weights, as one table.

    Args:
        seed: of the tables.
        share: weight of the prior in the posterior, which else looks at its rows.
        bounded: whether the loss is scaled to [0, 1].
    """

    def __init__(self, seed: int, share: float = 0.0, *, bounded: bool = False) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.dirichlet(np.full(4, 0.5), 2)  # P(z | task), z = 2 x + y
        self.rows, self.loss = rows, rng.gamma(0.7, size=(3, 4))
        self.loss /= self.loss.max() if bounded else 1.0
        self.prior = rng.dirichlet(np.ones(3))
        by_input = self.loss.reshape(3, 2, 2).min(-1)  # what the posterior can fit of an unlabelled input
        fit = self.loss[:, :, None, None] + self.loss[:, None, :, None] + by_input[:, None, None, :]
        q = self.prior[:, None, None, None] * np.exp(-rng.uniform(1, 4) * fit)
        self.q = (1 - share) * np.moveaxis(q / q.sum(0), 0, -1) + share * self.prior  # q(w | z1, z2, x)
        task = np.array([0.4, 0.6])
        pairs = rows.reshape(2, 2, 2)
        self.joint = np.einsum("t,ta,tb,txy,abxw->tabxyw", task, rows, rows, pairs, self.q)

    def marginal(self, *axes: int) -> np.ndarray:
        rest = tuple(a for a in range(6) if a not in axes)
        return self.joint.sum(rest, keepdims=True)

    def information(self, a: tuple[int, ...], b: tuple[int, ...], given: tuple[int, ...] = ()) -> float:
        """I(a; b | given) in nats."""
        tables = [self.marginal(*a, *b, *given), self.marginal(*given)]
        tables += [self.marginal(*a, *given), self.marginal(*b, *given)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(tables[0] * tables[1] / (tables[2] * tables[3]))
        return float(np.nansum(tables[0] * ratio))

    @cached_property
    def rate(self) -> float:
        d = self.joint.sum((TASK, Y, W))
        return float(np.einsum("abx,abxw,abxw->", d, self.q, np.log(self.q / self.prior)))

    @cached_property
    def weights(self) -> np.ndarray:
        """P(w | task)."""
        w = self.joint.sum((Z1, Z2, X, Y))
        return w / w.sum(1, keepdims=True)

    def apart(self, power: int = 1) -> np.ndarray:
        """Mean of a power of the loss for each task, weights and row drawn apart."""
        return np.einsum("tw,tz,wz->t", self.weights, self.rows, self.loss**power)

    @cached_property
    def task(self) -> np.ndarray:
        return self.marginal(TASK).ravel()

    def seen(self, row: int) -> np.ndarray:
        """Mean loss of weights on a support row (Z1, Z2), or on the query (X), for each task."""
        kept = (TASK, row, Y, W) if row == X else (TASK, row, W)
        table = self.marginal(*kept).reshape(2, 4, 3) / self.task[:, None, None]
        return np.einsum("tzw,wz->t", table, self.loss)

    @property
    def gaps(self) -> tuple[float, float]:
        risk = self.apart()
        support = risk - (self.seen(Z1) + self.seen(Z2)) / SUPPORT
        return float(self.task @ support), float(self.task @ (risk - self.seen(X)))

    @property
    def proxy(self) -> float:
        return float(self.task @ self.apart(2))


def test_the_worlds_have_gaps_to_bound() -> None:
    gaps = np.array([World(seed).gaps for seed in range(8)])
    assert (gaps[:, 0] > 0.005).all()
    assert gaps[:, 0].max() > 0.1
    assert gaps[:, 1].max() > 0.02


@checks("eq-risks")
@SEEDS
def test_gaps_are_differences_of_mean_losses(seed: int) -> None:
    world = World(seed)
    gaps = np.zeros(2)
    for index, mass in np.ndenumerate(world.joint):
        task, one, two, x, y, w = index
        risk = world.rows[task] @ world.loss[w]
        gaps += mass * np.array([risk - world.loss[w, [one, two]].mean(), risk - world.loss[w, 2 * x + y]])
    np.testing.assert_allclose(gaps, world.gaps, atol=1e-12)


@checks("eq-task-information")
@SEEDS
def test_information_is_about_the_task_or_about_its_rows(seed: int) -> None:
    world = World(seed)
    d, w = (Z1, Z2, X), (W,)
    total = world.information(w, d)
    parts = world.information(w, (TASK,)), world.information(w, d, (TASK,))
    assert total == pytest.approx(sum(parts), abs=1e-12)
    assert min(parts) > 1e-3
    assert total < world.rate


@checks("eq-split-information")
@SEEDS
def test_rows_share_the_information(seed: int) -> None:
    world = World(seed)
    w, t = (W,), (TASK,)
    labelled, inputs = world.information(w, (Z1, Z2), t), world.information(w, (X,), t)
    assert labelled + inputs <= world.information(w, (Z1, Z2, X), t) + 1e-12
    assert world.information(w, (Z1,), t) + world.information(w, (Z2,), t) <= labelled + 1e-12
    assert world.information((Z1, Z2), (X, Y), t) == pytest.approx(0, abs=1e-12)
    assert world.information((Z1, Z2), (X, Y)) > 1e-3  # without the task, rows are not independent


@checks("eq-blind")
@SEEDS
def test_query_labels_add_nothing(seed: int) -> None:
    world = World(seed)
    both = world.information((W,), (X, Y), (TASK,))
    assert both == pytest.approx(world.information((W,), (X,), (TASK,)), abs=1e-12)
    assert both > 1e-4
    assert world.information((W,), (X, Y)) > both  # without the task they do: w and y are both about it


@checks("eq-contrastive")
@SEEDS
def test_averages_over_tasks_enclose_the_information(seed: int) -> None:
    world = World(seed)
    exact = world.information((W,), (Z1, Z2, X))
    p, q = world.joint.sum((TASK, Y, W)).ravel(), world.q.reshape(-1, 3)
    for num in (2, 3):
        lower = upper = 0.0
        grid = np.array(np.meshgrid(*[np.arange(len(p))] * num, indexing="ij")).reshape(num, -1)
        mass = p[grid].prod(0)
        own, others = q[grid[0]], q[grid[1:]].mean(0)
        mean = (own + (num - 1) * others) / num
        lower = float((mass[:, None] * own * np.log(own / mean)).sum())
        upper = float((mass[:, None] * own * np.log(own / others)).sum())
        assert 0 < lower < exact < upper
        assert lower < math.log(num)
    two_posteriors(seed)


def two_posteriors(seed: int) -> None:
    """Average the package's terms for two posteriors of one weight, against integrals; 5 standard errors each."""
    loc, scale = np.array([-0.4, 0.9]), np.array([0.8, 1.1])
    grid = np.linspace(-8, 8, 4001)
    q, prior = stats.norm(loc[:, None], scale[:, None]).pdf(grid), stats.norm(0, 1.5).pdf(grid)
    step, average = grid[1] - grid[0], q.mean(0)
    wanted = [(q * np.log(q / other)).sum() * step / 2 for other in (prior, average, q[::-1])]
    generator = torch.Generator().manual_seed(seed)
    made = FullGaussian(torch.from_numpy(loc)[:, None, None], torch.from_numpy(scale**-2)[:, None, None, None])
    base = FullGaussian(torch.zeros(2, 1, 1).double(), torch.full((2, 1, 1, 1), 1.5**-2).double())
    found = [[float(term.mean()) for term in contrastive(made, base, generator)] for _ in range(500)]
    error = np.std(found, axis=0) / math.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - wanted) < 5 * error + 1e-6).all()


@checks("eq-donsker")
def test_the_divergence_is_a_supremum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p, other, f = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5)), 3 * rng.standard_normal(5)
        divergence = float(p @ np.log(p / other))
        best = np.log(p / other)
        assert p @ f - np.log(other @ np.exp(f)) <= divergence + 1e-12
        assert p @ best - np.log(other @ np.exp(best)) == pytest.approx(divergence, abs=1e-12)


@checks("eq-decouple")
@SEEDS
def test_one_row_costs_no_more_than_its_information_allows(seed: int) -> None:
    world = World(seed)
    for row in (Z1, Z2):
        for t in range(2):
            table = world.marginal(TASK, row, W).reshape(2, 4, 3)[t] / world.task[t]
            product = table.sum(1, keepdims=True) * table.sum(0)
            information = float((table * np.log(table / product)).sum())
            contribution = world.apart()[t] - world.seen(row)[t]
            assert 0 < contribution <= math.sqrt(2 * world.apart(2)[t] * information)


@checks("eq-support-gap")
@SEEDS
def test_the_gap_on_the_support_set_is_bounded(seed: int) -> None:
    world = World(seed)
    gap = world.gaps[0]
    by_row = 0.0
    for t in range(2):
        for row in (Z1, Z2):
            table = world.marginal(TASK, row, W).reshape(2, 4, 3)[t] / world.task[t]
            information = float((table * np.log(table / (table.sum(1, keepdims=True) * table.sum(0)))).sum())
            by_row += world.task[t] * math.sqrt(2 * world.apart(2)[t] * information) / SUPPORT
    labelled = world.information((W,), (Z1, Z2), (TASK,))
    chain = [gap, by_row, math.sqrt(2 * world.proxy / SUPPORT * labelled)]
    chain += [math.sqrt(2 * world.proxy / SUPPORT * world.rate)]
    assert all(a < b for a, b in itertools.pairwise(chain))
    bounds_of_the_library("support")


def bounds_of_the_library(rows: str) -> None:
    """Compare the bound by the rate, for a loss with the proxy 1/4, and 2 or 3 rows of either kind."""
    model, batch = classifier(num_steps=0), class_tasks((2, 3), (1, 1), (4, 6))
    with torch.no_grad():
        q, prior = model.posterior(batch)[0], model.prior_of(batch)
    rate = 0.0
    for t, c in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        own, start = (
            torch.distributions.Normal(g.loc[t, c], g.precision[t, c].rsqrt().expand_as(g.loc[t, c]))
            for g in (q, prior)
        )
        rate += torch.distributions.kl_divergence(own, start).sum().item() / 2
    found = measured_gap("error").sel(rows=rows).isel(step=0)
    assert float(found["bound_rate"]) == pytest.approx(math.sqrt(2 / 4 * (1 / 2 + 1 / 3) / 2 * rate), rel=1e-6)


@checks("eq-query-gap")
@SEEDS
def test_the_gap_on_the_queries_is_bounded_by_what_their_inputs_said(seed: int) -> None:
    world = World(seed)
    inputs = world.information((W,), (X,), (TASK,))
    assert world.gaps[1] <= math.sqrt(2 * world.proxy / QUERIES * inputs)
    blind = World(seed)
    q = blind.q.mean(2, keepdims=True)
    blind.joint = np.einsum("tabxy,abxw->tabxyw", blind.joint.sum(W), np.broadcast_to(q, blind.q.shape))
    assert blind.gaps[1] == pytest.approx(0, abs=1e-12)  # w does not look at the query
    bounds_of_the_library("query")


@checks("eq-budget")
@SEEDS
def test_both_gaps_are_paid_from_one_purse(seed: int) -> None:
    world = World(seed)
    spent = sum(n * max(g, 0) ** 2 / (2 * world.proxy) for n, g in zip((SUPPORT, QUERIES), world.gaps, strict=True))
    d = (Z1, Z2, X)
    chain = [spent, world.information((W,), d, (TASK,)), world.information((W,), d), world.rate]
    assert all(a < b for a, b in itertools.pairwise(chain))


@checks("eq-priced-risk")
@SEEDS
def test_priced_information_bounds_the_risk(seed: int) -> None:
    world = World(seed)
    risk = float(world.task @ world.apart())
    seen = risk - world.gaps[0]
    for beta in np.geomspace(0.01, 100, 40):
        assert risk <= seen + beta / SUPPORT * world.rate + world.proxy / (2 * beta)
    bounded = World(seed, bounded=True)  # a loss in [0, 1] has the proxy 1/4, whatever the posterior
    for beta in np.geomspace(0.01, 100, 40):
        assert bounded.gaps[0] <= beta / SUPPORT * bounded.rate + 1 / (8 * beta)


def test_the_least_priced_risk_is_not_the_least_bound() -> None:
    """The proxy of a loss without an upper end differs between posteriors: here, mixtures with the prior."""
    excess = []
    for seed in range(8):
        mixed = [World(seed, share) for share in np.linspace(0, 1, 101)]
        terms = np.array([float(m.task @ m.apart()) - m.gaps[0] + m.rate / SUPPORT for m in mixed])
        bounds = terms + np.array([m.proxy for m in mixed]) / 2
        excess.append(bounds[terms.argmin()] - bounds.min())
    assert min(excess) >= 0
    assert sum(e > 1e-3 for e in excess) >= 2


def measured_gap(loss: str, num_draws: int = 4) -> xr.Dataset:
    """Return the library's gap of an untrained classifier on two tasks: support rows 2 and 3, queries 4 and 6."""
    batch = class_tasks((2, 3), (1, 1), (4, 6))
    return generalization_gap(classifier(num_steps=0), batch, loss=loss, num_draws=num_draws)


def lower_tail(loss: np.ndarray, mass: np.ndarray, rate: float) -> float:
    return float(np.log(mass @ np.exp(-rate * (loss - mass @ loss))))


@checks("eq-hoeffding")
def test_a_bounded_loss_has_two_light_tails() -> None:
    for mass in np.linspace(0.01, 0.99, 25):
        for rate in np.linspace(-8, 8, 41):
            law = np.array([1 - mass, mass])
            assert lower_tail(np.array([-1.0, 2.0]), law, rate) <= rate**2 * 9 / 8 + 1e-12
    assert lower_tail(np.array([-1.0, 2.0]), np.array([0.5, 0.5]), 0.01) == pytest.approx(0.01**2 * 9 / 8, rel=1e-3)
    found = measured_gap("error")  # in [0, 1], per support row and per query seen
    np.testing.assert_allclose(found["proxy_per_row"].isel(step=0), [(1 / 2 + 1 / 3) / 8, (1 / 2 + 1 / 3) / 8])


@checks("eq-second-moment")
def test_a_loss_above_zero_has_a_light_lower_tail() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        loss, mass = rng.pareto(1.5, 6), rng.dirichlet(np.ones(6))
        for rate in np.geomspace(0.01, 30, 20):
            assert lower_tail(loss, mass, rate) <= rate**2 / 2 * (mass @ loss**2)
    # The library's proxy of a normal label's loss, on queries 1, 3, ...; 100,000 draws are good to some per cent.
    tasks = LinearGaussianTasks(np.zeros(3), np.eye(3), noise=0.7, n_support=2, n_query=4)
    model = EmpiricalBayes.regressor(2, num_steps=0, standardize=False).double()
    model.likelihood.log_noise.data.fill_(math.log(0.7))
    batch = tasks.sample(2).to(torch.float64)
    found = generalization_gap(model, batch, num_draws=100_000)["proxy_per_row"].isel(step=0)
    phi = functional.pad(batch.query_x[:, 1::2], (0, 1), value=1.0)
    loc, var = (v[..., 0].numpy() for v in tasks.exact_posterior(batch, transductive=False).marginal(phi))
    off, sigma = batch.query_y[:, 1::2].numpy() - loc, 0.7
    fourth = (off**4 + 6 * off**2 * var + 3 * var**2) / (4 * sigma**4)  # of a normal residual, halved and squared
    np.testing.assert_allclose(found, [fourth.mean() / 2, fourth.mean() / 2], rtol=0.05)
    low = np.array([-3.0, 0.1])  # below zero it may fail
    assert lower_tail(low, np.array([0.01, 0.99]), 2.0) > 2.0 * (np.array([0.01, 0.99]) @ low**2)


@checks("eq-gaussian-tail")
@pytest.mark.parametrize(("bias", "spread", "sigma"), [(0.0, 1.0, 1.0), (1.5, 0.7, 0.5), (-3.0, 2.0, 1.3)])
def test_a_gaussian_residual_has_its_variance_for_a_proxy(bias: float, spread: float, sigma: float) -> None:
    def average(f) -> float:
        low, high = bias - 12 * spread, bias + 12 * spread
        return integrate.quad(lambda e: f(e * e / (2 * sigma**2)) * stats.norm.pdf(e, bias, spread), low, high)[0]

    mean = average(lambda v: v)
    variance = average(lambda v: v * v) - mean**2
    assert variance == pytest.approx((spread**4 + 2 * bias**2 * spread**2) / (2 * sigma**4), rel=1e-7)
    for rate in (0.01, 0.1, 1.0, 5.0):
        ratio = rate * spread**2 / sigma**2
        formula = -math.log1p(ratio) / 2 - rate * bias**2 / (2 * (sigma**2 + rate * spread**2))
        assert formula == pytest.approx(math.log(average(lambda v, r=rate: math.exp(-r * v))), abs=1e-7)
        assert formula + rate * mean <= rate**2 * variance / 2


# The linear-Gaussian family, given the inputs ------------------------------------------------------------


class Given:
    """One task's inputs, and the covariances that follow from them, by brute force."""

    def __init__(self, n_support: int = 4, noise: float = 0.6, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        half = np.array([[0.8, 0.0, 0.0], [0.3, 0.6, 0.0], [-0.2, 0.1, 0.5]])
        self.noise, self.S, self.P, self.prior = noise, n_support, 3, half @ half.T
        self.x = np.column_stack([rng.standard_normal((n_support, 2)), np.ones(n_support)])
        self.G = self.x.T @ self.x / noise**2
        self.precision = np.linalg.inv(self.prior) + self.G
        self.to_loc = np.linalg.solve(self.precision, self.x.T) / noise**2  # m = to_loc @ y, with mean 0
        self.tail = np.linalg.inv(self.precision)

    def information(self, of_labels: np.ndarray) -> float:
        """I(w; y) for labels of this covariance, from the joint covariance of both."""
        cross = self.to_loc @ of_labels
        of_w = cross @ self.to_loc.T + self.tail
        joint = np.block([[of_w, cross], [cross.T, of_labels]])
        logdet = [np.linalg.slogdet(m)[1] for m in (of_w, of_labels, joint)]
        return (logdet[0] + logdet[1] - logdet[2]) / 2

    @property
    def noise_only(self) -> np.ndarray:
        return self.noise**2 * np.eye(self.S)

    @property
    def marginal(self) -> np.ndarray:
        return self.x @ self.prior @ self.x.T + self.noise_only


@checks("eq-gaussian-information")
def test_the_exact_posterior_stores_half_a_log_ratio_of_precisions() -> None:
    task = Given()
    formula = np.linalg.slogdet(task.precision @ task.prior)[1] / 2
    assert task.information(task.marginal) == pytest.approx(formula, abs=1e-10)
    cross = task.to_loc @ task.marginal
    np.testing.assert_allclose(cross @ task.to_loc.T + task.tail, task.prior, atol=1e-12)  # w has the prior's law
    # One row of two normal features and an intercept: the average over inputs is an integral over a chi square.
    family = LinearGaussianTasks(np.zeros(3), np.eye(3), noise=0.7, n_support=1)
    exact = integrate.quad(lambda s: math.log1p((1 + s) / 0.49) * stats.chi2.pdf(s, 2) / 2, 0, 200)[0]
    found = linear_gaussian_information(family, 100_000)
    # Six standard errors: one false alarm in 500 million.
    assert abs(float(found["total"]) - exact) < 3.1 * float(found["total_half_width"])
    assert abs(float(found["total"]) / exact - 1) < 0.005


@checks("eq-gaussian-noise-information")
def test_little_of_it_is_about_the_noise() -> None:
    for seed, rows in enumerate((1, 4, 50, 5000)):
        task = Given(rows, seed=seed) if rows < 100 else Given(rows, 0.01, seed)
        share = np.linalg.solve(task.precision, task.G)
        formula = np.linalg.slogdet(np.eye(3) + share)[1] / 2
        if rows < 100:
            assert task.information(task.noise_only) == pytest.approx(formula, abs=1e-10)
        assert 0 < formula < 1.5 * math.log(2)
    assert formula > 0.9999 * 1.5 * math.log(2)
    # The library's, for the inputs that it draws itself.
    task = Given()
    family = LinearGaussianTasks(np.zeros(3), np.linalg.cholesky(task.prior), noise=0.6, n_support=4)
    each = []
    for x in family.sample(5).support_x.double().numpy():
        task.x = np.column_stack([x, np.ones(4)])
        task.precision = np.linalg.inv(task.prior) + task.x.T @ task.x / 0.36
        task.to_loc, task.tail = np.linalg.solve(task.precision, task.x.T) / 0.36, np.linalg.inv(task.precision)
        each.append(task.information(task.noise_only))
    assert float(linear_gaussian_information(family, 5)["given_task"]) == pytest.approx(np.mean(each), abs=1e-6)


@checks("eq-gaussian-gap")
def test_the_gap_is_the_share_of_the_labels_in_the_posterior() -> None:
    task = Given()
    cross = np.einsum("ip,pi->i", task.x, task.to_loc @ task.noise_only)  # Cov(y_i, x_i'w)
    gap = float(cross.mean()) / task.noise**2
    share = np.linalg.solve(task.precision, task.G)
    assert gap == pytest.approx(np.trace(share) / task.S, abs=1e-12)
    # Against the library, which averages over inputs: the same inputs in every task.
    tasks = LinearGaussianTasks(np.zeros(1), np.ones((1, 1)), noise=0.5, n_support=4)
    found = linear_gaussian_information(tasks, 2)
    assert float(found["gap"]) == pytest.approx(16 / 17 / 4, abs=1e-6)
    assert float(found["total"]) == pytest.approx(math.log(17) / 2, abs=1e-6)
    assert float(found["given_task"]) == pytest.approx(math.log(33 / 17) / 2, abs=1e-6)


@checks("eq-gaussian-residual")
def test_the_residual_of_a_row_seen_apart() -> None:
    task = Given()
    of_w = task.to_loc @ task.noise_only @ task.to_loc.T + task.tail  # given the true weights
    spread = task.noise**2 + np.einsum("ip,pr,ir->i", task.x, of_w, task.x)
    noisy = task.tail @ task.G @ task.tail
    np.testing.assert_allclose(
        spread, task.noise**2 + np.einsum("ip,pr,ir->i", task.x, task.tail + noisy, task.x), atol=1e-12
    )
    to_bias = task.x @ (np.eye(3) - task.to_loc @ task.x)  # b_i = x_i'(w* - E[m | w*]), linear in w*
    np.testing.assert_allclose(
        np.einsum("ip,pr,ir->i", to_bias, task.prior, to_bias),
        np.einsum("ip,pr,ir->i", task.x, task.tail - noisy, task.x),
        atol=1e-12,
    )
    # The bound of the library holds for it, with the variance as the proxy.
    tasks = LinearGaussianTasks(np.zeros(1), np.ones((1, 1)), noise=0.5, n_support=4)
    found = linear_gaussian_information(tasks, 2)
    own, part = 1 / 17, 16 / 17**2
    spread, bias = 1 + 4 * (own + part), 4 * (own - part)
    assert float(found["proxy_per_row"]) == pytest.approx((spread**2 / 2 + bias * spread) / 4, abs=1e-6)
    assert float(found["gap"]) < math.sqrt(2 * float(found["proxy_per_row"]) * float(found["given_task"]))


@checks("eq-gaussian-tightness")
def test_the_bound_loses_the_root_of_the_number_of_rows() -> None:
    tasks = LinearGaussianTasks(np.zeros(3), 10 * np.eye(3), noise=0.5, n_support=4000)
    found = linear_gaussian_information(tasks, 20)
    bound = math.sqrt(2 * float(found["proxy_per_row"]) * float(found["given_task"]))
    assert bound / float(found["gap"]) == pytest.approx(math.sqrt(4000 * math.log(2) / 6), rel=2e-3)
