"""The evidence by the engines of mixed models: maxima by SciPy, and what is left to draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, special, stats

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler
from ebmeta.model.units import in_units
from ebmeta.parts.basis import SplineBasis
from ebmeta.random_effects.normal import NormalEngine
from ebmeta.training.evidence import Evidence, log_hyperprior
from ebmeta.training.mixed_evidence import MixedEvidence
from tests.training.test_evidence_fit import random_slopes

GROUPS, ROWS = 25, 6


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Return features, linear predictors and groups whose intercepts differ."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(GROUPS), ROWS)
    x = rng.normal(size=(len(group), 1))
    return x, 0.4 + 0.5 * x[:, 0] + 0.7 * rng.normal(size=GROUPS)[group], group, rng


def counts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, eta, group, rng = rows()
    return x, rng.poisson(np.exp(eta)).astype(float), group


def alike(likelihood: str = "poisson", **options) -> EmpiricalBayes:
    """Return a model whose intercept alone varies."""
    return EmpiricalBayes.regressor(1, likelihood, num_steps=0, random=[], **options).double()


def by_integration(x: np.ndarray, y: np.ndarray, group: np.ndarray, log_prob, penalty=lambda s: 0.0):
    """Return the largest log evidence over slope, intercept and spread, by Gauss-Hermite rules of 80 fixed nodes."""
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    x, log_weight = (x[:, 0] - x.mean()) / x.std(), np.log(weight / weight.sum())

    def loss(at: np.ndarray) -> float:
        eta = at[0] * x[:, None] + at[1] + np.exp(at[2]) * node
        total = np.zeros((GROUPS, len(node)))
        np.add.at(total, group, log_prob(y[:, None], eta))
        return -special.logsumexp(total + log_weight, axis=1).sum() - penalty(np.exp(at[2]))

    return optimize.minimize(loss, [0.0, 0.0, -0.5], method="BFGS", options={"gtol": 1e-7})


def poisson(y: np.ndarray, eta: np.ndarray) -> np.ndarray:
    return stats.poisson.logpmf(y, np.exp(eta))


@pytest.mark.parametrize("hyperprior", [False, True])
def test_a_fit_is_the_maximum_of_integrals(hyperprior):
    x, y, group = counts()
    found = ebmeta.fit_evidence(
        model := alike(), GroupSampler(x, y, group, n_support=1), hyperprior=hyperprior, boundary=False
    )
    expected = by_integration(x, y, group, poisson, lambda s: np.log(s) - 0.1 * s if hyperprior else 0.0)
    penalty = expected.x[2] - 0.1 * np.exp(expected.x[2]) if hyperprior else 0.0
    assert found.log_evidence == pytest.approx(-expected.fun - penalty, abs=1e-3)
    assert found.left < 1e-6
    np.testing.assert_allclose(model.prior.loc.detach(), expected.x[:2], atol=1e-3)
    assert found.scales[1].item() == pytest.approx(np.exp(expected.x[2]), abs=1e-3)


def test_the_spread_held_at_zero_loses_what_a_model_without_groups_does():
    x, y, group = counts()
    found = ebmeta.fit_evidence(alike(), GroupSampler(x, y, group, n_support=1))
    design = np.column_stack([x[:, 0], np.ones(len(y))])
    flat = optimize.minimize(lambda b: -poisson(y, design @ b).sum(), np.zeros(2), options={"gtol": 1e-7})
    assert found.gain[1].item() == pytest.approx(found.log_evidence + flat.fun, abs=1e-3)
    assert np.isnan(found.gain[0].item())
    assert found.at_boundary == []


LABELS = {
    "student_t": lambda eta, rng: 10 + 5 * (eta + 0.3 * rng.standard_t(4, eta.shape)),
    "bernoulli": lambda eta, rng: rng.random(eta.shape) < special.expit(eta),
    "negative_binomial": lambda eta, rng: rng.negative_binomial(2, 2 / (2 + np.exp(eta))),
    "zero_inflated_poisson": lambda eta, rng: rng.poisson(np.exp(eta)) * (rng.random(eta.shape) < 0.7),
    "gamma": lambda eta, rng: rng.gamma(3, np.exp(eta) / 3),
    "beta": lambda eta, rng: rng.beta(5 * special.expit(eta), 5 * special.expit(-eta)),
}


@pytest.mark.parametrize("likelihood", LABELS)
def test_a_fit_is_that_of_a_mixed_model(likelihood):
    x, eta, group, rng = rows(1)
    y = LABELS[likelihood](eta, rng).astype(float)
    tasks = GroupSampler(x, y, group, n_support=1)
    found = ebmeta.fit_evidence(model := alike(likelihood), tasks, boundary=False)
    data = pd.DataFrame({"y": y, "x": x[:, 0], "g": group})
    expected = ebmeta.mixed_model("y ~ x + (1 | g)", data, likelihood=likelihood)
    assert found.converged
    assert found.log_evidence == pytest.approx(expected.log_likelihood, abs=0.02)
    own, _ = in_units(model, model.prior(1, 1))
    assert own[0, 0].tolist() == pytest.approx(
        expected.fixed_effects.loc[["x", "Intercept"], "estimate"].to_list(), abs=0.03
    )
    # Many draws of the same model measure the same evidence.
    evidence = Evidence(model, tasks, hyperprior=False, num_draws=128)
    assert evidence.reached()[0] == pytest.approx(found.log_evidence, abs=0.1)


def test_sizes_and_covariates_of_groups_count():
    x, eta, group, rng = rows(2)
    size, covariate = rng.integers(3, 9, size=len(eta)).astype(float), rng.normal(size=GROUPS)[group]
    y = rng.binomial(size.astype(int), special.expit(eta + 0.8 * covariate)).astype(float)
    tasks = GroupSampler(x, y, group, n_support=1, size=size, group_X=covariate[:, None])
    model = EmpiricalBayes.regressor(1, "binomial", num_steps=0, random=[], num_covariates=1)
    found = ebmeta.fit_evidence(model, tasks, boundary=False)
    data = pd.DataFrame({"y": y, "n": size, "x": x[:, 0], "c": covariate, "g": group})
    expected = ebmeta.mixed_model("y ~ x * c + (1 | g)", data, likelihood="binomial", size="n")
    assert found.log_evidence == pytest.approx(expected.log_likelihood, abs=0.02)
    # What was written to the model has that evidence.
    assert Evidence(model, tasks, hyperprior=False, num_draws=128).reached()[0] == pytest.approx(
        found.log_evidence, abs=0.1
    )


def test_labels_without_noise_are_told_of():
    y, group = rows()[3].normal(size=GROUPS)[np.repeat(np.arange(GROUPS), ROWS)], np.repeat(np.arange(GROUPS), ROWS)
    tasks = GroupSampler(np.zeros((len(y), 0)), y, group, n_support=1)
    with pytest.warns(UserWarning, match="the noise goes to 0, and the evidence has no maximum"):
        found = ebmeta.fit_evidence(
            EmpiricalBayes.regressor(0, "student_t", num_steps=0), tasks, boundary=False, max_iterations=100
        )
    assert not found.converged
    assert found.model.likelihood.log_noise.exp().item() == pytest.approx(2e-7)  # and no further is gone


def test_what_the_engine_does_not_take_is_left_to_draws():
    x, y, group = counts()

    def parts_of(x: np.ndarray, y: np.ndarray, model: EmpiricalBayes) -> list[ebmeta.TaskBatch]:
        return Evidence(model, GroupSampler(x, y, group, n_support=1), hyperprior=False).parts

    model = alike()
    assert MixedEvidence.of(model, parts_of(x, y, model), False) is not None
    model.likelihood.requires_grad_(False)
    model.prior.loc.requires_grad_(False)
    assert MixedEvidence.of(model, parts_of(x, y, model), False) is None
    wide = EmpiricalBayes.regressor(5, "poisson", num_steps=0).double()
    many = np.random.default_rng(3).normal(size=(len(y), 5))
    assert MixedEvidence.of(wide, parts_of(many, y, wide), False) is None
    twice = EmpiricalBayes.regressor(2, "poisson", num_steps=0, random=[]).double()
    assert MixedEvidence.of(twice, parts_of(np.hstack([x, x]), y, twice), False) is None
    separated, model = (x[:, 0] > 0).astype(float), alike("bernoulli")
    assert MixedEvidence.of(model, parts_of(x, separated, model), False) is None


def test_a_hyperprior_of_ones_own_gives_the_maximum_by_draws():
    x, y, group = counts()
    tasks = GroupSampler(x, y, group, n_support=1)
    found = ebmeta.fit_evidence(alike(), tasks, hyperprior=True, boundary=False)
    drawn = ebmeta.fit_evidence(alike(), tasks, hyperprior=log_hyperprior, boundary=False, num_draws=128)
    assert drawn.log_evidence == pytest.approx(found.log_evidence, abs=0.05)
    torch.testing.assert_close(drawn.scales, found.scales, rtol=0.02, atol=1e-6)


def largest_normal(x: np.ndarray, y: np.ndarray, group: np.ndarray, noise: np.ndarray | None = None) -> float:
    """Return the largest log density of normal labels whose intercepts and slopes of x may be correlated.

    Args:
        x: one feature, shape `(N,)`.
        y: labels.
        group: of each row.
        noise: known standard deviations; one is fitted by default.
    """
    z, same = np.column_stack([np.ones(len(y)), x]), group[:, None] == group

    def loss(at: np.ndarray) -> float:
        lower = np.array([[at[0], 0.0], [at[1], at[2]]])
        variance = np.full(len(y), np.exp(2 * at[3])) if noise is None else noise**2
        half = np.linalg.cholesky(np.diag(variance) + z @ lower @ lower.T @ z.T * same)
        d, r = np.linalg.solve(half, z), np.linalg.solve(half, y)
        rest = r - d @ np.linalg.lstsq(d, r, rcond=None)[0]
        return len(y) * np.log(2 * np.pi) / 2 + np.log(half.diagonal()).sum() + rest @ rest / 2

    start = np.array([0.5, 0.0, 0.5, -0.5])[: 4 if noise is None else 3]
    kept = loss if noise is None else lambda at: loss(np.append(at, 0.0))
    return -optimize.minimize(kept, start, method="BFGS", options={"gtol": 1e-5}).fun


def slopes(groups: int = 20, each: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a feature, labels and groups whose intercepts and slopes differ."""
    rng = np.random.default_rng(7)
    group = np.repeat(np.arange(groups), each)
    x, own = rng.normal(size=len(group)), rng.normal(size=(2, groups)) * [[0.8], [0.5]]
    return x, 1.0 + x + own[0][group] + own[1][group] * x + 0.6 * rng.normal(size=len(group)), group


