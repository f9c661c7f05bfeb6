"""The comparison on counts against known answers: splits, structure, the peer's probabilities, the standard error."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import ebmeta
from counts import difference, fitted, log_hyperpriors, one_intercept, score
from ebmeta.training.preparation import measure
from lib.groups.counted import Counted, Split, as_batch, splits
from lib.groups.mixed_model import average, design, exact_log_density, log_pmf

RNG = np.random.default_rng(3)


def counted(rows: int = 4, groups: int = 10, **settings) -> Counted:
    group = np.repeat(np.arange(groups), rows)
    X, y = RNG.normal(size=(len(group), 1)), RNG.integers(0, 5, len(group)).astype(float)
    covariates = np.repeat(RNG.normal(size=(groups, 1)), rows, 0)
    size = np.arange(5.0, 5.0 + len(group))
    return Counted(X, y, group, "binomial", 2, size=size, covariates=covariates, **settings)


def test_every_group_is_held_out_once_and_no_row_is_used_twice():
    data = counted()
    parts = list(splits(data))
    held = np.concatenate([np.unique(data.groups[s.query]) for s in parts])
    np.testing.assert_array_equal(np.sort(held), np.arange(10))
    for s in parts:
        np.testing.assert_array_equal(np.sort(np.concatenate([s.train, s.support, s.query])), np.arange(40))
        assert not set(data.groups[s.train]) & set(data.groups[s.query])
        np.testing.assert_array_equal(np.bincount(data.groups[s.support])[np.unique(data.groups[s.query])], 2)


def test_batches_keep_rows_in_the_order_of_the_split():
    data = counted()
    s = next(splits(data))
    batch = as_batch(data, s.support, s.query)
    np.testing.assert_array_equal(batch.query_y[batch.query_mask], data.y[s.query])
    np.testing.assert_array_equal(batch.query_size[batch.query_mask], data.size[s.query])
    np.testing.assert_array_equal(batch.support_x[batch.support_mask], data.X[s.support])
    np.testing.assert_array_equal(batch.task_x, data.covariates[s.query[::2]])


def test_both_sides_have_the_same_linear_predictor():
    data = counted()
    s = next(splits(data))
    batch = as_batch(data, s.train[:0], s.train)
    model = ebmeta.EmpiricalBayes.regressor(1, "binomial", num_steps=0, num_covariates=1).double()
    measure(model, [batch])
    loc, slope, scale = RNG.normal(size=2), RNG.normal(size=(2, 1)), np.array([0.7, 1.3])
    model.prior.loc.data, model.prior.slope.data = torch.from_numpy(loc), torch.from_numpy(slope)
    model.prior.log_scale.data = torch.from_numpy(np.log(scale))
    with torch.no_grad():
        ours, var = model.infer(batch).marginal(0)
    z, x = design(data, s.train)
    np.testing.assert_allclose(ours[..., 0][batch.query_mask], (z @ loc + x @ slope[:, 0])[s.train], rtol=1e-6)
    np.testing.assert_allclose(var[..., 0][batch.query_mask], (z**2 @ scale**2)[s.train], rtol=1e-6)


def test_without_slopes_the_intercept_alone_varies():
    data = counted(slopes=False)
    z, x = design(data, np.arange(40))
    assert (z.shape, x.shape) == ((40, 1), (40, 3))
    model = ebmeta.EmpiricalBayes.regressor(1, "binomial", num_steps=0).double()
    log_scale = model.prior.log_scale
    log_scale.data = torch.tensor([np.log(0.02), 0.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(one_intercept(model), log_scale)
    np.testing.assert_allclose(gradient, [1 - 0.02**2 / 6.25, 1 - 1 / 6.25], rtol=1e-6)
    log_scale.data[0] += 0.1
    assert torch.autograd.grad(one_intercept(model), log_scale)[0][0] < -8  # 1 - 10: pulled back


def test_hyperpriors_are_those_of_the_peer():
    """Differences of the log density between two points are those of NumPyro's, with the change of variables."""
    points = [
        {"loc": [0.3, -1.0], "log_scale": [0.2, -0.5], "lower": 0.7, "slope": [[0.4], [2.0]], "log_shape": 0.3},
        {"loc": [2.0, 1.5], "log_scale": [-0.8, 0.9], "lower": -1.6, "slope": [[-1.0], [0.1]], "log_shape": -1.0},
    ]
    model = ebmeta.EmpiricalBayes.regressor(1, "negative_binomial", num_steps=0, num_covariates=1).double()
    got, exact = [], []
    for p in points:
        for name in ("loc", "log_scale", "slope"):
            getattr(model.prior, name).data = torch.tensor(p[name], dtype=torch.float64)
        model.prior.lower.data[1, 0], model.likelihood.log_shape.data = p["lower"], torch.tensor(p["log_shape"])
        got.append(log_hyperpriors(model).item())
        rho, (one, two) = p["lower"] / np.sqrt(1 + p["lower"] ** 2), np.exp(p["log_scale"])
        tau, r = np.array([one, two * np.sqrt(1 + p["lower"] ** 2)]), np.exp(p["log_shape"])
        exact.append(
            stats.norm.logpdf(np.r_[p["loc"], np.ravel(p["slope"])], 0, 5).sum()
            + (stats.halfnorm.logpdf(tau, scale=2.5) + np.log(tau)).sum()
            + stats.gamma.logpdf(r, 2, scale=10)
            + np.log(r)
            + stats.beta.logpdf((1 + rho) / 2, 2, 2)
            + 1.5 * np.log(1 - rho**2)
        )
    assert got[0] - got[1] == pytest.approx(exact[0] - exact[1], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("bernoulli", lambda y, e, n, r: stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-e)))),
        ("binomial", lambda y, e, n, r: stats.binom.logpmf(y, n, 1 / (1 + np.exp(-e)))),
        ("poisson", lambda y, e, n, r: stats.poisson.logpmf(y, n * np.exp(e))),
        ("negative_binomial", lambda y, e, n, r: stats.nbinom.logpmf(y, r, r / (r + n * np.exp(e)))),
    ],
)
def test_probabilities_of_the_peer_are_those_of_scipy_and_of_ours(name, exact):
    y, eta, r = np.array([0.0, 1.0, 1.0]), np.array([-0.7, 2.0, 0.3]), 1.7
    n = np.ones(3) if name == "bernoulli" else np.array([3.0, 5.0, 1.0])
    got = log_pmf(name, y, eta, n, r)
    np.testing.assert_allclose(got, exact(y, eta, n, r), rtol=1e-10)
    model = ebmeta.EmpiricalBayes.regressor(0, name, num_steps=0).double()
    if name == "negative_binomial":
        model.likelihood.log_shape.data.fill_(np.log(r))
    given = ebmeta.likelihood.Given(torch.from_numpy(n)[None])
    ours = model.likelihood.log_prob(*(torch.from_numpy(v) for v in (y[None], eta[None, :, None])), None, given)
    np.testing.assert_allclose(ours[0].detach(), got, rtol=1e-6)


