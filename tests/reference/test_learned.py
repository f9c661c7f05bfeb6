"""NumPyro NUTS against exact answers."""

import dataclasses

import arviz as az
import jax
import numpy as np
import pyro
import pytest
import torch
from builders import class_tasks, classifier, real_tasks, regressor
from numpyro.infer.util import log_density
from scipy import stats

import ebmeta
from ebmeta import reference
from ebmeta.prediction.arviz import held_out
from ebmeta.simulate import conjugate


def z_scores(w, loc, scale):
    """Distance of the posterior means from the truth in Monte-Carlo standard errors (400 effective draws or more)."""
    return (w.mean(("chain", "draw")).values - loc) / (scale / np.sqrt(400))


@pytest.mark.parametrize(("features", "observe"), [(2, "both"), (6, "support")])
def test_regression_posterior_is_the_conjugate_one(features, observe):
    """With more rows than weights, and with fewer: then only the span of the rows is sampled by NUTS."""
    model, batch = regressor(features=features), real_tasks(features=features)
    tree = reference.nuts(model, batch, observe=observe)
    seen = batch.pooled() if observe == "both" else batch
    with torch.no_grad():
        q = conjugate.posterior(
            model.prior(len(batch), 1),
            model.predictor.features(seen.support_x),
            seen.support_y,
            seen.support_mask,
            model.likelihood.dispersion(),
        )
    scale = q.scale.numpy()
    if observe == "both":
        with pytest.raises(ValueError, match="tree: expected labels that its draws have not seen, got ones"):
            held_out(tree)
    else:
        assert np.isfinite(held_out(tree).values[batch.query_mask.numpy()]).all()
    assert np.abs(z_scores(tree["posterior/w"], q.loc.numpy(), scale)).max() < 5  # 28 weights at 5 sigma: below 2e-5
    ratio = tree["posterior/w"].std(("chain", "draw")).values / scale
    assert np.abs(ratio - 1).max() < 0.2
    assert int(tree["sample_stats/diverging"].sum()) == 0
    rhat = az.rhat(az.convert_to_dataset({"w": tree["posterior/w"].values}))["w"]
    assert float(rhat.max()) < 1.03
    with torch.no_grad():
        eta = model.predictor(
            model.predictor.features(batch.query_x), torch.from_numpy(tree["posterior/w"].values.astype(np.float64))
        )
    exact = stats.norm.logpdf(batch.query_y, eta[..., 0], model.likelihood.dispersion().sqrt().item())
    score = tree["log_likelihood/query_y"].values
    np.testing.assert_allclose(score, np.where(batch.query_mask, exact, np.nan), atol=1e-3)
    assert set(tree.children) == {*ebmeta.predict(model, batch, num_draws=1).children, "sample_stats"} - {"predictive"}


def test_covariates_of_groups_move_the_prior():
    """Twelve weights at 5 sigma: below 1e-5; and the density is that of the Pyro program."""
    model = regressor(features=2, num_covariates=2)
    with torch.no_grad():
        model.prior.slope.copy_(torch.tensor([[3.0, 0.0], [-2.0, 4.0], [1.0, -2.0]]))
    task_x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    batch = dataclasses.replace(real_tasks(features=2), task_x=task_x)
    with torch.no_grad():
        q0 = model.infer(batch.pooled()).path[0]
    with pytest.raises(ValueError, match="task_x: expected none for the hierarchical model, got 2 covariates"):
        reference.Rows.of_tasks(model, batch)
    w = reference.nuts(model, batch, observe="both")["posterior/w"]  # of a shape that was compiled before
    assert np.abs(z_scores(w, q0.loc.numpy(), q0.scale.numpy())).max() < 5
    at = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trace = pyro.poutine.trace(pyro.poutine.condition(model.model, {"w": at})).get_trace(batch, "support")
    x = model.predictor.features(batch.support_x, batch.support_mask).detach().numpy()
    rows = {"y": batch.support_y.numpy(), "mask": batch.support_mask.numpy(), "task_x": task_x.numpy()}
    with jax.enable_x64(True):
        got = log_density(reference.numpyro_model(model), (x,), rows, {"w": at.numpy()})[0]
        np.testing.assert_allclose(got, trace.log_prob_sum().item(), rtol=1e-8)
        with pytest.raises(ValueError, match="task_x: expected 2 covariates per task, got 0"):
            log_density(reference.numpyro_model(model), (x,), rows | {"task_x": None}, {"w": at.numpy()})


def test_classification_posterior_is_that_of_a_grid():
    model = classifier(features=1, num_steps=0)  # and the constant: two weights for each of two classes
    batch = class_tasks(ways=(2, 2), shots=(2, 1), queries=(3, 3), features=1)
    padded = dataclasses.replace(batch, way_mask=torch.tensor([[True, True, False]] * 2))
    tree = reference.nuts(model, padded)
    prior = model.prior.gaussian()
    absent = tree["posterior/w"].isel(way=2).values  # a class that does not exist keeps the prior
    z = (absent - prior.loc.detach().numpy()) * prior.precision.sqrt().detach().numpy()
    assert np.abs(z.mean((0, 1))).max() < 5 / np.sqrt(400)
    assert np.abs(z.std((0, 1)) - 1).max() < 0.2
    w_draws = tree["posterior/w"].isel(way=slice(2))
    line = torch.linspace(-6, 6, 41, dtype=torch.float64)
    z = torch.cartesian_prod(line, line, line, line).view(-1, 2, 2)  # unit normal coordinates
    w = (prior.loc + z * prior.precision.rsqrt()).detach()
    with torch.no_grad():
        x = model.predictor.features(batch.support_x)
    for t in range(2):
        logp = torch.log_softmax(torch.einsum("sp,gcp->gsc", x[t], w), -1)
        real = batch.support_mask[t]
        log_joint = logp[:, torch.arange(len(real)), batch.support_y[t]][:, real].sum(1) - z.square().sum((1, 2)) / 2
        weight = torch.softmax(log_joint, 0)
        loc = torch.einsum("g,gcp->cp", weight, w)
        scale = (torch.einsum("g,gcp->cp", weight, w.square()) - loc.square()).sqrt()
        assert np.abs(z_scores(w_draws, loc.numpy(), scale.numpy())[t]).max() < 5
        np.testing.assert_allclose(w_draws.std(("chain", "draw")).values[t], scale.numpy(), rtol=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observe": "query"}, "observe: expected 'support' or 'both', got 'query'"),
        ({"num_draws": 0}, "num_draws: expected at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        reference.nuts(classifier(), class_tasks(), **arguments)
    with pytest.raises(ValueError, match="pooled: expected query labels"):
        reference.nuts(classifier(), class_tasks().unlabelled(), observe="both")
