"""Steps within a region: minima that are known, and what stops other ascents."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.random_effects.ascent import Expansion
from ebmeta.random_effects.trust import descend_by_trust

FREE = np.ones(2, dtype=bool)


def valley(at: np.ndarray) -> Expansion:
    """Return Rosenbrock's function, least at (1, 1)."""
    a, b = 1 - at[0], at[1] - at[0] ** 2
    bend = [[2 - 400 * at[1] + 1200 * at[0] ** 2, -400 * at[0]], [-400 * at[0], 200]]
    return Expansion(a**2 + 100 * b**2, np.array([-2 * a - 400 * at[0] * b, 200 * b]), np.array(bend))


def test_a_bent_valley_is_followed_to_its_end():
    found = descend_by_trust(valley, np.array([-1.2, 1.0]), FREE, 1e-14)
    assert found.converged
    np.testing.assert_allclose(found.at, 1.0, atol=1e-6)
    assert found.evaluations < 50


def test_what_is_not_free_stays():
    found = descend_by_trust(valley, np.array([0.5, 3.0]), np.array([False, True]), 1e-14)
    np.testing.assert_allclose(found.at, [0.5, 0.25], atol=1e-8)


def test_a_saddle_without_slope_is_left():
    def saddle(at: np.ndarray) -> Expansion:
        slope = np.array([2 * at[0], -2 * at[1] + 4 * at[1] ** 3])
        return Expansion(at[0] ** 2 - at[1] ** 2 + at[1] ** 4, slope, np.diag([2.0, 12 * at[1] ** 2 - 2]))

    found = descend_by_trust(saddle, np.zeros(2), FREE, 1e-14)
    assert found.value == pytest.approx(-0.25)
    np.testing.assert_allclose(np.abs(found.at), [0.0, 0.5**0.5], atol=1e-6)


def test_directions_that_change_nothing_are_no_obstacle():
    def ring(at: np.ndarray) -> Expansion:  # least on the circle of radius 1
        r = at @ at - 1
        return Expansion(r**2, 4 * r * at, 4 * r * np.eye(2) + 8 * np.outer(at, at))

    found = descend_by_trust(ring, np.array([2.0, 1.0]), FREE, 1e-14)
    assert found.converged
    np.testing.assert_allclose(found.at, np.array([2.0, 1.0]) / 5**0.5, atol=1e-6)


def test_values_that_cannot_be_computed_are_stepped_short_of():
    def wall(at: np.ndarray) -> Expansion:
        if at[0] >= 1:
            return Expansion(1e15, np.zeros(1), np.eye(1))
        return Expansion(-at[0] - 0.1 * np.log(1 - at[0]), 0.1 / (1 - at) - 1, (0.1 / (1 - at) ** 2)[None])

    found = descend_by_trust(wall, np.array([-5.0]), np.array([True]), 1e-14)
    np.testing.assert_allclose(found.at, 0.9, atol=1e-6)


def test_a_function_without_a_minimum_is_no_maximum_found():
    found = descend_by_trust(
        lambda at: Expansion(-(at @ at), -2 * at, -2 * np.eye(2)), np.array([1.0, 0.0]), FREE, 1e-9
    )
    assert not found.converged
