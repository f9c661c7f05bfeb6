"""Copies of labelled rows among the queries of a task: how many there are, what is no copy, and who is told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta.tasks.leaks import leaked, note_on_leaks, tell_of_leaks

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(2, 8, 10))
SAID = "7% of the queries are copies of labelled rows of their task, so that scores are not those of new rows"


def _tasks(support, query, **rest):
    labels = torch.arange(support.shape[1]).expand(len(support), -1)
    return ebmeta.TaskBatch(torch.from_numpy(support), labels, torch.from_numpy(query), **rest)


def _repeated(times: int) -> ebmeta.EpisodeSampler:
    """Six classes of eight rows, each given so often."""
    X, y = np.random.default_rng(1).normal(size=(48, 20)), np.repeat(np.arange(6), 8)
    X += np.random.default_rng(2).normal(size=(6, 20))[y]
    return ebmeta.EpisodeSampler(np.repeat(X, times, 0), np.repeat(y, times), n_way=3, n_shot=1, n_query=7)


def test_copies_count_within_their_task():
    query = ROWS[:, 2:].copy()
    query[0, 1], query[1, 3] = ROWS[0, 0], ROWS[0, 1]  # a copy, and a labelled row of the other task
    assert leaked(_tasks(ROWS[:, :2], query)) == 1 / 12
    query[0, 5] = ROWS[0, 1].astype(np.float32)
    assert leaked(_tasks(ROWS[:, :2], query)) == 2 / 12


def test_padding_is_no_row():
    query, mask = ROWS[:, 2:].copy(), torch.ones(2, 6, dtype=torch.bool)
    query[0, 4:] = ROWS[0, :2]
    mask[0, 4:] = False
    assert leaked(_tasks(ROWS[:, :2], query, query_mask=mask)) == 0
    mask[0, 4] = True
    assert leaked(_tasks(ROWS[:, :2], query, query_mask=mask)) == 1 / 11


@pytest.mark.parametrize("rows", [ROWS[..., :7], (RNG.normal(size=(2, 40, 8)) > 0).astype(float)])
def test_rows_that_are_equal_by_chance_are_no_copies(rows):
    """Rows of few features, or of few values."""
    assert leaked(_tasks(rows[:, :2], rows)) == 0


def test_images_are_rows():
    images = RNG.normal(size=(1, 5, 3, 4))
    assert leaked(_tasks(images[:, :2], images[:, 1:])) == 0.25


def test_tasks_of_numbers_may_have_rows_alike():
    x = torch.from_numpy(ROWS)
    assert leaked(ebmeta.TaskBatch(x, x[..., 0], x)) == 0


def test_every_second_row_given_twice_is_a_copy_as_often_as_drawing_says():
    """The copy of the labelled row is among the 7 queries of 15 rows of its class, which are a third of all."""
    expected = 7 / 15 / 7 / 3 * 3
    share = leaked(_repeated(2).sample(400))
    assert abs(share - expected) < 4 * (expected / (400 * 21)) ** 0.5
    assert leaked(_repeated(1).sample(64)) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda tasks: ebmeta.evaluate(ebmeta.general_classifier(), tasks, num_tasks=64),
        lambda tasks: ebmeta.certify(ebmeta.general_classifier(), tasks, num_partitions=2),
        lambda tasks: ebmeta.ConformalSets(ebmeta.general_classifier()).calibrate(tasks, 64),
        lambda tasks: ebmeta.fit(ebmeta.EmpiricalBayes.classifier(20), tasks, 1, progress=False),
    ],
    ids=["evaluate", "certify", "calibrate", "fit"],
)
def test_who_scores_or_learns_is_told(call):
    told = f"tasks: {note_on_leaks(_repeated(2).sample(64))}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(_repeated(2))
    assert [str(w.message).removeprefix("fit: ") for w in caught].count(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="(?!.*copies)")
        call(_repeated(1))


def test_a_warning_names_the_argument_and_the_share():
    with pytest.warns(UserWarning, match=f"validation: {SAID}; give each row once"):
        tell_of_leaks(_repeated(2).sample(400), "validation")