def test_draws_are_averaged_and_new_groups_integrated_out():
    data = Counted(np.empty((3, 0)), np.array([2.0, 2.0, 0.0]), np.array([7, 8, 8]), "poisson", 0)
    z, x = np.ones((3, 1)), np.empty((3, 0))
    draws = {
        "w": np.array([[[0.3]], [[-1.0]]]),
        "w_loc": np.array([[0.5], [-0.2]]),
        "w_scale": np.array([[0.4], [0.9]]),
        "w_correlation": np.ones((2, 1, 1)),
        "fixed": np.empty((2, 0)),
        "shape": np.ones(2),
    }
    got = np.exp(average(data, np.arange(3), z, x, draws, np.array([7])))
    assert got[0] == pytest.approx(stats.poisson.pmf(2, np.exp([0.3, -1.0])).mean(), rel=1e-10)
    for y, value in ((2, got[1]), (0, got[2])):
        each = [
            integrate.quad(lambda e, m=m, s=s, y=y: stats.norm.pdf(e, m, s) * stats.poisson.pmf(y, np.exp(e)), -8, 8)[0]
            for m, s in ((0.5, 0.4), (-0.2, 0.9))
        ]
        assert value == pytest.approx(np.mean(each), rel=1e-6)


def test_the_grid_integrates_both_hyperparameters():
    """One training row and one query: the ratio of two integrals, by Monte Carlo from the hyperpriors (5 in 100)."""
    data = Counted(np.empty((2, 0)), np.array([3.0, 1.0]), np.arange(2), "poisson", 0, size=np.array([2.0, 1.0]))
    got = np.exp(exact_log_density(data, Split(np.array([0]), np.array([], int), np.array([1]))))
    mu, tau = RNG.normal(0, 5, 2_000_000), np.abs(RNG.normal(0, 2.5, 2_000_000))
    first, second = (stats.poisson.pmf(y, n * np.exp(mu + tau * RNG.normal(size=len(mu)))) for y, n in ((3, 2), (1, 1)))
    assert got[0] == pytest.approx((first * second).mean() / first.mean(), rel=0.03)


def test_the_standard_error_is_that_of_groups():
    """With one query per group it is the usual one; queries repeated within groups do not shrink it."""
    gap, groups = RNG.normal(size=20), np.arange(20)
    mean, error = difference(gap, np.zeros(20), groups)
    assert (mean, error) == pytest.approx((gap.mean(), gap.std(ddof=1) / np.sqrt(20)))
    assert difference(np.tile(gap, 3), np.zeros(60), np.tile(groups, 3)) == pytest.approx((mean, error))


def test_fit_and_score_agree_with_the_exact_answer_of_one_intercept():
    """New groups without a label are scored by the prior: a binomial averaged over one normal intercept."""
    data = Counted(
        np.empty((12, 0)), RNG.integers(0, 9, 12).astype(float), np.arange(12), "binomial", 0, size=np.full(12, 8.0)
    )
    split = Split(np.arange(9), np.arange(0), np.arange(9, 12))
    model, _, _ = fitted(data, split)
    loc, scale = model.prior.loc.item(), model.prior.log_scale.exp().item()
    for y, value in zip(data.y[9:], np.exp(score(model, data, split)), strict=True):
        exact = integrate.quad(
            lambda e, y=y: stats.norm.pdf(e, loc, scale) * stats.binom.pmf(y, 8, 1 / (1 + np.exp(-e))), -9, 9, limit=200
        )[0]
        assert value == pytest.approx(exact, rel=1e-4)


def test_slopes_that_are_shared_stay_shared_in_the_fit():
    data = counted(groups=6, slopes=False)
    model, _, _ = fitted(data, Split(np.arange(24), np.arange(0), np.arange(0)))
    scale = model.prior.gaussian().expand(1, 1).scale[0, 0].detach()
    assert scale[0] == pytest.approx(0.02, rel=0.05)
    assert not model.prior.lower.any()