def fitted(x: np.ndarray, y: np.ndarray, group: np.ndarray, **options) -> tuple[ebmeta.EvidenceFit, EmpiricalBayes]:
    """Return the fit to a feature, or several, and its model."""
    sizes = {"size": options.pop("size")} if "size" in options else {}
    x = x.reshape(len(y), -1)
    model = EmpiricalBayes.regressor(x.shape[1], num_steps=0, **options)
    tasks = GroupSampler(x, y, group, n_support=(0, 1), **sizes)
    return ebmeta.fit_evidence(model, tasks, boundary=False), model


@pytest.mark.parametrize("each", [4, 2])  # of two rows, the weights of a group could give both
def test_normal_labels_reach_the_maximum_of_their_joint_density(each):
    x, y, group = slopes(each=each, groups=40)
    found, _ = fitted(x, y, group)
    assert found.converged
    assert found.log_evidence == pytest.approx(largest_normal(x, y, group), abs=1e-5)


@pytest.mark.parametrize("each", [4, 1])
def test_known_noise_stays_as_it_is(each):
    x, y, group = slopes(each=each, groups=80)
    noise = np.random.default_rng(8).uniform(0.2, 1.0, size=len(y))
    y = y + noise * np.random.default_rng(9).normal(size=len(y))
    found, model = fitted(x, y, group, size=1 / noise**2, known_noise=True)
    assert found.log_evidence == pytest.approx(largest_normal(x, y, group, noise), abs=1e-5)
    assert (model.likelihood.noise() * model.likelihood.unit).item() == pytest.approx(1.0)


