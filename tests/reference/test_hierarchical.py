"""The fully Bayesian model and the NumPyro likelihoods against exact answers."""

import arviz as az
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pytest
import torch
from builders import class_tasks, classifier, perturb, real_tasks, regressor
from jax_programs import density
from scipy import stats
from scipy.special import logsumexp

from ebmeta.reference import LIKELIHOODS, Rows, hierarchical, hierarchical_model, numpyro_model

RNG = np.random.default_rng(0)


def agree(draws, loc, scale):
    """Compare means within 5 Monte-Carlo errors (false alarms: below 1e-5 for ten parameters), and SDs roughly."""
    effective = az.ess(az.convert_to_dataset({"x": draws}))["x"].values
    assert effective.min() > 200
    assert np.abs((draws.mean((0, 1)) - loc) / scale * np.sqrt(effective)).max() < 5
    assert np.abs(draws.std((0, 1)) / scale - 1).max() < 0.15


def test_normal_means_with_known_variances_have_the_exact_posterior():
    """Effects and their mean are jointly normal."""
    y, sd, tau, width = RNG.normal(2, 2, 6), RNG.uniform(0.5, 2, 6), 1.5, 3.0
    precision = np.diag(np.append(1 / sd**2 + 1 / tau**2, 1 / width**2 + 6 / tau**2))
    precision[-1, :-1] = precision[:-1, -1] = -1 / tau**2
    covariance = np.linalg.inv(precision)
    tree = hierarchical(
        Rows(y, list("abcdef"), size=1 / sd**2),
        hyperpriors={"w_loc": dist.Normal(0, width), "w_scale": tau, "noise": 1.0},
        num_warmup=300,
        num_draws=500,
    )
    assert tree["posterior/w"].coords["task"].values.tolist() == list("abcdef")
    draws = np.concatenate([tree["posterior/w"].values[..., 0, 0], tree["posterior/w_loc"].values], -1)
    agree(draws, covariance @ np.append(y / sd**2, 0), np.sqrt(np.diag(covariance)))
    exact = stats.norm.logpdf(y, tree["posterior/w"].values[..., 0, 0], sd)
    np.testing.assert_allclose(tree["log_likelihood/y"].values, exact, atol=1e-4)
    new = tree["posterior_predictive/y"].values
    np.testing.assert_allclose(new.std((0, 1)), np.sqrt(np.diag(covariance)[:-1] + sd**2), rtol=0.15)
    assert {"diverging", "n_steps", "acceptance_rate", "lp", "energy"} == set(tree["sample_stats"].data_vars)


def test_poisson_with_exposure_and_a_shared_slope_has_the_posterior_of_a_grid():
    x, exposure, task = RNG.normal(size=12), RNG.uniform(0.5, 3, 12), np.repeat([0, 1], 6)
    y = RNG.poisson(exposure * np.exp(0.5 * x + np.array([0.3, -0.4])[task]))
    known = {"w_loc": 0.0, "w_scale": 1.0, "fixed": dist.Normal(0.0, 1.0)}
    rows = Rows(y, task, fixed=x[:, None], size=exposure)
    tree = hierarchical(rows, "poisson", known, num_warmup=300, num_draws=500)
    line = np.linspace(-3, 3, 81)
    point = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)  # two intercepts and the slope
    eta = point[:, task] + point[:, 2:] * x
    log_joint = stats.poisson.logpmf(y, exposure * np.exp(eta)).sum(1) - (point**2).sum(1) / 2
    weight = np.exp(log_joint - logsumexp(log_joint))
    loc = weight @ point
    draws = np.concatenate([tree["posterior/w"].values[..., 0, 0], tree["posterior/fixed"].values], -1)
    agree(draws, loc, np.sqrt(weight @ point**2 - loc**2))
    assert int(tree["sample_stats/diverging"].sum()) == 0


def weights(kind):
    """Return a model, tasks, their features, and weights at which to compare joint densities."""
    model, batch = (classifier(), class_tasks()) if kind == "categorical" else (regressor(), real_tasks())
    perturb(model.prior)
    w = torch.from_numpy(RNG.normal(size=(len(batch), batch.way_mask.shape[1], model.predictor.num_weights)))
    return model, batch, w


