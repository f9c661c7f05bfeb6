"""Tall matrices part by part, compared with the whole."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.random_effects import batched, normal, tall
from ebmeta.random_effects.tall import orthonormal, parts_of, triangle
from tests.mixed.worlds import engine_of, frame


def test_a_triangle_of_parts_is_that_of_the_whole():
    x = np.random.default_rng(0).normal(2000.0, 1.0, size=(1000, 3))
    found = triangle((x[some] for some in (slice(0, 2), slice(2, 400), slice(400, 1000))), 3)
    whole = np.linalg.qr(x).R
    np.testing.assert_allclose(np.abs(found), np.abs(whole), rtol=1e-9)
    np.testing.assert_allclose(found.T @ found, x.T @ x, rtol=1e-12)
    assert triangle([x[:2]], 3).shape == (2, 3)
    assert triangle(iter(()), 3).shape == (0, 3)


def test_parts_cover_all_rows_once():
    rows = np.concatenate([np.arange(200_000)[some] for some in parts_of(200_000, 7)])
    np.testing.assert_array_equal(rows, np.arange(200_000))
    assert max(len(range(200_000)[some]) for some in parts_of(200_000, 7)) * 7 <= 2**16
    assert list(parts_of(3, 10**6)) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_parts_of_groups_keep_groups_whole():
    codes = np.random.default_rng(0).integers(0, 50, 1000)
    segments = batched.Segments(codes, 50)
    seen = 0
    for groups, rows in segments.parts(100):
        assert set(codes[segments.order[rows]]) == set(range(50)[groups])
        seen += len(range(1000)[rows])
    assert seen == 1000
    counts = np.array([2, 1, 3])
    np.testing.assert_array_equal(batched.Segments.of(counts).sum(np.arange(6.0)), [1.0, 2.0, 12.0])


@pytest.mark.parametrize("reml", [False, True])
def test_parts_of_any_size_give_the_same_criterion(reml, monkeypatch):
    data = frame(num_groups=40)
    whole = engine_of("y ~ x + (1 + x | g)", data, reml=reml, weights="w")
    for module in (tall, normal):
        monkeypatch.setattr(module, "CELLS", 40)  # some three groups
    parted = engine_of("y ~ x + (1 + x | g)", data, reml=reml, weights="w")
    at = whole.start() + 0.1
    one, other = whole.expansion(at), parted.expansion(at)
    np.testing.assert_allclose(other.value, one.value, rtol=1e-12)
    np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(other.hessian, one.hessian, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(parted.coefficients(at), whole.coefficients(at), rtol=1e-8)
    for name in ("mean", "covariance", "slope"):
        left, right = (getattr(engine.effects(at)[0], name) for engine in (parted, whole))
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-8)


def test_columns_are_made_orthonormal_and_a_dependent_one_is_named():
    x = np.random.default_rng(0).normal(size=(30, 3))
    q, r = orthonormal(x, ["a", "b", "c"])
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(q @ r, x, atol=1e-12)
    x[:, 1] = 3 * x[:, 0]
    with pytest.raises(ValueError, match="term 'b': expected one that is no combination of the terms before it"):
        orthonormal(x, ["a", "b", "c"])
