"""Intervals by the profile of the likelihood: published ones, and profiles of dense likelihoods, value by value."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.profile import Region, profiled
from tests.mixed.worlds import frame

HALF = stats.chi2.ppf(0.95, 1) / 2


@pytest.fixture
def sleep(shared_data) -> pd.DataFrame:
    return pd.read_csv(shared_data / "regression" / "sleepstudy.csv")


def test_sleepstudy_is_as_lme4_publishes_it(sleep):
    """`confint(lmer(Reaction ~ Days + (Days | Subject)))`, by maximum likelihood though the fit is by REML."""
    fit = mixed_model("Reaction ~ Days + (Days | Subject)", sleep, reml=True)
    found = fit.confint()
    assert found.index.tolist() == [
        ("common", "Intercept"),
        ("common", "Days"),
        ("Subject", "sd(Intercept)"),
        ("Subject", "sd(Days)"),
        ("Subject", "cor(Intercept, Days)"),
        ("residual", "sd"),
    ]
    lower = [237.681, 7.359, 14.381, 3.801, -0.4815, 22.898]
    upper = [265.130, 13.576, 37.716, 8.753, 0.6850, 28.858]
    np.testing.assert_allclose(found["lower"], lower, atol=6e-4)
    np.testing.assert_allclose(found["upper"], upper, atol=6e-4)
    plain = mixed_model("Reaction ~ Days + (Days | Subject)", sleep)
    np.testing.assert_allclose(found["estimate"][:2], plain.fixed_effects["estimate"], rtol=1e-6)
    np.testing.assert_allclose(found["estimate"][2:], plain.variance_components["estimate"], rtol=1e-4)


def small() -> pd.DataFrame:
    return frame(num_groups=9, sizes=(2, 6)).reset_index(drop=True)


def dense(data: pd.DataFrame, sd: float, noise: float, slope: float | None = None) -> float:
    """Return the log likelihood of an intercept of each group, the best coefficients or a given slope taken."""
    same = data["g"].to_numpy()[:, None] == data["g"].to_numpy()
    V = sd**2 * same + noise**2 * np.eye(len(data))
    x, y = np.column_stack([np.ones(len(data)), data["x"] - 2000]), data["y"].to_numpy()
    if slope is not None:
        y, x = y - slope * x[:, 1], x[:, :1]
    inverse = np.linalg.inv(V)
    beta = np.linalg.solve(x.T @ inverse @ x, x.T @ inverse @ y)
    return float(stats.multivariate_normal(x @ beta, V).logpdf(y))


@pytest.mark.parametrize("name", ["sd(Intercept)", "x"])
def test_an_interval_ends_where_the_profile_of_a_dense_likelihood_has_fallen_far_enough(name):
    data = small()
    fit = mixed_model("y ~ x + (1 | g)", data)
    low, high = fit.confint(0.95, [name])[["lower", "upper"]].to_numpy()[0]
    bounds = optimize.Bounds([1e-3, 1e-3], [20.0, 20.0])

    def lost(value: float) -> float:
        def loss(v):
            return -(dense(data, v[0], v[1], value) if name == "x" else dense(data, value, v[1]))

        best = optimize.minimize(loss, [2.0, 1.0], bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-12})
        return best.fun + fit.log_likelihood

    assert lost(low) == pytest.approx(HALF, abs=2e-3)
    assert lost(high) == pytest.approx(HALF, abs=2e-3)
    assert low < high


def test_a_spread_that_may_be_0_has_the_end_0_and_its_correlation_any_value():
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(40), 6), rng.normal(size=240)
    data = pd.DataFrame({"g": g, "x": x, "y": rng.normal(size=240)})
    fit = mixed_model("y ~ x + (x | g)", data)
    found = fit.confint()
    assert found.loc[("g", "sd(x)"), "lower"] == 0
    assert found.loc[("g", "sd(x)"), "upper"] > found.loc[("g", "sd(x)"), "estimate"]
    assert found.loc[("g", "cor(Intercept, x)"), ["lower", "upper"]].tolist() == [-1.0, 1.0]
    assert fit.variance_components.loc[("g", "cor(Intercept, x)"), ["lower", "upper"]].tolist() == [-1.0, 1.0]


def test_labels_that_are_not_normal_lose_as_much_at_the_ends():
    """Counts that are Poisson: the shape of a negative binomial has no upper end."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(25), 6), rng.normal(size=150)
    data = pd.DataFrame({"g": g, "x": x, "y": rng.poisson(np.exp(0.5 + 0.3 * x + 0.5 * rng.normal(size=25)[g]))})
    fit = mixed_model("y ~ x + (1 | g)", data, "negative_binomial")
    predicted = fit.predict(data)
    found = fit.confint()
    assert found.loc[("residual", "shape"), "upper"] == math.inf
    pd.testing.assert_frame_equal(fit.predict(data), predicted)  # a question leaves no trace
    engine, at = fit.engine, fit.optimum.at
    free = np.arange(len(at)) != len(at) - 1  # the shape is the last parameter, by its logarithm
    lower = math.log(found.loc[("residual", "shape"), "lower"])

    def loss(v):
        out, gradient = engine.loss(np.append(v, lower))
        return out, gradient[free]

    best = optimize.minimize(loss, at[free], jac=True, method="BFGS")
    assert best.fun - fit.optimum.value == pytest.approx(HALF, abs=5e-3)


