"""The evidence fit and the uncertainty that it leaves: exact maxima, the boundary, mixtures over priors."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from builders import close, number_tasks, real_tasks
from scipy import optimize, stats

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler, TaskBatch
from ebmeta.foundation.maximum import ENOUGH, gain_left
from ebmeta.model.units import in_units
from ebmeta.simulate import conjugate
from ebmeta.training.ensemble import temper
from ebmeta.training.evidence import Evidence


def one_way(groups: int = 12, rows: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    X = rng.normal(size=(groups * rows, 1))
    y = (2 + 3 * rng.normal(size=groups))[group] + 1.5 * X[:, 0] + 0.5 * rng.normal(size=len(group))
    return X, 100 * y + 7, group  # far from unit scale on purpose


def largest_log_density(z: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """Return the largest log density of normal labels with independent random weights of the columns z, by SciPy."""
    design = np.column_stack([z, np.ones(len(y))])
    same = group[:, None] == group

    def loss(log_sd: np.ndarray) -> float:
        *spreads, noise = np.exp(2 * np.clip(log_sd, -15, 15))
        v = noise * np.eye(len(y)) + sum(s * np.outer(c, c) * same for s, c in zip(spreads, z.T, strict=True))
        half = np.linalg.cholesky(v)
        d, r = np.linalg.solve(half, design), np.linalg.solve(half, y)
        rest = r - d @ np.linalg.lstsq(d, r, rcond=None)[0]
        return len(y) * np.log(2 * np.pi) / 2 + np.log(half.diagonal()).sum() + rest @ rest / 2

    starts = [np.full(z.shape[1] + 1, np.log(y.std())) + np.r_[np.full(z.shape[1], a), -1] for a in (-6.0, -1.0, 0.0)]
    return -min(optimize.minimize(loss, start, method="Nelder-Mead", options={"fatol": 1e-6}).fun for start in starts)


def test_the_evidence_is_at_its_maximum():
    X, y, group = one_way()
    tasks = GroupSampler(X, y, group, n_support=1)
    model = EmpiricalBayes.regressor(1, num_steps=0)
    found = ebmeta.fit_evidence(model, tasks)
    assert found.converged
    assert next(model.parameters()).dtype == torch.float32
    model.double()
    batch = tasks.everything().to(torch.float64).pooled()

    def evidence() -> float:
        x = model.predictor.features(batch.support_x)
        labels = model.likelihood.statistic(batch.support_y, 1)[..., 0]
        args = model.prior(12, 1), x, labels, batch.support_mask, model.likelihood.dispersion()
        return conjugate.log_evidence(*args).sum().item() - len(y) * float(model.likelihood.unit.log())

    best = evidence()
    assert found.log_evidence == pytest.approx(best, abs=1e-3)
    for parameter in (model.prior.loc, model.prior.log_scale, model.likelihood.log_noise):
        for step in (-0.05, 0.05):
            kept = parameter.data.clone()
            parameter.data = kept + step
            assert evidence() < best
            parameter.data = kept
    loc, covariance = in_units(model, model.prior(1, 1))
    assert loc[0, 0, 0].item() == pytest.approx(150, rel=0.15)
    assert covariance[0, 0, 1, 1].sqrt().item() == pytest.approx(300, rel=0.5)
    assert found.at_boundary == [0]  # the slope is the same in all groups
    # Without the spread of the intercept (at mean features), noise and slopes explain it, fitted anew.
    assert best - float(found.gain[1]) == pytest.approx(largest_log_density(X - X.mean(0), y, group), abs=1e-3)
    assert "weight 0" in str(found)
    assert "intercept" not in str(found)
    assert str(found).endswith("so fit with hyperprior=True")
    assert str(replace(found, hyperprior=True)).endswith("averages over what is left open")


def random_slopes(features: int, groups: int, rows: int) -> GroupSampler:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(groups), rows)
    X = rng.normal(size=(len(group), features))
    y = X[:, 0] + rng.normal(size=groups)[group] + 0.5 * rng.normal(size=len(group))
    return GroupSampler(X, y, group, n_support=1)


def test_many_features_reach_the_maximum():
    tasks, model = random_slopes(10, 40, 12), EmpiricalBayes.regressor(10, num_steps=0).double()
    found = ebmeta.fit_evidence(model, tasks, boundary=False)
    assert found.converged
    assert found.left < 0.01
    # From there nothing is gained, by another function of other parameters and another optimiser.
    evidence = Evidence(model, tasks, hyperprior=False)
    start = evidence.read().numpy()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(flat)
        return evidence.value(at), evidence.gradient(at).numpy()

    again = optimize.minimize(loss, start, jac=True, method="BFGS", options={"maxiter": 60})
    assert found.log_evidence == pytest.approx(-loss(start)[0], abs=1e-3)
    assert -again.fun < found.log_evidence + 0.02


def test_a_fit_that_stopped_early_says_so():
    with pytest.warns(UserWarning, match=r"fit_evidence: not converged after max_iterations=3: .* left to gain"):
        found = ebmeta.fit_evidence(
            EmpiricalBayes.regressor(4, num_steps=0), random_slopes(4, 30, 6), boundary=False, max_iterations=3
        )
    assert not found.converged
    assert "not converged" in str(found)
    with pytest.warns(UserWarning, match="not converged"):
        poor = ebmeta.fit_evidence(
            EmpiricalBayes.regressor(1, "poisson", num_steps=0).double(),
            number_tasks("poisson", supports=(6,) * 20, queries=(6,) * 20, features=1),
            boundary=False,
            num_draws=4,
            max_iterations=2,
        )
    assert not poor.converged


def test_more_parameters_than_rows_are_not_fitted():
    with pytest.warns(UserWarning, match="253 parameters for 240 rows: the evidence has no maximum"):
        found = ebmeta.fit_evidence(EmpiricalBayes.regressor(20, num_steps=0), random_slopes(20, 40, 6), boundary=False)
    assert not found.converged
    assert "253 parameters" in str(found)
    assert (
        0.3 < float(found.model.likelihood.unit * found.model.likelihood.log_noise.detach().exp()) < 0.7
    )  # 0.5 simulated
    exact = np.random.default_rng(0).normal(size=(30, 1))
    with pytest.warns(UserWarning, match="the noise goes to 0"):
        ebmeta.fit_evidence(
            EmpiricalBayes.regressor(1, num_steps=0),
            GroupSampler(exact, (exact[:, 0] + 1) * np.repeat([1, 2, 3, 4, 5], 6), np.repeat(range(5), 6), n_support=1),
            boundary=False,
        )


def test_what_is_left_is_what_newton_would_gain():
    g = np.random.default_rng(0)
    root = g.normal(size=(6, 6)) * 10.0 ** np.arange(-2, 4)
    hessian, at = root.T @ root, g.normal(size=6)
    assert gain_left(lambda x: (x @ hessian @ x / 2, hessian @ x), at) == pytest.approx(at @ hessian @ at / 2, rel=1e-3)


def test_every_row_counts_once():
    X, y, group = one_way(groups=3, rows=4)
    batch = GroupSampler(X, y, group, n_support=2).everything()
    assert batch.support_mask.sum() == 0
    assert batch.query_y.flatten().tolist() == y.tolist()


def test_a_classifier_has_no_evidence_fit():
    with pytest.raises(ValueError, match="fit_evidence: expected a model for numbers, got a classifier"):
        ebmeta.fit_evidence(EmpiricalBayes.classifier(3), real_tasks())


def test_a_hyperprior_of_your_own():
    X, y, group = one_way()
    tasks = GroupSampler(X, y, group, n_support=1)
    held = EmpiricalBayes.regressor(1, num_steps=0)
    ebmeta.fit_evidence(held, tasks, hyperprior=lambda model: -1e6 * (model.prior.loc - 0.25).square().sum())
    close(held.prior.loc.detach(), torch.full((2,), 0.25), 1e-3)


@pytest.fixture(scope="module")
def ensemble() -> ebmeta.PriorEnsemble:
    X, y, group = one_way(groups=5, rows=4)
    tasks = GroupSampler(X, y, group, n_support=1)
    model = EmpiricalBayes.regressor(1, "normal_per_task", num_steps=0).double()
    ebmeta.fit_evidence(model, tasks, hyperprior=True)
    return ebmeta.propagate(model, tasks, num_draws=12)


def new_rows(size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    X, y, _ = one_way(groups=1, rows=size, seed=3)
    return X, y


def test_a_mixture_predicts_the_mean_of_its_members(ensemble):
    X, y = new_rows()
    batch = TaskBatch(*(torch.from_numpy(v)[None] for v in (X[:2], y[:2], X[2:], y[2:])))
    inferred = ensemble.infer(batch)
    weight = inferred.log_weight[0].exp()
    evidence = torch.stack([m.infer(batch).log_evidence[0] for m in ensemble.members])
    close(weight, torch.softmax(evidence + ensemble.log_weight, 0))
    parts = [m.infer(batch) for m in ensemble.members]
    mean = sum(w * p.predict(-1)["mean"] for w, p in zip(weight, parts, strict=True))
    none = torch.zeros(1)
    density = sum(
        w * p.log_prob(-1, batch.query_y, none, predictive=True).exp() for w, p in zip(weight, parts, strict=True)
    )
    close(inferred.predict(-1)["mean"], mean)
    close(inferred.log_prob(-1, batch.query_y, none, predictive=True), density.log())
    quantiles = inferred.quantile(-1, torch.tensor([0.1, 0.9], dtype=torch.float64))
    for level, q in zip((0.1, 0.9), quantiles, strict=True):
        close(inferred.cdf(-1, q), torch.full((1, 2), level, dtype=torch.float64), 1e-6)


def test_an_ensemble_takes_the_place_of_the_model(ensemble):
    X, y = new_rows(6)
    reg = ebmeta.FewShotRegressor(ensemble).fit(X[:3], y[:3])
    mean, std = reg.predict(X[3:], return_std=True)
    draws = reg.sample(X[3:], 40_000)
    # 40,000 draws; six sigma of the mean for three rows: false alarms at 6e-9.
    assert np.abs((draws.mean(0) - mean) / (std / 200)).max() < 6
    assert np.abs(draws.std(0) / std - 1).max() < 0.1
    batch = TaskBatch(*(torch.from_numpy(v)[None] for v in (X[:3], y[:3], X[3:], y[3:])))
    assert np.isfinite(ebmeta.evaluate(ensemble, batch)["nll"].values).all()
    tree = ebmeta.predict(ensemble, batch, num_draws=5)
    assert tree["log_likelihood/query_y"].shape == (1, 5, 1, 3)
    with pytest.raises(ValueError, match="got one built from parts"):
        ebmeta.save(ensemble, "nowhere")


def test_few_groups_widen_the_intervals(ensemble):
    plain = EmpiricalBayes.regressor(1, "normal_per_task", num_steps=0).double()
    X, y, group = one_way(groups=5, rows=4)
    ebmeta.fit_evidence(plain, GroupSampler(X, y, group, n_support=1), hyperprior=True)
    x = new_rows()[0]
    wide, narrow = (
        np.subtract(*ebmeta.FewShotRegressor(m).fit(np.empty((0, 1)), np.empty(0)).interval(x)[::-1])
        for m in (ensemble, plain)
    )
    assert (wide > 1.1 * narrow).all()


def test_a_binomial_model_is_fitted_on_its_sizes():
    batch = number_tasks("binomial", supports=(6,) * 30, queries=(6,) * 30, features=1)
    model = EmpiricalBayes.regressor(1, "binomial", num_steps=0).double()
    found = ebmeta.fit_evidence(model, batch, num_draws=8)
    assert found.converged
    assert np.isfinite(found.log_evidence)


def test_bad_counts_of_draws(ensemble):
    with pytest.raises(ValueError, match="num_draws: expected at least 1, got 0"):
        ebmeta.propagate(ensemble.members[0], real_tasks(features=1), num_draws=0)


def test_a_fit_may_leave_the_boundary_alone():
    X, y, group = one_way(groups=5, rows=4)
    model = EmpiricalBayes.regressor(1, num_steps=0).double()
    found = ebmeta.fit_evidence(model, GroupSampler(X, y, group, n_support=1), boundary=False)
    again = ebmeta.fit_evidence(copy.deepcopy(model), GroupSampler(X, y, group, n_support=1))
    assert found.log_evidence == pytest.approx(again.log_evidence, abs=1e-4)
    assert str(found) == f"log evidence {found.log_evidence:.2f} nats"
    with pytest.raises(ValueError, match="expected a fit with boundary=True"):
        _ = found.at_boundary


def test_a_few_ratios_do_not_decide_a_sample():
    log_ratio = torch.tensor([0.0, -1.0, 40.0, -torch.inf, torch.nan, 38.0], dtype=torch.float64)
    weights = temper(log_ratio, 3.0)
    close(1 / weights.square().sum(), torch.tensor(3.0, dtype=torch.float64), 1e-6)
    assert weights[3] == weights[4] == 0
    power = (weights[2] / weights[0]).log() / 40
    close(weights[2].log() - weights[5].log(), 2 * power, 1e-9)
    even = torch.tensor([0.1, 0.0, 0.2], dtype=torch.float64)
    close(temper(even, 2.0), torch.softmax(even, 0))  # enough as they are
    two = torch.tensor([0.0, 50.0], dtype=torch.float64)
    close(temper(two, 5.0), torch.full((2,), 0.5, dtype=torch.float64), 1e-6)  # no more than there are


def weights_apart(groups: int = 60, rows: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of which one feature is the same in all rows."""
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(groups), rows)
    X = np.stack([rng.normal(size=len(group)), (1e4 + rng.normal(size=groups))[group]], 1)
    y = X[:, 0] + 2 * (X[:, 1] - 1e4) + rng.normal(size=groups)[group] + 0.5 * rng.normal(size=len(group))
    return X, y, group


