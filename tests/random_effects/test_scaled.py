"""What follows from inner products, and units of labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from ebmeta.mixed.fit import mixed_model
from ebmeta.random_effects.scaled import solved_of
from tests.mixed.worlds import engine_of, frame


def test_coefficients_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    both = np.column_stack([x, y])
    found = solved_of(both.T @ both, 1.5)
    beta, rest, *_ = np.linalg.lstsq(x, y, rcond=None)
    np.testing.assert_allclose(found.beta, beta)
    assert found.square == pytest.approx(rest[0])
    assert found.log_det == 1.5
    assert solved_of(np.array([[2.0]]), 0.0).square == 2.0


@pytest.mark.parametrize("reml", [False, True])
def test_units_of_labels_and_weights_change_what_they_must(reml):
    data = frame()
    engine = engine_of("y ~ x + (1 + x | g)", data, reml, weights="w")
    other = engine_of("y ~ x + (1 + x | g)", data.assign(y=3 * data["y"] + 7, w=5 * data["w"]), reml, weights="w")
    one, two = engine.maximise(), other.maximise()
    np.testing.assert_allclose(one.at, two.at, atol=1e-4)
    assert other.scales(two.at)[1]["sd"] == pytest.approx(3 * 5**0.5 * engine.scales(one.at)[1]["sd"], rel=1e-4)
    free = engine.free
    assert other.log_likelihood(two.at) == pytest.approx(engine.log_likelihood(one.at) - free * np.log(3), abs=1e-5)
    np.testing.assert_allclose(other.estimate(two.at).beta, 3 * engine.estimate(one.at).beta + [7, 0], rtol=1e-6)


def test_the_draws_weight_spreads_and_not_relative_ones():
    engine = engine_of("y ~ x + (1 | g)", frame(), True)
    at = np.array([0.5, 0.2])
    assert engine.log_posterior(at) == pytest.approx(engine.log_likelihood(at) + at[-1])


def test_a_new_row_without_a_weight_counts_once():
    """Weights that are numbers beside the frame: new rows have none, and inform a new group as rows of weight 1."""
    data = frame()
    new = data[:3].assign(g="new", w=1.0)
    fits = [mixed_model("y ~ x + (1 | g)", data, weights=weights) for weights in ("w", data["w"].to_numpy() * 1.0)]
    tables = [fit.predict(new) for fit in fits]
    pd.testing.assert_frame_equal(*tables)
    prior, noise = fits[0].variance_components["estimate"] ** 2
    left = new["y"] - fits[0].predict(new, groups="typical")["mean"]
    wanted = fits[0].predict(new, groups="typical")["mean"] + prior * left.sum() / (3 * prior + noise)
    np.testing.assert_allclose(tables[1]["mean"], wanted, rtol=1e-9)


def dense_fit(y: np.ndarray, x: np.ndarray, blocks: list[np.ndarray], noise: np.ndarray, reml: bool):
    """Return variances, coefficients, their standard errors and the log likelihood, by matrices of all rows."""

    def solved(log_sd: np.ndarray):
        v = np.diag(noise**2) + sum(np.exp(2 * s) * b for s, b in zip(log_sd, blocks, strict=True))
        w = np.linalg.inv(v)
        covariance = np.linalg.inv(x.T @ w @ x)
        beta = covariance @ x.T @ w @ y
        rest = y - x @ beta
        value = np.linalg.slogdet(v)[1] + rest @ w @ rest + (len(y) - reml * x.shape[1]) * np.log(2 * np.pi)
        return (value - reml * np.linalg.slogdet(covariance)[1]) / 2, beta, np.sqrt(np.diag(covariance))

    found = optimize.minimize(lambda at: solved(at)[0], -np.ones(len(blocks)), method="BFGS", options={"gtol": 1e-8})
    return np.exp(2 * found.x), *solved(found.x)[1:], -found.fun


def estimates(seed: int = 0) -> pd.DataFrame:
    """Return estimates of 18 studies, with their known standard errors and a covariate."""
    rng = np.random.default_rng(seed)
    study = np.repeat(np.arange(18), rng.integers(1, 4, 18))
    data = pd.DataFrame({"study": study, "lab": study % 5, "x": rng.normal(size=len(study))})
    data["se"] = rng.uniform(0.1, 0.6, len(study))
    mean = 5 + 0.4 * data["x"] + 0.5 * rng.normal(size=18)[study] + 0.4 * rng.normal(size=5)[data["lab"]]
    data["y"] = mean + 0.3 * rng.normal(size=len(study)) + data["se"] * rng.normal(size=len(study))
    data["row"] = np.arange(len(study))
    return data


@pytest.mark.parametrize("unit", [1.0, 1e4])
@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("groups", [["row"], ["study"], ["lab", "row"], ["lab", "study", "row"]])
def test_known_noise_is_that_of_dense_matrices(groups, reml, unit):
    data = estimates()
    data[["y", "se"]] *= unit
    formula = "y ~ x + " + " + ".join(f"(1 | {g})" for g in groups)
    fit = mixed_model(formula, data, known_noise="se", reml=reml)
    y, noise = data["y"].to_numpy() / unit, data["se"].to_numpy() / unit
    blocks = [(data[g].to_numpy()[:, None] == data[g].to_numpy()) * 1.0 for g in groups]
    x = np.column_stack([np.ones(len(y)), data["x"]])
    variances, beta, se, log_likelihood = dense_fit(y, x, blocks, noise, reml)
    spreads = fit.variance_components["estimate"].to_numpy() / unit
    assert len(spreads) == len(groups)  # no noise is learned
    np.testing.assert_allclose(spreads**2, variances, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(fit.fixed_effects["estimate"] / unit, beta, rtol=1e-4)
    np.testing.assert_allclose(fit.fixed_effects["std_error"] / unit, se, rtol=1e-4)
    scaled = log_likelihood - (len(y) - reml * 2) * np.log(unit)
    assert fit.log_likelihood == pytest.approx(scaled, abs=1e-4)
    assert fit.num_parameters == 2 + len(groups)


def test_predictions_of_known_noise_are_those_of_dense_matrices():
    data = estimates()
    fit = mixed_model("y ~ x + (1 | study)", data, known_noise="se", reml=True)
    tau = fit.variance_components["estimate"].iloc[0]
    same = data["study"].to_numpy()[:, None] == data["study"].to_numpy()
    x, w = np.column_stack([np.ones(len(data)), data["x"]]), np.linalg.inv(tau**2 * same + np.diag(data["se"] ** 2))
    covariance = np.linalg.inv(x.T @ w @ x)
    beta = covariance @ x.T @ w @ data["y"]
    new = pd.DataFrame({"study": [3, 99], "x": [0.5, 0.5], "se": [0.2, 0.7]})
    known = tau**2 * (data["study"].to_numpy() == 3)
    mean = beta @ [1, 0.5] + np.array([known @ w @ (data["y"] - x @ beta), 0.0])
    variance = np.array([tau**2 - known @ w @ known, tau**2])
    found = fit.predict(new)
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(found["sd"] ** 2, variance + new["se"] ** 2, rtol=1e-6)
    share = np.array([1, 0.5]) - np.stack([known @ w @ x, np.zeros(2)])
    whole = variance + np.einsum("np,pq,nq->n", share, covariance, share)
    width = (found["mean_upper"] - found["mean_lower"]) / (2 * stats.norm.ppf(0.95))
    np.testing.assert_allclose(width**2, whole, rtol=1e-5)
    # An estimate of a new study says of it what it would have said in the fit, the parameters as they are.
    told = pd.concat([new.iloc[1:].assign(y=8.0), new.iloc[1:]])
    after = fit.predict(told)["mean"].iloc[1]
    assert after == pytest.approx(mean[1] + tau**2 / (tau**2 + 0.7**2) * (8.0 - mean[1]), abs=1e-6)


def test_draws_of_known_noise_leave_it_as_it_is():
    fit = mixed_model("y ~ x + (1 | study)", estimates(), known_noise="se").propagate(64)
    assert not fit.draws.at[:, -1].any()
    assert fit.draws.size > 20
    # The spread over draws is that of its density, integrated over an even grid.
    grid = np.linspace(-12.0, 12.0, 4001)
    log_density = np.array([fit.engine.log_posterior(np.array([at, 0.0])) for at in grid])
    weight = np.exp(log_density - log_density.max())
    unit = fit.engine.scales(fit.optimum.at)[0]
    mean = unit * (weight @ np.abs(grid)) / weight.sum()
    assert fit.variance_components["estimate"].iloc[0] == pytest.approx(mean, rel=0.05)