@pytest.mark.parametrize("kind", ["categorical", "normal"])
def test_joint_densities_are_those_of_the_pyro_program(kind):
    """Three statements of one model agree at the learned prior: Pyro's, `numpyro_model` and `hierarchical_model`."""
    model, batch, w = weights(kind)
    trace = pyro.poutine.trace(pyro.poutine.condition(model.model, {"w": w})).get_trace(batch, "both")
    expected = trace.log_prob_sum().item()
    seen = batch.pooled()
    x = model.predictor.features(seen.support_x, seen.support_mask).detach().numpy()
    observed = {"y": seen.support_y.numpy(), "mask": seen.support_mask.numpy(), "way_mask": seen.way_mask.numpy()}
    prior = model.prior.gaussian()
    covariance = (torch.diag(1 / prior.precision) if kind == "categorical" else prior.precision.inverse()).detach()
    scale = covariance.diagonal().sqrt()
    factor = torch.linalg.cholesky(covariance / scale.outer(scale)).numpy()
    known, given = {"w_loc": prior.loc.detach().numpy(), "w_scale": scale.numpy()}, {}
    if kind == "normal":
        known["noise"] = model.likelihood.dispersion().sqrt().item()
        given["w_correlation_cholesky"] = factor
    tril = known["w_scale"][:, None] * factor
    unit = np.linalg.solve(tril, (w - prior.loc).detach().numpy()[..., None])[..., 0]
    jacobian = w[..., 0].numel() * np.log(np.diag(tril)).sum()
    rows = Rows.of_tasks(model, batch, "both")
    with jax.enable_x64(True):
        values = {"w": w.numpy()}
        got = density(numpyro_model(model), (x,), observed, values)
        np.testing.assert_allclose(got, expected, rtol=1e-8)
        of_factor = dist.LKJCholesky(len(factor), 2.0).log_prob(factor) if given else 0.0
        got = density(hierarchical_model(rows, kind, known, centered=True), (), {}, values | given)
        np.testing.assert_allclose(got - of_factor, expected, rtol=1e-8)
        got = density(hierarchical_model(rows, kind, known), (), {}, {"w_unit": unit} | given)
        np.testing.assert_allclose(got - of_factor, expected + jacobian, rtol=1e-8)


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_every_likelihood_can_be_sampled_with_its_default_hyperpriors(name):
    form = LIKELIHOODS[name]
    rows = Rows([0, 1, 1, 0], [0, 0, 1, 1], random=RNG.normal(size=(4, 2)), fixed=RNG.normal(size=(4, 3)))
    trace = numpyro.handlers.trace(numpyro.handlers.seed(hierarchical_model(rows, name), 0)).get_trace(y=None)
    values = {site: s["value"] for site, s in trace.items() if s["type"] in ("sample", "deterministic")}
    ways = 2 if form.categorical else 1
    assert values["w"].shape == (2, ways, 2)
    assert values["fixed"].shape == ((2, 3) if form.categorical else (3,))
    assert values["y"].shape == (4,)
    assert set(form.hyperpriors(rows.y)) <= set(values)
    assert ("w_correlation" in values) == (not form.categorical)
    loc, scale = values["w_loc"], values["w_scale"]
    factor = np.eye(2) if form.categorical else values["w_correlation_cholesky"]
    np.testing.assert_allclose(values["w"], loc + (values["w_unit"] @ factor.T) * scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "gumbel"}, r"likelihood: expected one of \['normal', .*\], got 'gumbel'"),
        ({"hyperpriors": {"tau": 1.0}}, r"hyperpriors: expected some of \['w_loc', .*\], got \['tau'\]"),
        ({"likelihood": "categorical"}, "y: expected integer class labels for a categorical likelihood, got float64"),
        ({"num_draws": 0}, "num_draws: expected at least 1, got 0"),
        ({"target_accept": 1.0}, "target_accept: expected a number between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        hierarchical(Rows([1.0, 2.0], [0, 1]), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "y: expected at least one row, got none"),
        (([1.0, 2.0], [0]), "task: expected one label for each of 2 rows, got shape"),
        (([1.0, 2.0], [0, 0], [1.0, 2.0]), "random: expected a numeric array of shape"),
        (([1.0, np.nan], [0, 0]), "y: expected finite numbers, got NaN or infinity at row 1"),
        (([1.0], [0], None, None, [0.0]), "size: expected numbers above 0, got 0"),
    ],
)
def test_bad_rows(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rows(*arguments)
