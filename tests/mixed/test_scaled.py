"""What follows from inner products, and units of labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.scaled import solved_of
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