def test_features_that_others_determine_change_nothing():
    x, y, group = slopes()
    alone, _ = fitted(x, y, group)
    with pytest.warns(UserWarning, match="feature 2 is determined by feature 0"):
        both, model = fitted(np.column_stack([x, np.ones(len(x)), 3 * x]), y, group)
    assert both.log_evidence == pytest.approx(alone.log_evidence, abs=1e-6)
    half = alone.model.prior.loc[0].item() / 2
    assert model.prior.loc.tolist()[:3] == pytest.approx([half, 0.0, half], abs=1e-6)


def test_spreads_of_known_noise_have_the_hyperprior_of_others():
    # Noise that happens to be known as it is learned: the same maximum, whose spreads are in units of the labels.
    x, y, group = slopes(groups=6)
    tasks = GroupSampler(x[:, None], y, group, n_support=1)
    learned = EmpiricalBayes.regressor(1, num_steps=0)
    one = ebmeta.fit_evidence(learned, tasks, hyperprior=True, boundary=False)
    noise = (learned.likelihood.noise() * learned.likelihood.unit).item()
    known = GroupSampler(x[:, None], y, group, n_support=1, size=np.full(len(y), noise**-2))
    model = EmpiricalBayes.regressor(1, num_steps=0, known_noise=True)
    other = ebmeta.fit_evidence(model, known, hyperprior=True, boundary=False)
    assert other.log_evidence == pytest.approx(one.log_evidence, abs=1e-5)
    np.testing.assert_allclose(other.scales.detach(), one.scales.detach(), rtol=1e-4)