def test_a_feature_of_the_group_is_named_and_is_told_apart_as_a_covariate():
    X, y, group = weights_apart()
    frame = pd.DataFrame({"price": X[:, 0], "area": X[:, 1], "y": y, "shop": group})
    wrong = GroupSampler.from_frame(frame, y="y", groups="shop", n_support=1)
    with pytest.warns(UserWarning, match="fit_evidence: 'area' never varies within a group.* covariate of groups"):
        found = ebmeta.fit_evidence(EmpiricalBayes.regressor(2, num_steps=0), wrong, boundary=False)
    assert "'area' never varies within a group" in str(found)
    with pytest.warns(UserWarning, match="fit: 'area' never varies within a group"):
        ebmeta.fit(EmpiricalBayes.regressor(2, num_steps=0), wrong, 1, progress=False)
    right = GroupSampler.from_frame(frame, y="y", groups="shop", n_support=1, group_features=["area"])
    model = EmpiricalBayes.regressor(1, num_steps=0, num_covariates=1).double()
    ebmeta.fit_evidence(model, right, boundary=False)
    # As a covariate: slope and spread of the groups about it, by least squares of the means of groups.
    near = pd.DataFrame({"rest": y - X[:, 0], "area": X[:, 1] - 1e4, "group": group}).groupby("group").mean()
    (slope, _), (squares,), *_ = np.linalg.lstsq(np.stack([near["area"], np.ones(60)], 1), near["rest"], rcond=None)
    unit = float(model.likelihood.unit)
    with torch.no_grad():
        got = float(model.prior.slope[1, 0] / model.prior.unit[0]) * unit
        spread = float(model.prior.gaussian().expand(1, 1).scale[0, 0, 1]) * unit
    assert got == pytest.approx(slope, abs=0.05)
    assert spread == pytest.approx(np.sqrt(squares / 60 - 0.5**2 / 8), abs=0.05)


