"""Numerical checks of theory/shrinkage.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import close
from equations import checks
from scipy import integrate, optimize, special, stats

import ebmeta
from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.likelihood import Given, NegativeBinomial, StudentT
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.parts.initializer import ConjugateInitializer
from ebmeta.training.evidence import log_hyperprior
from ebmeta.training.evidence_fit import boundary_threshold

WAYS = torch.ones(1, 1, dtype=torch.bool)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def slope_of(likelihood, y, eta, given=None):
    eta = eta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-likelihood.log_prob(y, eta, WAYS, given).sum(), eta, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), eta, allow_unused=True)
    return slope.detach()[..., 0], curvature.detach()[..., 0]


@checks("eq-negative-binomial")
def test_the_negative_binomial_is_a_binomial_of_r_plus_y_trials() -> None:
    y, eta, size, r = rows(0, 3, 40), rows(-1.0, 0.5, 2.0), rows(1, 2, 5), 3.5
    slope, curvature = slope_of(NegativeBinomial(r).double(), y, eta[..., None], Given(size))
    mu = size * eta.exp()
    p = mu / (r + mu)
    close(slope, (r + y) * p - y, 1e-6)
    close(curvature, (r + y) * p * (1 - p), 1e-6)


def newton(y: float, r: float, scale: float, steps: int) -> list[float]:
    """Return the path of undamped steps to the mode of one weight, from its prior mean 0."""
    eta, path = 0.0, []
    for _ in range(steps):
        p = special.expit(eta - math.log(r))
        eta -= ((r + y) * p - y + eta / scale**2) / ((r + y) * p * (1 - p) + scale**-2)
        path.append(eta)
    return path


@pytest.mark.parametrize(("y", "r", "scale", "ends"), [(20, 10, 3, (180, -90)), (100, 50, 10, (10_000, -5000))])
def test_the_initializer_gets_where_undamped_steps_cycle(y, r, scale, ends) -> None:
    """The best Gaussian is found by brute force: expected loss and divergence by quadrature."""
    assert newton(y, r, scale, 41)[-2:] == pytest.approx(ends[::-1], rel=1e-6)
    assert newton(y, r, scale, 40)[-2:] == pytest.approx(ends, rel=1e-6)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    prior = FullGaussian(0 * one, one.unsqueeze(-1) / scale**2)
    likelihood = NegativeBinomial(r).double().requires_grad_(False)
    q = ConjugateInitializer()(prior, likelihood, one, rows(y), torch.ones(1, 1, dtype=torch.bool))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def loss(at: np.ndarray) -> float:
        eta = at[0] + math.exp(at[1]) * nodes
        nll = (r + y) * np.logaddexp(0, eta - math.log(r)) - y * eta
        return weights @ nll + (math.exp(2 * at[1]) + at[0] ** 2) / (2 * scale**2) - at[1]

    tight = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 5000}
    loc, log_scale = optimize.minimize(loss, [math.log(y), -1.0], method="Nelder-Mead", options=tight).x
    assert float(q.loc) == pytest.approx(loc, abs=1e-6)
    assert float(q.precision) == pytest.approx(math.exp(-2 * log_scale), rel=1e-5)


@checks("eq-student")
def test_a_student_label_is_weighted_by_its_mean_precision() -> None:
    y, eta, sigma, nu = rows(0.3, -2.0, 9.0), rows(0.1, 0.5, 0.2), 0.8, 4.5
    slope, _ = slope_of(StudentT(sigma, nu).double(), y, eta[..., None])
    weights = []
    for a, b in zip(y[0].tolist(), eta[0].tolist(), strict=True):

        def joint(u: float, gap: float = a - b) -> float:
            return stats.norm.pdf(gap, 0, sigma / math.sqrt(u)) * stats.gamma.pdf(u, nu / 2, scale=2 / nu)

        total, moment = (integrate.quad(f, 0, 40)[0] for f in (joint, lambda u, j=joint: u * j(u)))
        weights.append(moment / total)
    weight = rows(*weights)
    close(weight, (nu + 1) / (nu + (y - eta).square() / sigma**2), 1e-6)
    close(slope, weight * (eta - y) / sigma**2, 1e-6)


def means(y: torch.Tensor, noise: float) -> TaskBatch:
    """Return groups of one labelled row, no features and known noise."""
    x, labels = torch.empty(len(y), 1, 0, dtype=torch.float64), y[:, None].double()
    size = torch.full_like(labels, noise**-2)
    return TaskBatch(x, labels, x, labels, support_size=size, query_size=size)


def unlabelled_support(batch: TaskBatch) -> TaskBatch:
    """Return the groups with each row counted once."""
    return TaskBatch(
        batch.support_x[:, :0], batch.support_y[:, :0], batch.query_x, batch.query_y, query_size=batch.query_size
    )


def normal_means() -> EmpiricalBayes:
    return EmpiricalBayes.regressor(0, num_steps=0, known_noise=True).double()


@checks("eq-shrink")
def test_the_posterior_mean_is_shrunk_by_the_ratio_of_variances() -> None:
    model, y = normal_means(), torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    model.prior.loc.data.fill_(0.7)
    model.prior.log_scale.data.fill_(math.log(1.3))
    got = model.posterior(means(y, noise=2.0))[0].loc[:, 0, 0]
    b = 4 / (1.3**2 + 4)
    close(got, 0.7 + (1 - b) * (y - 0.7), 1e-6)


@checks("eq-james-stein")
def test_the_estimate_of_the_shrinkage_is_unbiased() -> None:
    k, s, sigma = 7, 1.3, 2.0
    total = s**2 + sigma**2
    mean, _ = integrate.quad(lambda c: (k - 2) * sigma**2 / (total * c) * stats.chi2.pdf(c, k), 0, np.inf)
    assert mean == pytest.approx(sigma**2 / total, rel=1e-8)


@checks("eq-boundary")
def test_how_often_the_maximum_is_at_the_boundary() -> None:
    k, s, sigma, draws = 8, 1.0, 2.0, 20_000
    y = np.random.default_rng(0).normal(0, math.hypot(s, sigma), (draws, k))
    share = (y.var(1) < sigma**2).mean()
    exact = stats.chi2.cdf(k * sigma**2 / (s**2 + sigma**2), k - 1)
    assert abs(share - exact) < 5 * math.sqrt(exact * (1 - exact) / draws)  # 5 sigma: false alarms at 6e-7
    assert 0.4 < exact < 0.6
    for sample in y[:6]:
        model = normal_means()
        found = ebmeta.fit_evidence(model, unlabelled_support(means(torch.from_numpy(sample), sigma)))
        scale = float(found.scales[0] * model.likelihood.unit)
        expected = math.sqrt(max(0.0, sample.var() - sigma**2))
        assert scale == pytest.approx(expected, abs=0.05 if expected == 0 else 1e-3)
        assert (found.at_boundary == [0]) or expected > 0


@checks("eq-profile")
def test_the_loss_at_the_boundary_is_half_of_two_chi_squared() -> None:
    """One weight against its closed form and law; two weights by simulation, one of them the same in all groups."""
    k, draws = 2000, 20_000
    total = stats.chi2.rvs(k - 1, size=draws, random_state=0) / k  # mean square about the mean, noise 1, no spread
    twice = np.where(total > 1, k * (total - 1 - np.log(total)), 0.0)
    for level in (0.5, 1.0, 2 * boundary_threshold(1), 5.0):
        expected = stats.chi2.sf(level, 1) / 2
        # 5 sigma and the error of a limit in groups, which is of order k^(-1/2): false alarms at 6e-7.
        assert abs((twice > level).mean() - expected) < 5 * math.sqrt(expected / draws) + 0.5 / math.sqrt(k)
    y = np.array([2.0, -1.5, 0.3, 4.1, -2.8, 1.0])
    found = ebmeta.fit_evidence(normal_means(), unlabelled_support(means(torch.from_numpy(y), 1.0)))
    exact = 3 * (y.var() - 1 - math.log(y.var()))
    assert float(found.gain[0]) == pytest.approx(exact, abs=1e-3)
    # With the hyperprior both sides are maxima without it, in the closed form and in the bound.
    for hyperprior in (True, log_hyperprior):
        for labels, loss in ((y, exact), (0.1 * y, 0.0)):
            batch = unlabelled_support(means(torch.from_numpy(labels), 1.0))
            careful = ebmeta.fit_evidence(normal_means(), batch, hyperprior=hyperprior)
            assert float(careful.gain[0]) == pytest.approx(loss, abs=0.03 if callable(hyperprior) else 1e-3)

    rng, loss = np.random.default_rng(1), []
    for _ in range(24):
        x, w = torch.from_numpy(rng.normal(size=(40, 4, 1))), rng.normal(size=(40, 1))
        labels = x[..., 0] + torch.from_numpy(w + rng.normal(size=(40, 4)))
        batch = TaskBatch(x[:, :0], labels[:, :0], x, labels)
        loss.append(2 * float(ebmeta.fit_evidence(EmpiricalBayes.regressor(1, num_steps=0).double(), batch).gain[0]))
    # Mean 3/2 and variance 13/4; 5 sigma of 24 data sets: false alarms at 6e-7 in the limit of many groups.
    assert abs(np.mean(loss) - 1.5) < 5 * math.sqrt(3.25 / 24)


@checks("eq-penalised")
def test_the_penalty_keeps_the_maximum_off_zero() -> None:
    y, sigma = np.array([0.3, -0.2, 0.1, 0.4, -0.5]), 2.0  # groups alike, far more so than the noise

    def objective(s: float) -> float:
        return stats.norm.logpdf(y, y.mean(), math.hypot(s, sigma)).sum() + math.log(s) - 0.1 * s

    for s in (1e-3, 1e-2, 0.1):
        assert objective(1.01 * s) > objective(s)
    model = normal_means()
    found = ebmeta.fit_evidence(model, unlabelled_support(means(torch.from_numpy(y), sigma)), hyperprior=True)
    unit = float(model.likelihood.unit)
    grid = np.exp(np.linspace(-3, 4, 4001))
    values = stats.norm.logpdf(y[:, None], y.mean(), np.hypot(grid, sigma)).sum(0) + np.log(grid) - 0.1 * grid / unit
    best = grid[values.argmax()]
    assert float(found.scales[0]) * unit == pytest.approx(best, rel=5e-3)


@checks("eq-propagate")
def test_predictions_average_over_the_prior() -> None:
    """The predictive density of a new group against an integral over mean and log scale of the prior."""
    y, sigma = np.array([2.0, -1.5, 0.3, 4.1, -2.8, 1.0]), 1.0
    batch, model = unlabelled_support(means(torch.from_numpy(y), sigma)), normal_means()
    ebmeta.fit_evidence(model, batch, hyperprior=True)
    ensemble = ebmeta.propagate(model, batch, num_draws=400)
    unit = float(model.likelihood.unit)
    mu, log_s = np.meshgrid(np.linspace(-80, 80, 3201), np.linspace(-6, 6, 241), indexing="ij")
    s = np.exp(log_s)
    log_p = stats.norm.logpdf(y[:, None, None], mu, np.hypot(s, sigma)).sum(0) + log_s - 0.1 * s / unit
    weight = np.exp(log_p - log_p.max())
    labels = np.array([0.0, 3.0, 7.0])
    exact = [(weight * stats.norm.pdf(v, mu, np.hypot(s, sigma))).sum() / weight.sum() for v in labels]
    x = torch.empty(1, 3, 0, dtype=torch.float64)
    new = TaskBatch(x[:, :0], x[:, :0, 0] if x.shape[2] else torch.empty(1, 0, dtype=torch.float64), x)
    got, plain = (
        m.infer(new).log_prob(-1, rows(*labels), torch.zeros(1), predictive=True)[0] for m in (ensemble, model)
    )
    assert (got - torch.tensor(exact).log()).abs().max() < 0.06  # 400 draws of a fixed seed
    assert got[2] > plain[2] + 0.1  # a label far off is likelier than the fitted prior alone would have it
