"""Ascents: where they end, and what they refuse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.mixed.worlds import engine_of, frame


@pytest.mark.parametrize("reml", [False, True])
def test_an_ascent_ends_where_the_slope_is_0(reml):
    engine = engine_of("y ~ x + (1 + x | g)", frame(), reml)
    found = engine.maximise()
    assert found.converged
    assert np.abs(engine.loss(found.at)[1]).max() < 1e-3
    for step in 0.05 * np.eye(len(found.at)):
        assert min(engine.loss(found.at + step)[0], engine.loss(found.at - step)[0]) > found.value


def test_an_ascent_leaves_a_spread_of_0_where_there_is_more_to_gain():
    """All slopes vanish at a spread of 0, so that an ascent that starts there stays."""
    engine = engine_of("y ~ x + (1 | g)", frame())
    best = engine.maximise()
    again = engine.maximise(np.array([0.0, best.at[1]]))
    assert again.value == pytest.approx(best.value, abs=1e-6)
    held = engine.maximise(best.at, np.array([True, False]))
    assert held.at[0] == 0
    assert held.value > best.value + 1


def test_an_ascent_that_ends_at_an_edge_goes_on_beyond_with_the_other_sign():
    """Entries of a column change their signs together, so that 0 is an edge of the search and not of the likelihood."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(40), 4), rng.normal(size=160)
    own = rng.normal(size=40)[g]
    data = pd.DataFrame({"y": 0.5 * own + own * x + rng.normal(size=160), "x": x, "g": g})
    best = engine_of("y ~ x + (1 + x | g)", data).maximise()
    engine = engine_of("y ~ x + (1 + x | g)", data)
    turned = best.at * np.array([0, -1, 1, 1])
    assert engine.loss(turned)[1][0] > 1  # uphill on this side
    again = engine.maximise(turned)
    assert again.value == pytest.approx(best.value, abs=1e-6)
    np.testing.assert_allclose(again.at, best.at, atol=1e-4)


def test_a_spread_that_is_not_there_ends_at_0():
    rng = np.random.default_rng(0)
    data = frame(num_groups=20, sizes=(5, 6))
    data["y"] = rng.normal(size=len(data))
    data["y"] -= data.groupby("g")["y"].transform("mean")
    assert engine_of("y ~ 1 + (1 | g)", data).maximise().at[0] == 0


def test_curvatures_are_those_of_the_function():
    engine = engine_of("y ~ x + (1 | g)", frame())
    at, h = engine.maximise().at, 1e-3
    exact = np.empty((2, 2))
    e = h * np.eye(2)
    for i in range(2):
        for j in range(2):
            corners = [engine.loss(at + a * e[i] + b * e[j])[0] for a in (1, -1) for b in (1, -1)]
            exact[i, j] = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * h * h)
    np.testing.assert_allclose(engine.curvature(at), exact, rtol=1e-3, atol=1e-2)


def test_of_two_maxima_that_unequal_groups_have_the_higher_one_is_found():
    """One group of 1000 rows and 19 of 3: the likelihood has a maximum with a spread, and a higher one without."""
    rng, group = np.random.default_rng(8), np.r_[np.zeros(1000, int), np.repeat(np.arange(1, 20), 3)]
    x = rng.normal(size=len(group))
    y = 0.3 * x + 0.5 * rng.normal(size=20)[group] + rng.normal(size=len(group))
    engine = engine_of("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": group}))
    best, inside = engine.maximise(), engine.ascend(engine.start(), np.zeros(2, dtype=bool))
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    least_squares = len(y) / 2 * (np.log(2 * np.pi * (rest**2).mean()) + 1)
    assert inside.converged
    assert inside.at[0] > 0.1
    assert inside.value == pytest.approx(least_squares + 1.2678, abs=1e-3)
    assert best.value == pytest.approx(least_squares)
    assert (best.at[0], best.converged) == (0.0, True)
