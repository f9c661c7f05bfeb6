"""Intervals of means, compared with dense matrices, integrals over group effects, and means that were drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.forecasting import forecast
from tests.mixed.worlds import frame, henderson

Z90 = 1.6448536269514722
LINKS = {"poisson": np.exp, "bernoulli": special.expit}


def drawn(likelihood: str, num_groups: int = 40, size: int = 12) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows of groups of their own intercepts, and the linear predictor of each row."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(num_groups), size), rng.normal(size=num_groups * size)
    eta = 0.3 + 0.5 * x + rng.normal(size=num_groups)[g]
    y = rng.poisson(np.exp(eta)) if likelihood == "poisson" else rng.binomial(1, special.expit(eta))
    return pd.DataFrame({"y": y, "x": x, "g": g}), eta


def test_means_of_known_groups_have_the_joint_variance_of_hendersons_equations():
    data = frame().assign(x=lambda d: d["x"] - 2000)
    fit = mixed_model("y ~ x + (1 + x | g)", data, reml=True)
    W, normal = henderson(fit)
    sd = np.sqrt(np.einsum("np,pq,nq->n", W, np.linalg.inv(normal), W))
    found = fit.predict(data, 0.9)
    np.testing.assert_allclose(found["mean_lower"], found["mean"] - Z90 * sd, rtol=1e-6)
    np.testing.assert_allclose(found["mean_upper"], found["mean"] + Z90 * sd, rtol=1e-6)
    at = fit.optimum.at, None, fit._effects
    np.testing.assert_array_equal(forecast(fit.engine, at, fit.engine.rows, 0.9, "known")[4], found["mean_lower"])


def test_means_of_new_groups_have_the_spread_of_groups_too():
    fit = mixed_model("y ~ x + (1 + x | g)", frame())
    x = np.column_stack([np.ones(2), [1999.0, 2003.0]])
    prior = fit.engine.factors[0].covariance(fit.estimate.theta, fit.estimate.sigma)
    found, middle = fit.predict(pd.DataFrame({"x": x[:, 1], "g": "none"})), x @ fit.estimate.beta
    reach = Z90 * np.sqrt(np.diag(x @ (fit.fixed_effects_covariance.to_numpy() + prior) @ x.T))
    np.testing.assert_allclose(found["mean_lower"], middle - reach, rtol=1e-6)
    np.testing.assert_allclose(found["mean_upper"], middle + reach, rtol=1e-6)


def test_the_mean_of_a_typical_group_has_the_interval_of_the_table():
    """Where all other terms are 0 it is the intercept; elsewhere the degrees of freedom are those of the sum."""
    data = frame().assign(x=lambda d: d["x"] - 2000)
    formula = "y ~ x + (1 + x | g)"
    found = mixed_model(formula, data).predict(pd.DataFrame({"x": [0.0, 2.0]}), 0.95, groups="typical")
    for row, shift in enumerate((0.0, 2.0)):
        table = mixed_model(formula, data.assign(x=data["x"] - shift)).fixed_effects
        wanted = table.loc["Intercept", ["estimate", "lower", "upper"]].to_numpy(float)
        np.testing.assert_allclose(found.loc[row, ["mean", "mean_lower", "mean_upper"]], wanted, rtol=2e-4)
        normal = table["estimate"].iloc[0] - 1.959964 * table["std_error"].iloc[0]
        assert found["mean_lower"][row] < normal - 0.01  # Student's, of few groups


@pytest.mark.parametrize("likelihood", LINKS)
def test_means_pass_the_link_with_the_uncertainty_of_coefficients_and_groups(likelihood):
    data, _ = drawn(likelihood, 25, 6)
    fit = mixed_model("y ~ x + (1 | g)", data, likelihood)
    beta, spread = fit.estimate.beta, fit.variance_components["estimate"].iloc[0]
    x = np.array([[1.0, -0.5], [1.0, 1.5]])
    typical = fit.predict(pd.DataFrame({"x": x[:, 1]}), groups="typical")
    reach = Z90 * np.sqrt(np.diag(x @ fit.fixed_effects_covariance.to_numpy() @ x.T))
    np.testing.assert_allclose(typical["mean_lower"], LINKS[likelihood](x @ beta - reach), rtol=1e-5)
    np.testing.assert_allclose(typical["mean_upper"], LINKS[likelihood](x @ beta + reach), rtol=1e-5)

    u, step, sds = np.linspace(-8, 8, 4001) * spread, 1e-4, []
    for _, rows in data.groupby("g"):  # effect of each group, and how its mean follows the coefficients
        design, y = np.column_stack([np.ones(len(rows)), rows["x"]]), rows["y"].to_numpy()

        def moments(at: np.ndarray, design: np.ndarray = design, y: np.ndarray = y) -> tuple[float, float]:
            eta = (design @ at)[:, None] + u
            kernel = y[:, None] * eta - (np.exp(eta) if likelihood == "poisson" else np.logaddexp(0, eta))
            log = kernel.sum(0) - u**2 / (2 * spread**2)
            weight = np.exp(log - log.max())
            mean = weight @ u / weight.sum()
            return mean, weight @ (u - mean) ** 2 / weight.sum()

        own = [moments(beta + s * d)[0] for d in np.eye(2) for s in (step, -step)]
        slope = np.array([own[0] - own[1], own[2] - own[3]]) / (2 * step)
        sds.append(np.sqrt(moments(beta)[1] + slope @ fit.fixed_effects_covariance.to_numpy() @ slope))
    np.testing.assert_allclose(fit.group_effects["sd"], sds, rtol=1e-4)


@pytest.mark.parametrize("likelihood", LINKS)
def test_intervals_hold_the_means_that_labels_were_drawn_from(likelihood):
    """Of 400 groups with a true mean each: a right interval is refused in less than 1 of 1,000 draws of the rows."""
    data, eta = drawn(likelihood, 400, 12)
    first = data["g"].drop_duplicates().index
    found = mixed_model("y ~ x + (1 | g)", data, likelihood).predict(data.loc[first], 0.8)
    truth = LINKS[likelihood](eta[first])
    held = ((truth >= found["mean_lower"]) & (truth <= found["mean_upper"])).sum()
    low, high = stats.binom.ppf([0.0005, 0.9995], 400, 0.8)
    assert low <= held <= high


def test_draws_of_the_parameters_are_mixed():
    data, _ = drawn("poisson", 12, 6)
    fit = mixed_model("y ~ x + (1 | g)", data, "poisson").propagate(8)
    asked = pd.DataFrame({"x": [0.7]})
    etas = np.array([fit.engine.coefficients(one) @ [1.0, 0.7] for one in fit.draws.at])
    order = np.argsort(etas)
    reached = np.cumsum(fit.draws.weight[order])
    low, high = (etas[order][np.searchsorted(reached, level)] for level in (0.1, 0.9))
    found = fit.predict(asked, 0.8, groups="typical").iloc[0]  # no spread is left in a draw: quantiles are steps
    np.testing.assert_allclose([found["mean_lower"], found["mean_upper"]], np.exp([low, high]), rtol=1e-6)
    normal = mixed_model("y ~ x + (1 | g)", frame()).propagate(8)
    row = pd.DataFrame({"x": [2001.0], "g": ["g03"]})
    rows, _ = normal.design.new(row, normal.design.given_to())
    each = [
        normal.engine.linear(a, normal.engine.effects(a), rows, normal.engine.common_root(a)) for a in normal.draws.at
    ]
    loc, var = np.array(each)[:, :2, 0].T

    def reach(v: float) -> float:
        return float(normal.draws.weight @ special.ndtr((v - loc) / np.sqrt(var)))

    end = optimize.brentq(lambda v: reach(v) - 0.95, loc.min() - 9, loc.max() + 9, xtol=1e-12)
    assert normal.predict(row)["mean_upper"][0] == pytest.approx(end, rel=1e-8)