def test_names_choose_and_a_hyperprior_or_a_strange_name_is_refused():
    fit = mixed_model("y ~ x + (1 | g)", small())
    assert fit.confint(0.8, "sd").index.tolist() == [("residual", "sd")]
    narrow, wide = (fit.confint(c, ["x"]).iloc[0] for c in (0.5, 0.99))
    assert wide["lower"] < narrow["lower"] < narrow["upper"] < wide["upper"]
    with pytest.raises(ValueError, match=r"^names: expected some of Intercept, x, sd\(Intercept\), sd, got 'Days'"):
        fit.confint(names=["Days"])
    held = mixed_model("y ~ x + (1 | g)", small(), hyperprior=True)
    with pytest.raises(ValueError, match="^confint: expected a fit without a hyperprior"):
        held.confint()


def test_a_region_is_a_ball_where_the_likelihood_is_quadratic():
    fit = mixed_model("y ~ x + (1 | g)", frame(num_groups=400))
    region = Region(fit.engine, fit.optimum, 0.95)
    for axis in np.eye(3):
        assert region.room(axis)[0] == pytest.approx(0.0, abs=0.15)
    table = profiled(region, fit.design.common.names, fit.boundary, fit.variance_components, ["x"])
    np.testing.assert_allclose(table[["lower", "upper"]], fit.fixed_effects.loc[["x"], ["lower", "upper"]], rtol=2e-3)


def test_an_end_that_is_not_found_is_named_in_a_warning(monkeypatch):
    fit = mixed_model("y ~ x + (1 | g)", frame())
    monkeypatch.setattr("ebmeta.mixed.profile.STEPS", 1)
    with pytest.warns(UserWarning, match=r"^confint: found no lower end of sd\(Intercept\), no upper end of sd\(Inter"):
        table = fit.confint(names="sd(Intercept)")
    assert table[["lower", "upper"]].isna().all(axis=None)


def test_an_end_that_is_close_enough_is_taken_after_some_steps(sleep, monkeypatch):
    """The same intervals, to a thousandth of their length, whether the optimiser goes on or not."""
    fit = mixed_model("Reaction ~ Days + (Days | Subject)", sleep)
    table = fit.confint()
    monkeypatch.setattr("ebmeta.mixed.profile.PATIENT", 1)
    early = fit.confint()
    length = (table["upper"] - table["lower"]).to_numpy()[:, None]
    assert (np.abs(early - table)[["lower", "upper"]].to_numpy() < 2e-3 * length).all()


def test_a_feature_far_from_0_stops_no_profile():
    """Its intercept and slope are next to perfectly correlated: what is found is the same as near 0, or NaN."""
    fit = mixed_model("y ~ x + (x | g)", frame())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        far = fit.confint(names=["x", "sd(x)", "sd"])
    near = mixed_model("y ~ x + (x | g)", frame().assign(x=lambda d: d["x"] - 2000)).confint(names=["x", "sd(x)", "sd"])
    apart = (far - near).to_numpy() / (near["upper"] - near["lower"]).to_numpy()[:, None]
    assert np.nanmax(np.abs(apart)) < 1e-2
    assert np.isfinite(far.loc["common"]).all(axis=None)
