"""Rows of training tasks: which are taken, and what is measured of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import class_tasks, close, real_tasks

from ebmeta.tasks.training_rows import TrainingRows

CPU = torch.device("cpu")


def test_rows_are_those_of_both_sides_without_padding():
    batch = real_tasks()
    rows = TrainingRows.of([batch, batch], CPU)
    real = int(batch.support_mask.sum() + batch.query_mask.sum())
    assert rows.x.shape == (2 * real, 3)
    assert rows.y.shape == rows.size.shape == (2 * real,)
    close(rows.y[: int(batch.support_mask.sum())], batch.support_y[batch.support_mask])
    assert torch.equal(rows.size, torch.ones(2 * real, dtype=torch.float64))
    assert rows.task_x is None


def test_batches_are_drawn_until_there_are_enough_rows():
    drawn = []

    def batches():
        for index in range(9):
            drawn.append(index)
            yield class_tasks(seed=index)

    one = len(TrainingRows.of([class_tasks()], CPU).x)
    assert len(TrainingRows.of(batches(), CPU, one + 1).x) == 2 * one
    assert drawn == [0, 1]


def test_a_class_has_a_number_that_no_other_class_and_task_has():
    batch = class_tasks(ways=(3, 5), shots=(2, 1), queries=(6, 4))
    rows = TrainingRows.of([batch, batch], CPU)
    present = sum(len({*s[m].tolist(), *q[n].tolist()}) for s, m, q, n in _labels(batch))
    assert len(rows.cluster.unique()) == 2 * present
    assert not rows.y.long().sub(rows.cluster).remainder(10**6).any()


def _labels(batch):
    return zip(batch.support_y, batch.support_mask, batch.query_y, batch.query_mask, strict=True)


def test_variances_are_those_within_and_between_classes():
    rng = np.random.default_rng(0)
    phi, label = torch.from_numpy(rng.normal(size=(12, 2))), torch.arange(12) // 4 * 7
    rows = TrainingRows(phi, label.double(), label, features=lambda: phi)
    within, between = rows.variances
    groups = [phi[label == c] for c in (0, 7, 14)]
    close(within, sum(g.var(0) * 3 for g in groups) / 9)
    close(between, torch.stack([g.mean(0) for g in groups]).var(0) - within / 4)


def test_what_no_part_has_found_is_refused_in_words():
    rows = TrainingRows(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2, dtype=torch.long))
    assert rows.intercept is None
    assert not rows.standardize
    with pytest.raises(ValueError, match="expected those that a head has measured"):
        rows.features()
    with pytest.raises(ValueError, match="profile: expected rows of training classes, got none"):
        rows.classes()
