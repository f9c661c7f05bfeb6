"""Weights that are common to all groups, wherever a model for numbers is used.

A common weight $b$ of a feature adds $b x$ to the linear predictor. The same is a label less $b x$ where labels are
normal, and an exposure $e^{b x}$ times as large for counts. So a model with a common weight has to agree in every
respect with a model without the feature, of such tasks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from builders import close, generator, number_tasks, perturb, regressor
from pyro import poutine

import ebmeta
from ebmeta import EmpiricalBayes, diagnostics, reference
from ebmeta.diagnostics.simulation import simulate_tasks
from ebmeta.likelihood import Given
from ebmeta.model import in_units
from ebmeta.prediction.trees import predict
from ebmeta.reference.hierarchical import Rows
from ebmeta.tasks.source import as_source
from ebmeta.training.ensemble import PriorEnsemble

KINDS = pytest.mark.parametrize("likelihood", ["normal", "poisson"])
COMMON = -0.8  # the weight of the second feature
PLACES = [0, 2]  # of the weights that vary: the first feature's and the intercept's


def twins(likelihood):
    """Return a model with a common weight and one without its feature, and the same tasks for each."""
    kwargs = {"likelihood": likelihood, "num_steps": 0}
    one = regressor(2, random=[0], scale=0.0, **kwargs)
    other = regressor(1, scale=0.4, **kwargs)
    with torch.no_grad():
        one.prior.loc[PLACES] = other.prior.loc
        one.prior.loc[1] = COMMON
        one.prior.log_scale.copy_(other.prior.log_scale)
        one.prior.lower.copy_(other.prior.lower)
        one.likelihood.load_state_dict(other.likelihood.state_dict())
        for name in ("center", "unit"):
            getattr(one.predictor, name)[0] = getattr(other.predictor, name)[0]
    one.fitted = other.fitted = True
    tasks = number_tasks(likelihood, features=2)
    return one, other, tasks, without(tasks, likelihood)


def without(tasks, likelihood):
    """Return tasks without their second feature, whose part stands in labels or exposures."""
    parts = {}
    for side in ("support", "query"):
        x, y, size = (getattr(tasks, f"{side}_{what}") for what in ("x", "y", "size"))
        part = COMMON * x[..., 1]
        parts |= {f"{side}_x": x[..., :1]}
        parts |= {f"{side}_y": y - part} if likelihood == "normal" else {f"{side}_size": size * part.exp()}
    return replace(tasks, **parts)


@KINDS
def test_posterior_evidence_and_predictions_are_those_without_the_feature(likelihood):
    one, other, tasks, same = twins(likelihood)
    a, b = (m.infer(t) for m, t in ((one, tasks), (other, same)))
    close(a.path[0].loc[..., PLACES], b.path[0].loc)
    assert bool((a.path[0].loc[..., 1] == COMMON).all())
    close(a.path[0].precision, b.path[0].precision)
    close(a.log_evidence, b.log_evidence)
    close(a.kl(), b.kl())
    mask, none = tasks.query_mask, torch.zeros(1)
    for predictive in (True, False):
        of_a = a.log_prob(0, tasks.query_y, none, predictive=predictive)
        close(of_a[mask], b.log_prob(0, same.query_y, none, predictive=predictive)[mask])
    shift = COMMON * tasks.query_x[..., 1] if likelihood == "normal" else 0.0
    levels = torch.tensor([0.1, 0.9], dtype=torch.float64)
    close(a.predict(0)["std"][mask], b.predict(0)["std"][mask])
    close(a.predict(0)["mean"][mask], (b.predict(0)["mean"] + shift)[mask])
    close(a.quantile(0, levels)[:, mask], (b.quantile(0, levels) + shift)[:, mask], 1e-6)
    w, y, _ = a.draw(0, 50, generator=generator(0))
    v, z, _ = b.draw(0, 50, generator=generator(0))
    close(w[..., PLACES], v)
    close(y[:, mask], (z + shift)[:, mask])


@KINDS
def test_the_evidence_of_all_rows_is_that_without_the_feature(likelihood):
    one, other, tasks, same = twins(likelihood)
    exact = ebmeta.Objective("evidence", num_draws=8)
    noise = torch.randn(8, 4, 1, 3, generator=generator(0), dtype=torch.float64)
    a = exact.terms(one, tasks, noise=noise).loss
    close(a, exact.terms(other, same, noise=noise[..., PLACES]).loss)


@KINDS
def test_both_programs_have_the_density_without_the_feature(likelihood):
    one, other, tasks, same = twins(likelihood)
    log_density = []
    for model, batch, name in ((one, tasks, "varying"), (other, same, "w")):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        drawn = poutine.trace(model.guide).get_trace(batch, "both")
        joint = poutine.trace(poutine.replay(model.model, drawn)).get_trace(batch, "both")
        log_density += [drawn.log_prob_sum(), joint.log_prob_sum(), drawn.nodes[name]["value"]]
    for k in range(3):
        close(log_density[k], log_density[k + 3])


def test_nuts_moves_the_varying_weights_alone():
    one, _, tasks, _ = twins("normal")
    few = tasks[:2]
    tree = reference.nuts(one, few, num_warmup=100, num_draws=300, num_chains=1)
    w, q = tree["posterior/w"].values[0].copy(), one.infer(few).path[0]
    assert (w[..., 1] == COMMON).all()
    loc, scale = (v[:, 0, PLACES].detach().numpy() for v in (q.loc, q.scale))
    # Four weights at 5 errors of a hundred effective draws: below 1e-5.
    assert np.abs((w[..., 0, PLACES].mean(0) - loc) / scale).max() < 0.5
    np.testing.assert_allclose(w[..., 0, PLACES].std(0) / scale, 1.0, atol=0.35)
    eta = one.predictor(one.predictor.features(few.query_x), torch.from_numpy(w))
    exact = one.likelihood.log_prob(few.query_y, eta, few.way_mask, Given(few.query_size)).detach()
    mask = few.query_mask.numpy()
    np.testing.assert_allclose(tree["log_likelihood/query_y"].values[0][:, mask], exact[:, mask], atol=1e-6)


def test_the_program_of_numpyro_has_the_same_density():
    import numpyro

    one, _, tasks, _ = twins("poisson")
    phi = one.predictor.features(tasks.support_x).detach().numpy()
    program = numpyro.handlers.seed(reference.numpyro_model(one), 0)
    drawn = numpyro.handlers.trace(program).get_trace(
        phi, tasks.support_y.numpy(), tasks.support_mask.numpy(), size=tasks.support_size.numpy()
    )
    w = np.asarray(drawn["w"]["value"])
    np.testing.assert_array_equal(w[..., PLACES], drawn["varying"]["value"])
    np.testing.assert_allclose(w[..., 1], COMMON, rtol=1e-6)
    law = drawn["varying"]["fn"].log_prob(drawn["varying"]["value"])
    exact = one.prior(4, 1).log_prob({"varying": torch.from_numpy(w[..., PLACES]).double()}).detach()
    np.testing.assert_allclose(law, exact, rtol=1e-4)


def test_importance_weights_of_an_exact_posterior_are_even():
    one, other, tasks, same = twins("normal")
    found, exact = (diagnostics.check_posteriors(m, t, num_draws=50) for m, t in ((one, tasks), (other, same)))
    assert float(found["khat_rows"].max()) == 0.0
    for name in ("khat", "gap", "gap_unseen", "log_evidence", "effective_size"):
        np.testing.assert_allclose(found[name], exact[name], atol=1e-6, err_msg=name)


def test_importance_weights_of_counts_count_the_common_part():
    one, other, tasks, same = twins("poisson")
    found, exact = (diagnostics.check_posteriors(m, t, num_draws=4000) for m, t in ((one, tasks), (other, same)))
    # Other draws of the same law: the log evidence of 4000 of them errs by less than .02 nats, by five errors or more.
    np.testing.assert_allclose(found["log_evidence"], exact["log_evidence"], atol=0.02)
    np.testing.assert_allclose(found["nll_corrected"], exact["nll_corrected"], atol=0.02)


@KINDS
def test_other_diagnostics_are_those_without_the_feature(likelihood):
    one, other, tasks, same = twins(likelihood)
    for measure in (diagnostics.posterior_updates, diagnostics.rate_distortion, diagnostics.generalization_gap):
        a, b = (measure(m, t) for m, t in ((one, tasks), (other, same)))
        for name in a.data_vars:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-9, err_msg=f"{measure.__name__}: {name}")


def test_conformal_intervals_are_those_without_the_feature():
    one, other, tasks, same = twins("normal")
    shift = COMMON * tasks.query_x[..., 1].numpy()
    a, b = (ebmeta.ConformalIntervals(m, 0.7).calibrate(t).predict(t) for m, t in ((one, tasks), (other, same)))
    for end in ("lower", "upper"):
        np.testing.assert_allclose(a[end], b[end] + shift, atol=1e-6)


def test_simulation_finds_the_posterior_calibrated():
    one, _, tasks, _ = twins("normal")
    drawn, w = simulate_tasks(one, tasks)
    assert bool((w[..., 1] == COMMON).all())
    assert drawn.query_y.isfinite().all()
    found = diagnostics.simulation_based_calibration(one, tasks, num_tasks=100, num_draws=20)
    assert found.verdict == "calibrated"  # by chance not in one of twenty seeds
    names = found.pit["quantity"].values.tolist()
    assert ["weight 1" in names, *[f"weight {p}" in names for p in PLACES]] == [False, True, True]


def test_refinement_is_the_limit_of_a_small_spread():
    """The network of a step reads all features; a weight without spread takes no part in it."""
    one, wide = (regressor(2, random=random, scale=0.0) for random in ([0], None))
    perturb(wide.prior, scale=0.4)
    with torch.no_grad():
        wide.prior.log_scale[1] = np.log(1e-5)
        wide.prior.lower[1] = 0.0
        wide.prior.lower[:, 1] = 0.0
        one.prior.loc.copy_(wide.prior.loc)
        one.prior.log_scale.copy_(wide.prior.log_scale[PLACES])
        one.prior.lower.copy_(wide.prior.lower[PLACES][:, PLACES])
        for p in wide.refiner.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator(1), dtype=p.dtype))
        one.refiner.load_state_dict(wide.refiner.state_dict())
    tasks = number_tasks("normal", features=2)
    moved = 0.0
    for a, b in zip(one.posterior(tasks), wide.posterior(tasks), strict=True):
        close(a.loc, b.loc, 1e-6)
        close(a.scale[..., PLACES], b.scale[..., PLACES], 1e-6)
        assert torch.equal(a.loc[..., 1], one.prior.loc[1].expand(4, 1))
        moved = float((a.loc - one.posterior(tasks)[0].loc).detach().abs().max())
    assert moved > 0.01  # the steps do something


def test_saved_models_predict_the_same_to_the_bit(tmp_path):
    model, tasks = regressor(3, likelihood="poisson", random=[2, 0]), number_tasks("poisson")
    again = ebmeta.load(ebmeta.save(model, tmp_path / "model"))
    assert again.prior.varying == (0, 2, 3)
    a, b = (predict(m, tasks, num_draws=5) for m in (model, again))
    for group in ("predictive", "posterior"):
        for name, value in a[group].data_vars.items():
            np.testing.assert_array_equal(value, b[group][name])


def test_all_features_at_random_are_the_default_to_the_bit():
    tasks, models = number_tasks("normal"), [EmpiricalBayes.regressor(3, random=r) for r in (None, range(3), [2, 0, 1])]
    assert [m.state_dict().keys() for m in models] == [models[0].state_dict().keys()] * 3
    for model in models:
        ebmeta.fit(model, as_source(tasks), num_iterations=3, batch_size=4, device="cpu")
    first, *others = (model.state_dict() for model in models)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_training_moves_common_weights():
    rng = np.random.default_rng(0)
    X, g = rng.normal(size=(800, 2)), np.repeat(np.arange(100), 8)
    y = 1.5 * X[:, 1] + rng.normal(size=100)[g] + 0.1 * rng.normal(size=800)
    model = EmpiricalBayes.regressor(2, random=[], num_steps=1)
    ebmeta.fit(model, ebmeta.GroupSampler(X, y, g, n_support=3), num_iterations=100, learning_rate=0.05, device="cpu")
    loc, covariance = in_units(model, model.prior(1, 1))
    np.testing.assert_allclose(loc[0, 0, :2].detach(), [0.0, 1.5], atol=0.1)
    assert model.prior.log_scale.shape == (1,)
    assert not bool(covariance[0, 0, :2].any())
    assert not bool(covariance[0, 0, :, :2].any())
    assert bool(covariance[0, 0, 2, 2] > 0)


def test_an_ensemble_holds_values_of_common_weights():
    one, _, tasks, _ = twins("poisson")
    values = one.prior.loc.detach().repeat(2, 1)
    values[1, 1] += 0.5
    ensemble = PriorEnsemble(one, ("prior.loc",), values, torch.tensor([0.5, 0.5]).log(), new_groups=False)
    means = [member.infer(tasks).predict(0)["mean"] for member in ensemble.members]
    assert bool((means[1] - means[0])[tasks.query_mask].abs().max() > 0.1)
    close(ensemble.infer(tasks).predict(0)["mean"], (means[0] + means[1]) / 2)


def test_propagation_gives_a_common_weight_its_standard_error():
    data = frame()
    model, tasks = EmpiricalBayes.regressor(2, random=[0], num_steps=0).double(), sampler(data)
    ebmeta.fit_evidence(model, tasks, hyperprior=True, boundary=False)
    ensemble = ebmeta.propagate(model, tasks, num_draws=60)
    error = ebmeta.mixed_model("y ~ a + b + (1 + a | g)", data).fixed_effects.loc["b", "std_error"]
    units = [float(in_units(m, m.prior(1, 1))[0][0, 0, 1].detach()) for m in ensemble.members]
    weight = ensemble.log_weight.exp().numpy()
    spread = np.sqrt(np.cov(units, aweights=weight, ddof=0))
    assert spread == pytest.approx(
        float(error), rel=0.3
    )  # six errors of a spread of 200 draws; the hyperprior widens it


def frame(likelihood="normal", seed=3, groups=30, rows=6):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    a, b = rng.normal(2, 1.5, size=len(g)), rng.normal(-1, 0.5, size=len(g))
    own = rng.multivariate_normal([0, 0], [[0.5, 0.1], [0.1, 0.2]], size=groups)
    eta = 0.5 + own[g, 0] + (0.3 + own[g, 1]) * (a - 2) - 0.6 * b
    y = rng.poisson(np.exp(eta)) if likelihood == "poisson" else eta + 0.7 * rng.normal(size=len(g))
    return pd.DataFrame({"g": g, "a": a, "b": b, "y": y.astype(float)})


def sampler(data):
    return ebmeta.GroupSampler(data[["a", "b"]].to_numpy(), data["y"].to_numpy(), data["g"].to_numpy(), n_support=3)


@pytest.mark.parametrize(("formula", "random"), [("y ~ a + b + (1 + a | g)", [0]), ("y ~ a + b + (1 | g)", [])])
def test_normal_labels_have_the_maximum_of_a_mixed_model(formula, random):
    data = frame()
    expected, X = ebmeta.mixed_model(formula, data), data[["a", "b"]].to_numpy()
    model = EmpiricalBayes.regressor(2, random=random, num_steps=0).double()
    found = ebmeta.fit_evidence(model, sampler(data))
    assert found.log_evidence == pytest.approx(expected.log_likelihood, rel=1e-6)
    loc, covariance = (v[0, 0].detach().numpy() for v in in_units(model, model.prior(1, 1)))
    beta = expected.fixed_effects["estimate"].to_numpy()
    np.testing.assert_allclose(loc, [*beta[1:], beta[0]], rtol=1e-3)
    table = expected.variance_components["estimate"]
    spread = np.sqrt(np.diag(covariance))
    assert spread[-1] == pytest.approx(table.loc[("g", "sd(Intercept)")], rel=2e-3)
    if random:
        assert spread[0] == pytest.approx(table.loc[("g", "sd(a)")], rel=2e-3)
    varying = [*random, 2]
    assert not covariance[np.setdiff1d(np.arange(2), varying)].any()
    assert found.gain.isfinite().nonzero().flatten().tolist() == varying
    new = data[:5].assign(g=-1)
    new.loc[3:, "y"] = np.nan
    theirs = expected.predict(new, 0.9).iloc[3:]
    estimator = ebmeta.FewShotRegressor(model).fit(X[:3], data["y"][:3])
    mean, std = estimator.predict(X[3:5], return_std=True)
    np.testing.assert_allclose(mean, theirs["mean"], atol=1e-3)
    np.testing.assert_allclose(std, theirs["sd"], rtol=1e-3)


def test_counts_have_the_maximum_of_a_mixed_model():
    data = frame("poisson")
    expected = ebmeta.mixed_model("y ~ a + b + (1 + a | g)", data, likelihood="poisson")
    model = EmpiricalBayes.regressor(2, "poisson", random=[0], num_steps=0).double()
    found = ebmeta.fit_evidence(model, sampler(data), boundary=False, num_draws=64)
    assert found.log_evidence == pytest.approx(expected.log_likelihood, abs=0.1)  # draws against quadrature
    loc, covariance = (v[0, 0].detach().numpy() for v in in_units(model, model.prior(1, 1)))
    table = expected.fixed_effects
    beta, error = table["estimate"].to_numpy(), table["std_error"].to_numpy()
    np.testing.assert_allclose((loc - beta[[1, 2, 0]]) / error[[1, 2, 0]], 0.0, atol=0.1)
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(spread[[2, 0]], expected.variance_components["estimate"].to_numpy()[:2], rtol=0.03)
    assert spread[1] == 0


def test_a_feature_of_the_group_may_be_a_common_term():
    """With a weight that varies it could not be told from the intercept."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(40), 5)
    z = rng.normal(size=40)[g]
    y = 2 * z + rng.normal(size=40)[g] + rng.normal(size=200)
    data = pd.DataFrame({"g": g, "z": z, "y": y})
    tasks = ebmeta.GroupSampler(z[:, None], y, g, n_support=2)
    model = EmpiricalBayes.regressor(1, random=[], num_steps=0).double()
    found = ebmeta.fit_evidence(model, tasks)
    assert not found.notes
    assert found.log_evidence == pytest.approx(ebmeta.mixed_model("y ~ z + (1 | g)", data).log_likelihood, rel=1e-6)
    with pytest.warns(UserWarning, match="feature 0 never varies within a group"):
        ebmeta.fit_evidence(EmpiricalBayes.regressor(1, num_steps=0), tasks, boundary=False)


