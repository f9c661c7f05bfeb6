"""Averages over draws of the parameters: moments of mixtures, worked out draw by draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.over_draws import averaged, common_of, effects_of, linear_of, marginal_of
from ebmeta.mixed.propagation import Draws
from ebmeta.random_effects.effects import Effects
from tests.mixed.worlds import engine_of, frame, henderson


def test_effects_of_two_draws_have_the_moments_of_their_mixture():
    slope = np.ones((1, 1, 1))
    members = [[Effects(np.array([[m]]), np.array([[[v]]]), slope)] for m, v in ((1.0, 2.0), (3.0, 4.0))]
    (found,) = averaged(zip((0.25, 0.75), members, (np.array([[0.5]]), np.array([[0.25]])), strict=True))
    assert found.mean[0, 0] == 2.5
    assert found.covariance[0, 0, 0] == 0.25 * 2.5 + 0.75 * 4.25 + 0.25 * 1.5**2 + 0.75 * 0.5**2


def test_coefficients_over_draws_have_the_moments_of_their_mixture():
    engine = engine_of("y ~ x + (1 | g)", frame())
    at = engine.maximise().at
    draws = Draws(np.stack([at, at + 0.2]), np.array([0.25, 0.75]))
    mean, covariance = common_of(engine, at, draws)
    each = np.stack([engine.coefficients(one) for one in draws.at])
    np.testing.assert_allclose(mean, 0.25 * each[0] + 0.75 * each[1])
    inner = 0.25 * engine.common_given(at) + 0.75 * engine.common_given(at + 0.2)
    gap = each[1] - each[0]
    np.testing.assert_allclose(covariance, inner + 0.25 * 0.75 * np.outer(gap, gap))


def test_one_draw_at_the_maximum_differs_by_what_is_known_of_the_coefficients():
    engine = engine_of("y ~ x + (1 | g)", frame())
    at = engine.maximise().at
    plain, one = effects_of(engine, at, None)[0], effects_of(engine, at, Draws(at[None], np.ones(1)))[0]
    np.testing.assert_allclose(one.mean, plain.mean)
    more = np.einsum("gkp,pq,glq->gkl", plain.slope, engine.common_given(at), plain.slope)
    np.testing.assert_allclose(one.covariance, plain.covariance + more)
    members, weight, loc, var = linear_of(engine, at, None, [plain], engine.rows)
    assert (len(members), weight.tolist()) == (1, [1.0])
    np.testing.assert_allclose((loc[0], var[0]), engine.linear(at, [plain], engine.rows)[:2])


def test_group_effects_have_the_joint_covariance_of_hendersons_equations():
    """The inverse of the equations in coefficients and effects is the covariance of their errors."""
    fit = mixed_model("y ~ x + (1 + x | g)", frame().assign(x=lambda d: d["x"] - 2000), reml=True)
    _, normal = henderson(fit)
    table = fit.group_effects
    np.testing.assert_allclose(table["sd"], np.sqrt(np.diag(np.linalg.inv(normal))[2:]), rtol=1e-6)
    np.testing.assert_allclose(table["conditional_sd"], np.sqrt(np.diag(np.linalg.inv(normal[2:, 2:]))), rtol=1e-6)
    np.testing.assert_allclose(table["upper"] - table["mean"], 1.959963984540054 * table["sd"], rtol=1e-6)
    found = marginal_of(fit.engine, fit.optimum.at, None, fit._effects)[0].covariance[0]
    np.testing.assert_allclose(found, np.linalg.inv(normal)[2:4, 2:4], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_predictions_over_draws_look_at_the_groups_that_are_asked_about_alone(likelihood, monkeypatch):
    data = frame(num_groups=30)
    if likelihood == "poisson":
        data["y"] = np.random.default_rng(0).poisson(np.exp(0.3 * data["y"]))
    fit = mixed_model("y ~ x + (1 + x | g)", data, likelihood=likelihood).propagate(16)
    names = sorted(data["g"].unique())
    asked = data[data["g"].isin([names[3], names[17]])].head(8)
    asked = pd.concat([asked, asked.assign(g="another", y=np.nan), asked.assign(g="one more")])
    every = fit.predict(pd.concat([data.assign(y=np.nan), asked])).tail(len(asked))
    seen, effects = set(), type(fit.engine).effects

    def counted(self, at, rows=None, groups=None):
        found = effects(self, at, rows, groups)
        if rows is None:
            seen.add(len(found[0].mean))
        return found

    monkeypatch.setattr(type(fit.engine), "effects", counted)
    found = fit.predict(asked)
    assert seen == {3}  # and the first, which is always there
    np.testing.assert_allclose(found, every, rtol=1e-6, atol=1e-8)
