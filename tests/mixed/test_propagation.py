"""Draws of the parameters, compared with integrals over a grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta import mixed_model
from ebmeta.mixed import propagation
from ebmeta.mixed.propagation import Draws, draw
from tests.mixed.worlds import engine_of, frame
from tests.random_effects.test_quadrature import build


def test_weighted_draws_are_those_of_the_posterior():
    """Of a spread and a noise, on a grid; a spread that is nearly 0 among them."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(6), 4)
    data = pd.DataFrame({"y": rng.normal(size=24) + 0.3 * rng.normal(size=6)[g], "g": g})
    engine = engine_of("y ~ 1 + (1 | g)", data)
    draws = draw(engine, engine.maximise().at, 1024, 0)
    theta, log_sigma = np.linspace(-6, 6, 241), np.linspace(-1.5, 1.5, 121)
    value = np.array([[engine.log_posterior(np.array([t, s])) for s in log_sigma] for t in theta])
    weight = np.exp(value - value.max())
    weight /= weight.sum()
    spread = np.abs(theta)[:, None] * np.exp(log_sigma)
    s = np.abs(draws.at[:, 0]) * np.exp(draws.at[:, 1])
    for limit in (0.2, 0.5, 1.0, 2.0):
        assert draws.weight @ (s < limit) == pytest.approx((weight * (spread < limit)).sum(), abs=0.03)
    assert draws.weight @ np.exp(draws.at[:, 1]) == pytest.approx((weight * np.exp(log_sigma)).sum(), rel=0.01)
    assert draws.size > 250


@pytest.mark.parametrize(
    "engine", [engine_of("y ~ x + (1 + x | g)", frame(num_groups=30)), build("poisson"), build("bernoulli")]
)
def test_most_draws_count(engine):
    draws = draw(engine, engine.maximise().at, 128, 0)
    assert draws.weight.sum() == pytest.approx(1.0)
    assert draws.size > 25
    np.testing.assert_allclose(draws.at, draw(engine, engine.maximise().at, 128, 0).at, rtol=1e-5, atol=1e-6)


def test_draws_of_one_weight_count_all():
    assert Draws(np.zeros((8, 1)), np.full(8, 1 / 8)).size == pytest.approx(8.0)


def test_draws_of_which_few_count_are_told_of(monkeypatch):
    fit = mixed_model("y ~ x + (1 | g)", frame(num_groups=30))
    monkeypatch.setattr(propagation, "POOR", 0.99)
    with pytest.warns(
        UserWarning, match="^draws: 32 of the parameters, whose weights differ, count as [12][0-9]: give"
    ) as told:
        fit.propagate(32)
    assert told[0].filename == __file__
