"""The uncertainty of a prior: a mixture over members, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import close, real_tasks
from scipy import stats

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler, TaskBatch
from ebmeta.training.ensemble import temper
from tests.training.test_evidence import one_way


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


def test_what_needs_one_model_refuses_an_ensemble_in_one_line(ensemble):
    tasks = GroupSampler(*one_way(groups=5, rows=4), n_support=1)
    for refused in (
        lambda: ebmeta.save(ensemble, "nowhere"),
        lambda: ebmeta.fit(ensemble, tasks),
        lambda: ebmeta.fit_evidence(ensemble, tasks),
        lambda: ebmeta.propagate(ensemble, tasks),
        lambda: ebmeta.diagnostics.diagnose(ensemble, tasks),
        lambda: ebmeta.diagnostics.posterior_updates(ensemble, tasks),
        lambda: ebmeta.diagnostics.check_posteriors(ensemble, tasks.sample(2)),
    ):
        with pytest.raises(ValueError, match=r"^model: expected an EmpiricalBayes( \(.+\))?, got PriorEnsemble$"):
            refused()


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


def test_bad_counts_of_draws(ensemble):
    with pytest.raises(ValueError, match="num_draws: expected at least 1, got 0"):
        ebmeta.propagate(ensemble.members[0], real_tasks(features=1), num_draws=0)


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


def test_an_ensemble_has_no_single_posterior(ensemble):
    X, y = new_rows(4)
    batch = TaskBatch(*(torch.from_numpy(v)[None] for v in (X[:2], y[:2], X[2:], y[2:])))
    for name in ("posterior", "prior_of", "model", "guide", "prior", "refiner", "beta"):
        with pytest.raises(AttributeError, match=f"'PriorEnsemble' object has no attribute '{name}'"):
            getattr(ensemble, name)
    inferred = ensemble.infer(batch)  # has one of each member
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


def test_gradients_that_the_user_has_turned_off_change_nothing():
    X, y, group = one_way(groups=5, rows=4)
    tasks = GroupSampler(X, y, group, n_support=1)
    model = ebmeta.fit_evidence(EmpiricalBayes.regressor(1, num_steps=0), tasks, hyperprior=True).model
    wanted = ebmeta.propagate(model, tasks, num_draws=4)
    with torch.no_grad():
        found = ebmeta.propagate(model, tasks, num_draws=4)
    assert torch.equal(found.log_weight, wanted.log_weight)