@pytest.mark.parametrize(
    ("likelihood", "label", "words"),
    [("normal", 3.0, "got 3 in all 24 rows"), ("poisson", 0.0, "got 0 in all 24"), ("bernoulli", 1.0, "got 1 in all")],
)
def test_labels_that_never_differ_are_refused(likelihood, label, words):
    X, group = np.random.default_rng(0).normal(size=(24, 1)), np.repeat(np.arange(6), 4)
    model = EmpiricalBayes.regressor(1, likelihood, num_steps=0)
    with pytest.raises(ValueError, match=f"^y: expected labels that differ, {words}"):
        ebmeta.fit_evidence(model, GroupSampler(X, np.full(24, label), group, n_support=1))
    assert next(model.parameters()).dtype == torch.float32


def test_what_groups_cannot_tell_is_said():
    X, y, group = weights_apart()
    x = X[:, :1]

    def words(rows: np.ndarray, groups: np.ndarray, likelihood: str = "normal") -> str:
        model = EmpiricalBayes.regressor(rows.shape[1], likelihood, num_steps=0)
        with pytest.warns(UserWarning, match="fit_evidence: "):
            return str(ebmeta.fit_evidence(model, GroupSampler(rows, y, groups, n_support=0), boundary=False))

    assert "2 groups: next to nothing is known of how groups differ" in words(x, group % 2)
    assert "no group has a second row" in words(x, np.arange(len(y)))
    other = np.random.default_rng(1).normal(size=len(y))
    assert "feature 1 is determined by" in words(np.stack([other, x[:, 0] - 2 * other, x[:, 0] * 3], 1), group)


