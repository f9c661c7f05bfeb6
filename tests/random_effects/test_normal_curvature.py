"""Slopes and curvatures of normal labels of one group, compared with differences of its density."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.random_effects.batched import cholesky
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.normal_curvature import slope_of, turn_of


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("blocks", [[2], [1, 1]])
def test_slope_and_curvature_are_those_of_differences(blocks, reml):
    rng = np.random.default_rng(0)
    factor = Factor("g", ["1", "x"], blocks, np.column_stack([np.ones(5), rng.normal(size=5)]))
    r, b, a, within = np.triu(rng.normal(size=(2, 2))), rng.normal(size=(2, 1)), rng.normal(size=2), 0.7

    def parts(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        m = np.eye(2) + (r @ factor.lower(theta)) @ (r @ factor.lower(theta)).T
        normal = float((b.T @ np.linalg.solve(m, b))[0, 0]) + within
        beta = float((b.T @ np.linalg.solve(m, a))[0]) / normal
        return m, a - b[:, 0] * beta, normal, beta

    def loss(theta: np.ndarray) -> float:
        m, e, normal, beta = parts(theta)
        log_det = np.linalg.slogdet(m)[1] + reml * np.log(normal)
        return float(log_det + e @ np.linalg.solve(m, e) + within * beta**2) / 2

    theta = rng.uniform(0.3, 0.9, factor.size)
    m, e, normal, _ = parts(theta)
    both = np.column_stack([np.linalg.solve(m, e), np.linalg.solve(m, b) / np.sqrt(normal)])
    part = r[..., None], cholesky(m[..., None]), both[..., None]
    turn = turn_of(factor, factor.lower(theta), [part], reml)
    h = 1e-4 * np.eye(factor.size)
    slope = [(loss(theta + x) - loss(theta - x)) / 2e-4 for x in h]
    bend = [
        [(loss(theta + x + y) - loss(theta + x - y) - loss(theta - x + y) + loss(theta - x - y)) / 4e-8 for y in h]
        for x in h
    ]
    np.testing.assert_allclose(turn.slope, slope, atol=1e-6)
    np.testing.assert_allclose(slope_of(factor, factor.lower(theta), [part], reml), turn.slope, rtol=1e-12)
    np.testing.assert_allclose(turn.bend, bend, atol=1e-5)
    v = r @ factor.lower(theta)
    expected = (r.T @ both[:, 0])[factor.rows] * (v.T @ both[:, 0])[factor.columns]
    np.testing.assert_allclose(turn.pull, expected)
