"""Random numbers of queries, which no other task and no order changes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ebmeta.prediction.query_numbers import query_numbers


@pytest.fixture
def probs() -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(3), (400, 5))


def test_they_are_uniform_and_apart_by_seed_and_stream(probs: np.ndarray) -> None:
    """2,000 numbers each: false alarms of a test at 1e-6, and of 6 standard errors of a correlation at 2e-9."""
    drawn = [query_numbers(probs, seed, stream).ravel() for seed in (0, 1, 2**30) for stream in (0, 1)]
    assert all(stats.kstest(u, "uniform").pvalue > 1e-6 for u in drawn)
    apart = np.corrcoef(drawn)[np.triu_indices(6, 1)]
    assert np.abs(apart).max() < 6 / np.sqrt(2000)
    first_of_each_call = [query_numbers(probs[t : t + 1], 3, 1)[0, 0] for t in range(400)]
    assert stats.kstest(first_of_each_call, "uniform").pvalue > 1e-6


def test_no_other_task_and_no_order_changes_them(probs: np.ndarray) -> None:
    found = query_numbers(probs, 4, 1)
    np.testing.assert_array_equal(query_numbers(probs[::-1], 4, 1), found[::-1])
    np.testing.assert_array_equal(query_numbers(probs[:, ::-1], 4, 1), found[:, ::-1])
    np.testing.assert_array_equal(query_numbers(probs[..., [2, 0, 1]], 4, 1), found)
    np.testing.assert_array_equal(query_numbers(probs + 1e-12, 4, 1), found)
    padded = np.full((400, 7, 5), np.nan)
    padded[:, :5, :3] = probs
    np.testing.assert_array_equal(query_numbers(padded, 4, 1)[:, :5], found)


def test_copies_have_numbers_of_their_own() -> None:
    """3,000 equal rows of probability 1 and 0: false alarms at 1e-6."""
    for shape in ((1, 3000, 1), (3000, 1, 1)):
        found = query_numbers(np.tile([1.0, 0.0], shape), 0, 1).ravel()
        assert stats.kstest(found, "uniform").pvalue > 1e-6
