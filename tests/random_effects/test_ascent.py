"""Ascents of functions whose maxima are known."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.random_effects.ascent import Criterion, jacobian

FREE = np.zeros(2, dtype=bool)


class Valley(Criterion):
    """Rosenbrock's function, least at (1, 1), or at an edge."""

    num_parameters = 2
    most = np.inf

    def loss(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = 1 - at[0], at[1] - at[0] ** 2
        return float(a**2 + 100 * b**2), np.array([-2 * a - 400 * at[0] * b, 200 * b])

    def upper_bounds(self) -> np.ndarray:
        return np.array([self.most, np.inf])


class Newton(Valley):
    newton = True


@pytest.mark.parametrize("kind", [Valley, Newton])
def test_ascents_follow_a_bent_valley_to_its_end(kind):
    found = kind().ascend(np.array([-1.2, 1.0]), FREE)
    assert found.converged
    np.testing.assert_allclose(found.at, 1.0, atol=2e-3)
    assert found.value < 1e-6


@pytest.mark.parametrize("kind", [Valley, Newton])
def test_ascents_end_at_an_edge_and_leave_what_is_held(kind, monkeypatch):
    monkeypatch.setattr(kind, "most", 0.5)
    edge = kind().ascend(np.array([-1.2, 1.0]), FREE)
    assert edge.converged
    np.testing.assert_allclose(edge.at, [0.5, 0.25], atol=1e-4)
    held = kind().ascend(np.array([0.0, 1.0]), np.array([True, False]))
    assert held.at[0] == 0
    assert held.at[1] == pytest.approx(0.0, abs=1e-4)
    both = kind().ascend(np.array([0.3, 1.0]), ~FREE)
    np.testing.assert_allclose(both.at, [0.3, 1.0])


def test_newtons_steps_leave_a_saddle():
    class Saddle(Newton):
        def loss(self, at):
            return float(at[0] ** 2 - at[1] ** 2 + at[1] ** 4), np.array([2 * at[0], -2 * at[1] + 4 * at[1] ** 3])

    found = Saddle().ascend(np.array([0.5, 0.01]), FREE)
    np.testing.assert_allclose(found.at, [0.0, 0.5**0.5], atol=1e-3)


def test_steps_are_no_longer_than_their_reach(monkeypatch):
    seen = []

    class Short(Newton):
        def loss(self, at):
            seen.append(at.copy())
            return super().loss(at)

        def reach(self):
            return np.array([0.1, np.inf])

    found = Short().ascend(np.array([0.0, 0.0]), FREE)
    assert found.converged
    assert np.abs(np.diff([at[0] for at in seen])).max() < 0.1 + 1e-12


def test_a_value_may_rise_by_the_noise_of_its_rule_where_the_slope_falls():
    class Uneven(Newton):
        def loss(self, at):
            return super().loss(at)[0] + 0.04 * (np.abs(at - 1).max() < 0.1), super().loss(at)[1]

    np.testing.assert_allclose(Uneven().ascend(np.array([-1.2, 1.0]), FREE).at, 1.0, atol=2e-3)


def test_newtons_steps_that_fail_are_followed_by_an_ascent_without():
    class Rough(Newton):
        def curvature(self, at):
            return 1e5 * np.eye(2) if at[0] < 0.9 else super().curvature(at)

    found = Rough().ascend(np.array([-1.2, 1.0]), FREE)
    np.testing.assert_allclose(found.at, 1.0, atol=2e-3)


def test_differences_of_gradients_are_curvatures():
    at = np.array([0.7, -2.0])
    exact = [[2 - 400 * at[1] + 1200 * at[0] ** 2, -400 * at[0]], [-400 * at[0], 200]]
    np.testing.assert_allclose(jacobian(lambda v: Valley().loss(v)[1], at), exact, rtol=1e-6)
    np.testing.assert_allclose(Valley().expansion(at).hessian, exact, rtol=1e-6)