def test_the_fully_bayesian_model_has_the_same_terms():
    one, _, tasks, _ = twins("poisson")
    rows = Rows.of_tasks(one, tasks)
    phi = one.predictor.features(tasks.support_x)[tasks.support_mask].detach().numpy()
    np.testing.assert_array_equal(rows.random, phi[:, PLACES])
    np.testing.assert_array_equal(rows.fixed, phi[:, [1]])


@pytest.mark.parametrize(
    ("random", "message"),
    [
        ([3], r"^random: expected numbers of 3 features, each once from 0, got \[3\]$"),
        ([1, 1], r"^random: expected numbers of 3 features, each once from 0, got \[1, 1\]$"),
        ([-1], "^random: expected at least 0, got -1$"),
        ([0.5], "^random: expected a sequence, each a whole number, got 0.5 at place 0$"),
        ([True], "^random: expected a sequence, each a whole number, got True at place 0$"),
        (["age"], "^random: expected a sequence, each a whole number, got 'age' at place 0$"),
        ("age", "^random: expected .*, got 'age'$"),
        (0, "^random: expected .*, got 0$"),
    ],
)
def test_bad_features_are_refused_in_one_line(random, message):
    with pytest.raises(ValueError, match=message):
        EmpiricalBayes.regressor(3, random=random)


def test_numbers_are_those_of_functions_and_of_outputs():
    spline = {"name": "spline", "num_inputs": 2, "num_knots": 5}
    assert EmpiricalBayes.regressor(2, basis=spline, random=[13]).prior.varying == (13, 14)
    with pytest.raises(ValueError, match=r"random: expected numbers of 14 functions of the basis, each once from 0"):
        EmpiricalBayes.regressor(2, basis=spline, random=[14])
    tasks = number_tasks("normal", features=3)
    model = EmpiricalBayes.regressor(2, random=[], embedder=torch.nn.Linear(3, 2)).double()
    ebmeta.fit(model, as_source(tasks), num_iterations=2, batch_size=4, device="cpu")
    assert model.infer(tasks).path[-1].scale[..., :2].abs().max() == 0
    assert bool(model.predictor.embedder.weight.grad.abs().sum() > 0)
    assert EmpiricalBayes.regressor(0, random=[]).prior.varying == (0,)
