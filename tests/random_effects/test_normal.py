"""Normal labels of groups, compared with the density of all labels at once."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.random_effects.ascent import jacobian
from ebmeta.random_effects.covariance import log_hyperprior
from tests.mixed.worlds import dense, engine_of, frame

CASES = [("y ~ x + (1 | g)", None), ("y ~ x + (1 + x | g)", None), ("y ~ x + (x || g)", "w"), ("y ~ 0 + (1 | g)", "w")]


def somewhere(engine, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.9, len(engine.start()))


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize(("formula", "weights"), CASES)
def test_likelihood_coefficients_and_effects_are_those_of_dense_matrices(formula, weights, reml):
    engine = engine_of(formula, frame(), reml, weights=weights)
    at = somewhere(engine)
    exact, found = dense(engine, at, reml), engine.estimate(at)
    np.testing.assert_allclose(found.log_likelihood, exact["log_likelihood"], rtol=1e-8)
    np.testing.assert_allclose(found.beta, exact["beta"], rtol=1e-6)
    np.testing.assert_allclose(engine.common_covariance(at), exact["covariance"], rtol=1e-6)
    effects = engine.effects(at)[0]
    np.testing.assert_allclose(effects.mean, exact["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.einsum("gkk->gk", effects.covariance)), exact["sd"], rtol=1e-6)
    np.testing.assert_allclose(effects.slope, exact["slope"], rtol=1e-4, atol=1e-6)


def test_a_feature_that_is_constant_within_groups_may_have_a_slope_of_their_own():
    """Two rows a group are two effects, but one number of each group is all that they move."""
    data = frame(sizes=(2, 3)).assign(x=lambda d: d.groupby("g")["x"].transform("first"))
    engine = engine_of("y ~ x + (1 + x | g)", data)
    at = somewhere(engine)
    exact = dense(engine, at, False)
    np.testing.assert_allclose(engine.estimate(at).log_likelihood, exact["log_likelihood"], rtol=1e-8)
    np.testing.assert_allclose(engine.effects(at)[0].mean, exact["mean"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hyperprior", [False, True])
@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize(("formula", "weights"), CASES)
def test_gradients_are_those_of_differences(formula, weights, reml, hyperprior):
    engine = engine_of(formula, frame(), reml, hyperprior, weights)
    at = somewhere(engine)
    ends = [(engine.loss(at + step)[0], engine.loss(at - step)[0]) for step in 1e-5 * np.eye(len(at))]
    np.testing.assert_allclose(engine.loss(at)[1], [(a - b) / 2e-5 for a, b in ends], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hyperprior", [False, True])
@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize(("formula", "weights"), [*CASES, ("y ~ x + (1 + x + I(x**2) | g)", None)])
def test_hessians_are_those_of_differences(formula, weights, reml, hyperprior):
    engine = engine_of(formula, frame(sizes=(4, 9)), reml, hyperprior, weights)
    at = somewhere(engine)
    found = jacobian(lambda point: engine.loss(point)[1], at)
    np.testing.assert_allclose(engine.curvature(at), found, rtol=1e-6, atol=1e-7 * np.abs(found).max())


def test_effects_of_rows_that_were_not_fitted_are_those_of_the_same_rows_fitted():
    engine = engine_of("y ~ x + (1 + x | g)", frame(), weights="w")
    at = somewhere(engine)
    found, known = engine.effects(at, engine.rows)[0], engine.effects(at)[0]
    for name in ("mean", "covariance", "slope"):
        np.testing.assert_allclose(getattr(found, name), getattr(known, name), rtol=1e-5, atol=1e-7)
    assert found.mode is None
    assert known.mode is None


def test_nothing_is_lost_to_labels_and_features_far_from_0():
    data = frame()
    far = data.assign(y=1e6 + 1e-3 * data["y"], x=1e3 * data["x"])
    near, other = (engine_of("y ~ x + (1 + x | g)", d) for d in (data, far))
    at = somewhere(near)
    gap = near.log_likelihood(at) - len(data) * np.log(1e3) * -1
    np.testing.assert_allclose(other.log_likelihood(at), gap, rtol=1e-7)


def test_a_spread_of_nothing_is_the_linear_model():
    data = frame()
    engine = engine_of("y ~ x + (1 + x | g)", data)
    at = np.append(np.zeros(3), 0.0)
    X = np.column_stack([np.ones(len(data)), data["x"]])
    beta, rest, *_ = np.linalg.lstsq(X, data["y"].to_numpy(), rcond=None)
    np.testing.assert_allclose(engine.estimate(at).beta, beta, rtol=1e-6)
    sigma = engine.scales(at)[0]
    exact = -len(data) / 2 * np.log(2 * np.pi * sigma**2) - float(rest[0]) / (2 * sigma**2)
    np.testing.assert_allclose(engine.log_likelihood(at), exact, rtol=1e-9)
    assert (engine.effects(at)[0].mean == 0).all()


def test_the_hyperprior_is_a_gamma_density_of_each_spread():
    engine = engine_of("y ~ x + (1 + x | g)", frame(), hyperprior=True)
    at = somewhere(engine)
    lower = engine.factors[0].lower(at[:-1]) * np.exp(at[-1])
    s = np.sqrt((lower**2).sum(1))
    assert log_hyperprior(engine.factors[0], at[:-1], at[-1])[0] == pytest.approx((np.log(s) - 0.1 * s).sum())
    assert engine.log_likelihood(at) == pytest.approx(dense(engine, at, False)["log_likelihood"])


def test_what_cannot_be_told_apart_is_refused():
    data = frame().drop_duplicates("g")
    with pytest.raises(ValueError, match="groups: expected more rows than effects of 'g', got 12 rows for 12 groups"):
        engine_of("y ~ 1 + (1 | g)", data)
    exact = frame().assign(y=lambda d: d["x"] + d["g"].str[1:].astype(float))
    with pytest.raises(ValueError, match="labels: expected some that the terms do not explain"):
        engine_of("y ~ x + (1 | g)", exact)


def test_spreads_far_from_0_take_newtons_steps_alone(monkeypatch):
    data = frame(num_groups=60)
    expected = engine_of("y ~ x + (1 + x | g)", data).maximise()
    monkeypatch.setattr("ebmeta.random_effects.normal.descend_by_trust", lambda *_: pytest.fail("not needed"))
    found = engine_of("y ~ x + (1 + x | g)", data).maximise()
    np.testing.assert_array_equal(found.at, expected.at)
    assert found.evaluations < 12


@pytest.mark.parametrize("seed", range(3))
def test_a_covariance_without_full_rank_is_found_from_anywhere(seed):
    rng = np.random.default_rng(seed)
    data = frame(num_groups=15, sizes=(8, 12)).assign(v=lambda d: rng.normal(size=len(d)))
    data["y"] += data["v"] * data["g"].map(data.groupby("g")["y"].mean())  # slopes that go with intercepts
    engine = engine_of("y ~ x + (1 + x + v | g)", data)
    values = [engine.ascend(begin, np.zeros(len(begin), dtype=bool)) for begin in (engine.start(), somewhere(engine))]
    turned = somewhere(engine, 2)
    turned[[1, 2, 4]] *= -1
    values.append(engine.ascend(turned, np.zeros(len(turned), dtype=bool)))
    np.testing.assert_allclose([v.value for v in values], min(v.value for v in values), atol=1e-6)
    assert all(v.converged for v in values)
