"""The evidence of labels that are not normal by quadrature: maxima by SciPy, and what is left to draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, special, stats

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler
from ebmeta.model.units import in_units
from ebmeta.training.evidence import Evidence, log_hyperprior
from ebmeta.training.quadrature_evidence import QuadratureEvidence

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
    assert evidence.reached() == pytest.approx(found.log_evidence, abs=0.1)


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
    assert Evidence(model, tasks, hyperprior=False, num_draws=128).reached() == pytest.approx(
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


def test_what_the_engine_does_not_take_is_left_to_draws():
    x, y, group = counts()

    def parts_of(x: np.ndarray, y: np.ndarray, model: EmpiricalBayes) -> list[ebmeta.TaskBatch]:
        return Evidence(model, GroupSampler(x, y, group, n_support=1), hyperprior=False).parts

    model = alike()
    assert QuadratureEvidence.of(model, parts_of(x, y, model), False) is not None
    model.likelihood.requires_grad_(False)
    model.prior.loc.requires_grad_(False)
    assert QuadratureEvidence.of(model, parts_of(x, y, model), False) is None
    wide = EmpiricalBayes.regressor(4, "poisson", num_steps=0).double()
    many = np.random.default_rng(3).normal(size=(len(y), 4))
    assert QuadratureEvidence.of(wide, parts_of(many, y, wide), False) is None
    twice = EmpiricalBayes.regressor(2, "poisson", num_steps=0, random=[]).double()
    assert QuadratureEvidence.of(twice, parts_of(np.hstack([x, x]), y, twice), False) is None
    separated, model = (x[:, 0] > 0).astype(float), alike("bernoulli")
    assert QuadratureEvidence.of(model, parts_of(x, separated, model), False) is None


def test_a_hyperprior_of_ones_own_gives_the_maximum_by_draws():
    x, y, group = counts()
    tasks = GroupSampler(x, y, group, n_support=1)
    found = ebmeta.fit_evidence(alike(), tasks, hyperprior=True, boundary=False)
    drawn = ebmeta.fit_evidence(alike(), tasks, hyperprior=log_hyperprior, boundary=False, num_draws=128)
    assert drawn.log_evidence == pytest.approx(found.log_evidence, abs=0.05)
    torch.testing.assert_close(drawn.scales, found.scales, rtol=0.02, atol=1e-6)
