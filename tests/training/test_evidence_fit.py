"""The evidence fit: exact maxima, and what it says of the boundary."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import number_tasks, real_tasks
from scipy import optimize

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler
from ebmeta.model.units import in_units
from ebmeta.simulate import conjugate
from ebmeta.training.evidence import log_hyperprior
from tests.training.test_evidence import one_way


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


def test_weights_that_hardly_differ_leave_digits_to_predictions():
    rng = np.random.default_rng(9)
    group, X = np.repeat(np.arange(25), 8), rng.normal(size=(200, 2))
    y = 0.3 + 0.5 * X[:, 0] + 0.7 * rng.normal(size=25)[group] + rng.normal(size=200)
    model = EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(model, GroupSampler(X, y, group, n_support=3), boundary=False)
    with torch.no_grad():
        prior = model.prior.gaussian()
        loc, precision = prior.loc.numpy().ravel(), prior.precision.numpy().reshape(3, 3)
        noise = float(model.likelihood.noise())
    center, unit = (float(v) for v in (model.likelihood.center, model.likelihood.unit))
    assert np.linalg.cond(precision) > 1e5
    x = np.column_stack([(X - X.mean(0)) / X.std(0), np.ones(200)])
    known = x[:8].T / noise**2
    weights = np.linalg.solve(precision + known @ x[:8], precision @ loc + known @ ((y[:8] - center) / unit))
    predicted = ebmeta.FewShotRegressor(model).fit(X[:8], y[:8]).predict(X[8:])
    np.testing.assert_allclose(predicted, center + unit * x[8:] @ weights, rtol=0, atol=1e-8)


def test_the_evidence_is_at_its_maximum():
    X, y, group = one_way()
    tasks = GroupSampler(X, y, group, n_support=1)
    model = EmpiricalBayes.regressor(1, num_steps=0)
    with torch.inference_mode():  # gradients come from nowhere else
        found = ebmeta.fit_evidence(model, tasks)
    assert found.converged
    assert next(model.parameters()).dtype == torch.float64
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
    assert str(found).endswith("fit with hyperprior=True, and use ebmeta.propagate")
    assert str(replace(found, hyperprior=True)).endswith("averages over what is left open")


def random_slopes(features: int, groups: int, rows: int) -> GroupSampler:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(groups), rows)
    X = rng.normal(size=(len(group), features))
    y = X[:, 0] + rng.normal(size=groups)[group] + 0.5 * rng.normal(size=len(group))
    return GroupSampler(X, y, group, n_support=1)


def test_a_fit_that_stopped_early_says_so():
    with pytest.warns(UserWarning, match=r"fit_evidence: not converged after max_iterations=3: .* left to gain"):
        found = ebmeta.fit_evidence(
            EmpiricalBayes.regressor(4, num_steps=0),
            random_slopes(4, 30, 6),
            hyperprior=log_hyperprior,  # of one's own, as far as the fit knows
            boundary=False,
            max_iterations=3,
        )
    assert not found.converged
    assert "not converged" in str(found)
    with pytest.warns(UserWarning, match="not converged"):
        poor = ebmeta.fit_evidence(
            EmpiricalBayes.regressor(1, "poisson", num_steps=0).double(),
            number_tasks("poisson", supports=(6,) * 20, queries=(6,) * 20, features=1),
            hyperprior=log_hyperprior,  # of one's own, as far as the fit knows: by draws
            boundary=False,
            num_draws=4,
            max_iterations=2,
        )
    assert not poor.converged


def test_a_classifier_has_no_evidence_fit():
    with pytest.raises(ValueError, match="fit_evidence: expected a model for numbers, got a classifier"):
        ebmeta.fit_evidence(EmpiricalBayes.classifier(3), real_tasks())


def test_a_binomial_model_is_fitted_on_its_sizes():
    batch = number_tasks("binomial", supports=(6,) * 30, queries=(6,) * 30, features=1)
    model = EmpiricalBayes.regressor(1, "binomial", num_steps=0).double()
    found = ebmeta.fit_evidence(model, batch, num_draws=8)
    assert found.converged
    assert np.isfinite(found.log_evidence)


def test_a_fit_may_leave_the_boundary_alone():
    X, y, group = one_way(groups=5, rows=4)
    model = EmpiricalBayes.regressor(1, num_steps=0).double()
    found = ebmeta.fit_evidence(model, GroupSampler(X, y, group, n_support=1), boundary=False)
    again = ebmeta.fit_evidence(copy.deepcopy(model), GroupSampler(X, y, group, n_support=1))
    assert found.log_evidence == pytest.approx(again.log_evidence, abs=1e-4)
    assert str(found) == f"log evidence {found.log_evidence:.2f} nats"
    with pytest.raises(ValueError, match="expected a fit with boundary=True"):
        _ = found.at_boundary


def test_an_evidence_that_still_rises_is_no_error():
    scales = torch.ones(2, dtype=torch.float64)
    fit = ebmeta.EvidenceFit(EmpiricalBayes.regressor(1), -1.0, scales, None, False, left=math.inf)
    assert fit.left == math.inf
