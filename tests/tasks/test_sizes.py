"""Random sizes: within what there is, and even on a log scale."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ebmeta import EpisodeSampler, GroupSampler, MixedSampler
from ebmeta.tasks.sizes import MORE, MOST_QUERIES, MOST_SHOTS, MOST_WAYS, TaskSizes, random_size


@pytest.mark.parametrize(("classes", "members", "rows"), [(2, 2, 1), (3, 5, 10), (16, 600, 80), (500, 9, 4000)])
def test_sizes_stay_within_classes_rows_and_memory(classes, members, rows):
    rng = np.random.default_rng(0)
    drawn = np.array([random_size(classes, members, rows, rng) for _ in range(500)])
    ways, shots, queries = drawn.T
    assert ways.min() == 2
    assert ways.max() <= min(classes, MOST_WAYS)
    assert shots.min() == 1
    assert shots.max() <= MOST_SHOTS
    assert queries.min() >= 1
    assert queries.max() <= MOST_QUERIES
    assert (shots + queries).max() <= members
    assert (ways * (shots + queries)).max() <= max(MORE * rows, 4)


def test_numbers_of_classes_are_even_on_a_log_scale():
    """The share of those below 8, of 4,000 draws, is within five standard deviations: 6e-7 by chance."""
    rng = np.random.default_rng(1)
    ways = np.array([random_size(64, 600, 10**6, rng)[0] for _ in range(4000)])
    assert ways.max() == MOST_WAYS
    share = (math.log(7.5) - math.log(2)) / (math.log(MOST_WAYS) - math.log(2))
    assert abs(float((ways < 8).mean()) - share) < 5 * math.sqrt(share * (1 - share) / 4000)


def test_sizes_of_tasks_are_those_of_their_source():
    X, y = np.arange(60.0).reshape(30, 2), np.repeat(["a", "b", "c"], 10)
    assert EpisodeSampler(X, y, (2, 3), 1, 4, imbalance=2.0).task_sizes() == TaskSizes((1, 1), (4, 4), (2, 3), 2.0)
    assert GroupSampler(X, X[:, 0], y, (0, 3)).task_sizes() == TaskSizes((0, 3), None)
    assert MixedSampler([EpisodeSampler(X, y, 2, 1, 4)]).task_sizes() is None


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        {"n_shot": [1, 1], "n_query": None, "n_way": None},
        {"n_shot": None, "n_query": None, "n_way": None, "imbalance": None},
        {"n_shot": [2, 1], "n_query": None, "n_way": None, "imbalance": None},
        {"n_shot": [True, 1], "n_query": None, "n_way": None, "imbalance": None},
        {"n_shot": [1, 1], "n_query": [1, 2.0], "n_way": None, "imbalance": None},
        {"n_shot": [1, 1], "n_query": None, "n_way": None, "imbalance": -1.0},
        {"n_shot": [1, 1], "n_query": None, "n_way": None, "imbalance": "2"},
    ],
)
def test_damaged_sizes_are_refused(config):
    with pytest.raises(ValueError, match="^expected "):
        TaskSizes.from_config(config)