def test_a_feature_that_separates_yes_from_no_is_named():
    rng = np.random.default_rng(0)
    X, group = rng.normal(size=(80, 2)), np.repeat(np.arange(16), 5)
    tasks = GroupSampler(X, (X[:, 1] > 0).astype(float), group, n_support=1)
    model = EmpiricalBayes.regressor(2, "bernoulli", num_steps=0)
    with pytest.warns(UserWarning, match="weight 1 runs off"):
        found = ebmeta.fit_evidence(model, tasks, boundary=False, num_draws=4)
    assert not found.converged


def test_an_ensemble_has_no_single_posterior(ensemble):
    X, y = new_rows(4)
    batch = TaskBatch(*(torch.from_numpy(v)[None] for v in (X[:2], y[:2], X[2:], y[2:])))
    for name, ask in {
        "posterior": lambda: ensemble.posterior(batch),
        "prior_of": lambda: ensemble.prior_of(batch),
        "model": lambda: ensemble.model(batch),
        "guide": lambda: ensemble.guide(batch),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: expected one model, got an ensemble"):
            ask()
    inferred = ensemble.infer(batch)  # what the refusal says to ask instead, against the members
    loc = inferred.each(lambda part: part.path[-1].loc)
    close(loc, torch.stack([m.posterior(batch)[-1].loc for m in ensemble.members]))


def test_a_model_that_is_not_at_its_maximum_is_not_propagated_silently():
    X, y, group = one_way(groups=6, rows=4)
    tasks, model = GroupSampler(X, y, group, n_support=1), EmpiricalBayes.regressor(1, num_steps=0).double()
    with pytest.warns(UserWarning, match="propagate: the parameters are not at a maximum"):
        ebmeta.propagate(model, tasks, num_draws=2)
    ebmeta.fit_evidence(model, tasks, hyperprior=True, boundary=False)
    ebmeta.propagate(model, tasks, num_draws=2)


@pytest.mark.parametrize("levels", [[[0.1, 0.9]], [0.5, 1.0], ["a"], [float("nan")], 7])
def test_levels_of_quantiles_are_a_list_of_probabilities(levels):
    X, y = new_rows(6)
    reg = ebmeta.FewShotRegressor(EmpiricalBayes.regressor(1, num_steps=0)).fit(X[:3], y[:3])
    with pytest.raises(ValueError, match="^levels: expected "):
        reg.quantiles(X[3:], levels)


def test_levels_of_quantiles_may_come_in_any_order():
    X, y = new_rows(6)
    reg = ebmeta.FewShotRegressor(EmpiricalBayes.regressor(1, num_steps=0)).fit(X[:3], y[:3])
    mean, std = reg.predict(X[3:], return_std=True)
    levels = (0.9, 0.1, 0.9, 0.5)
    np.testing.assert_allclose(
        reg.quantiles(X[3:], levels), stats.norm.ppf(levels, mean[:, None], std[:, None]), rtol=1e-5
    )
    np.testing.assert_allclose(reg.quantiles(X[3:], 0.5)[:, 0], mean, rtol=1e-6)


def test_a_spread_of_nothing_leaves_digits_to_the_rest():
    rng = np.random.default_rng(1)
    tasks = GroupSampler(
        rng.normal(size=(48, 1)), (rng.random(48) < 0.5) * 1.0, np.repeat(np.arange(8), 6), n_support=1
    )
    model = EmpiricalBayes.regressor(1, likelihood="bernoulli", num_steps=0).double()
    evidence = Evidence(model, tasks, hyperprior=False)
    assert evidence.maximise(500) < ENOUGH
    expected = evidence.log_evidence().item()
    model.prior.log_scale.data[0] = -63.0  # where a line search may well go: its precision is 5e54
    model.prior.loc.data += 0.1
    assert evidence.maximise(500) < ENOUGH
    assert evidence.log_evidence().item() > expected - 0.3  # what a spread of 0 may cost here
    assert float(model.prior.log_scale.data[0]) >= math.log(1e-6)


@pytest.mark.parametrize("likelihood", ["normal_per_task", "student_t"])
def test_noise_that_vanishes_is_said_of_every_likelihood(likelihood):
    y, groups, size = np.repeat([0.0, 1.0, 4.0], 3), np.repeat([0, 1, 2], 3), np.full(9, 1e9)
    model = EmpiricalBayes.regressor(1, likelihood=likelihood, num_steps=0).double()
    evidence = Evidence(model, GroupSampler(np.arange(9.0)[:, None], y, groups, 1, size=size), hyperprior=False)
    assert evidence.notes() == []
    model.likelihood.log_noise.data -= 16.0  # 1e-7 of the labels' spread
    assert evidence.notes() == [
        "the noise goes to 0, and the evidence has no maximum: the weights of groups explain every label"
    ]


def test_an_evidence_that_still_rises_is_no_error():
    scales = torch.ones(2, dtype=torch.float64)
    fit = ebmeta.EvidenceFit(EmpiricalBayes.regressor(1), -1.0, scales, None, False, left=math.inf)
    assert fit.left == math.inf


def test_the_spread_of_a_count_model_is_held_at_zero_while_all_else_is_fitted():
    """One Poisson law for all groups is the maximum without a spread: its log likelihood is known in closed form."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    y = rng.poisson(np.exp(1 + 1.5 * rng.standard_normal(12))[groups]).astype(float)
    tasks = ebmeta.GroupSampler(np.zeros((60, 0)), y, groups, n_support=2)
    fit = ebmeta.fit_evidence(ebmeta.EmpiricalBayes.regressor(0, "poisson", num_steps=0), tasks, num_draws=64)
    alike = stats.poisson.logpmf(y, y.mean()).sum()
    assert float(fit.gain[0]) == pytest.approx(fit.log_evidence - alike, abs=0.1)
    assert float(fit.gain[0]) > 100


def test_a_spread_held_at_zero_stays_there(monkeypatch):
    """Its logarithm and its row of the factor are held, nothing else is; near 0 no slope would lead an ascent away."""
    model = EmpiricalBayes.regressor(3, "poisson", num_steps=0).double()
    evidence, seen = Evidence(model, number_tasks("poisson", sizes=False), hyperprior=False), []
    monkeypatch.setattr(evidence, "maximise", lambda _, held, *__, **___: seen.append(held) or 0.0)
    evidence.without(1, 5)
    expected = [torch.zeros_like(p, dtype=torch.bool) for p in evidence.parameters]
    for p, held in zip(evidence.parameters, expected, strict=True):
        if p is model.prior.log_scale or p is model.prior.lower:
            held[1] = True
    assert torch.equal(seen[0], torch.cat([held.flatten() for held in expected]))


@pytest.mark.parametrize("num_draws", [1, 3, 200])
def test_predictions_have_as_many_draws_as_asked_for(ensemble, num_draws):
    X, y = new_rows(4)
    batch = TaskBatch(*(torch.from_numpy(v)[None] for v in (X[:2], y[:2], X[2:], y[2:])))
    levels = EmpiricalBayes.regressor(X.shape[1], "normal_per_task").double()
    levels.fitted = True
    assert len(ensemble.members) not in (1, 3, 200)
    for model in (ensemble, levels):
        tree = ebmeta.predict(model, batch, num_draws=num_draws)
        for group, name in (("posterior", "w"), ("posterior_predictive", "query_y"), ("log_likelihood", "query_y")):
            drawn = tree[group][name].isel(chain=0, task=0).values.reshape(num_draws, -1)
            assert np.isfinite(drawn).all()
            assert len(np.unique(drawn[:, 0])) == num_draws