def test_as_many_parameters_as_rows_leave_weights_uncorrelated():
    rng = np.random.default_rng(2)
    group, x = np.repeat(np.arange(6), 4), rng.normal(size=(24, 5))
    with pytest.warns(UserWarning, match="28 parameters for 24 rows: the evidence has no maximum"):
        found, model = fitted(x, x[:, 0] + rng.normal(size=6)[group] + rng.normal(size=24), group)
    assert not found.converged
    assert not model.prior.correlations.detach().abs().max()


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


def curves() -> tuple[EmpiricalBayes, GroupSampler]:
    """Return curves of 30 groups, and a model of splines, whose weights determine one of each other."""
    rng = np.random.default_rng(0)
    week, peak = rng.integers(0, 52, (30, 12)), rng.normal(26, 4, (30, 1))
    y = 2 * np.exp(-(((week - peak) / 8) ** 2)) + 0.1 * rng.normal(size=week.shape)
    tasks = GroupSampler(week.reshape(-1, 1).astype(float), y.ravel(), np.repeat(np.arange(30), 12), n_support=1)
    return EmpiricalBayes.regressor(1, basis=SplineBasis(num_knots=4), num_steps=0).double(), tasks


@pytest.mark.parametrize("hyperprior", [False, True])
def test_weights_that_hardly_vary_take_few_evaluations(hyperprior, monkeypatch):
    model, tasks = curves()
    seen, expansion = [], NormalEngine._finite
    monkeypatch.setattr(NormalEngine, "_finite", lambda self, at, f: seen.append(0) or expansion(self, at, f))
    found = ebmeta.fit_evidence(model, tasks, hyperprior=hyperprior)
    assert found.converged
    assert len(seen) < 1000
    # The splines and the intercept determine each other, so that each may be left out for nothing.
    np.testing.assert_allclose(found.gain, 0.0, atol=1e-5)
    evidence = Evidence(model, tasks, hyperprior=hyperprior)
    assert found.log_evidence == pytest.approx(evidence.reached()[0], abs=1e-3)  # of the model as it was written

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(flat)
        return evidence.value(at), evidence.gradient(at).numpy()

    # Another function of other parameters, and another optimiser, find nothing above the maximum.
    top = MixedEvidence.of(model, evidence.parts, hyperprior)
    again = optimize.minimize(loss, evidence.read().numpy(), jac=True, method="BFGS", options={"maxiter": 60})
    assert -again.fun < top.constant - top.top.value + 0.01


def test_the_evidence_of_weights_that_nearly_determine_each_other_is_that_of_what_was_written(monkeypatch):
    """Splines lose some to the least spread of a weight given the others, which is told."""
    rng = np.random.default_rng(0)
    x, group = rng.uniform(-2, 2, (1200, 1)), np.repeat(np.arange(30), 40)
    y = np.sin(1.5 * x[:, 0] + 0.4 * rng.normal(size=30)[group]) + 0.05 * rng.normal(size=1200)

    def reached() -> tuple[float, EmpiricalBayes]:
        model = EmpiricalBayes.regressor(1, num_steps=0, basis=SplineBasis(1, 8))
        found = ebmeta.fit_evidence(model, GroupSampler(x, y, group, n_support=4), boundary=False)
        assert found.converged
        return found.log_evidence, model

    value, model = reached()
    features = model.predictor.features(torch.from_numpy(x)[None])[0].numpy()
    with torch.no_grad():
        tril, mean = model.prior.scale_tril().numpy(), model.prior.loc.numpy()
        unit, center = float(model.likelihood.unit), float(model.likelihood.center)
        noise = float(model.likelihood.noise())
    dense = 0.0
    for g in range(30):
        z, own = features[group == g], y[group == g]
        half = z @ tril
        law = stats.multivariate_normal(z @ mean, half @ half.T + noise**2 * np.eye(len(z)))
        dense += law.logpdf((own - center) / unit) - len(own) * np.log(unit)
    assert value == pytest.approx(dense, abs=1e-4)
    monkeypatch.setattr("ebmeta.training.mixed_evidence.ALIKE", 1e-9)
    assert 0.01 < reached()[0] - value < 0.1
