"""Small matrices of many groups, compared with one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.random_effects.batched import Segments, cholesky, gram, solve_lower, solve_upper


@pytest.fixture
def matrices() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 3, 3))
    return np.moveaxis(a @ a.swapaxes(1, 2) + np.eye(3), 0, -1), rng.normal(size=(3, 2, 4))


def test_factors_and_solutions_are_those_of_each_matrix(matrices):
    m, b = matrices
    lower = cholesky(m)
    for g in range(m.shape[-1]):
        one = np.linalg.cholesky(m[..., g])
        np.testing.assert_allclose(lower[..., g], one, atol=1e-13)
        np.testing.assert_allclose(solve_lower(lower, b)[..., g], np.linalg.solve(one, b[..., g]), atol=1e-12)
        np.testing.assert_allclose(solve_upper(lower, b)[..., g], np.linalg.solve(one.T, b[..., g]), atol=1e-12)
    total = sum(m[..., g].T @ b[..., g] for g in range(m.shape[-1]))
    np.testing.assert_allclose(gram(m, b), total, atol=1e-12)


def test_sums_of_groups_in_any_order_of_rows():
    codes = np.array([2, 0, 1, 2, 0])
    segments = Segments(codes, 3)
    rows = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    np.testing.assert_array_equal(segments.sum(rows[segments.order]), [18.0, 4.0, 9.0])
    np.testing.assert_array_equal(segments.spread(np.array([5.0, 6.0, 7.0])), [5.0, 5.0, 6.0, 7.0, 7.0])
