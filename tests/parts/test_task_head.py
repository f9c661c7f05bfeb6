"""The head of a general classifier looks at directions from the centre of each task."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, close

from ebmeta.parts.metric import within_metric
from ebmeta.parts.task_head import TaskHead
from ebmeta.tasks.training_rows import TrainingRows


def test_the_head_of_a_task_looks_from_the_middle_of_rows_and_classes():
    batch = class_tasks(ways=(2, 3), shots=(1, 2), queries=(4, 6), features=5)
    features = TaskHead().double().of_task(batch)
    for t in range(2):
        support, query = batch.support_x[t][batch.support_mask[t]], batch.query_x[t][batch.query_mask[t]]
        labels = batch.support_y[t][batch.support_mask[t]]
        classes = torch.stack([support[labels == c].mean(0) for c in labels.unique()])
        center = torch.cat([support, query]).mean(0) / 2 + classes.mean(0) / 2
        for got, x in ((features.support[t], support), (features.query[t], query)):
            close(got[: len(x), :-1], torch.nn.functional.normalize(x - center, dim=-1))
            assert (got[: len(x), -1] == 0.3).all()


def test_anchors_are_classes_of_the_middle_and_no_labels_leave_the_rows_alone():
    batch = class_tasks(ways=(2,), shots=(1,), queries=(4,), features=5)
    none = replace(batch, support_mask=torch.zeros_like(batch.support_mask))
    head, x = TaskHead().double(), batch.query_x[0]
    close(head.of_task(none).query[0, :, :-1], torch.nn.functional.normalize(x - x.mean(0), dim=-1))
    stands = torch.stack([x[:2] + 3.0])
    named = replace(none, anchor=stands, anchor_size=torch.full((1, 2), 2.0, dtype=torch.float64))
    center = x.mean(0) / 2 + stands[0].mean(0) / 2
    close(head.of_task(named).query[0, :, :-1], torch.nn.functional.normalize(x - center, dim=-1))
    close(head.of_task(named).anchor[0, :, :-1], torch.nn.functional.normalize(stands[0] - center, dim=-1))


def test_a_lone_class_does_not_pull_the_middle():
    batch = class_tasks(ways=(1,), shots=(3,), queries=(4,), features=5)
    rows = torch.cat([batch.support_x[0], batch.query_x[0]])
    seen = TaskHead().double().of_task(batch).query[0, :, :-1]
    close(seen, torch.nn.functional.normalize(batch.query_x[0] - rows.mean(0), dim=-1))


def test_some_rows_of_a_task_have_no_features():
    with pytest.raises(ValueError, match="features: expected all rows of a task together"):
        TaskHead().features(torch.ones(1, 2, 3))


def test_features_of_one_number_are_seen_in_the_metric_of_training_rows():
    """The metric is linear: features are those of rows that were multiplied by it before."""
    batch = class_tasks(ways=(2, 3), shots=(1, 2), queries=(4, 6), features=5)
    rng = torch.Generator().manual_seed(0)
    cluster = torch.arange(6).repeat_interleave(10)
    x = torch.randn(60, 5, generator=rng, dtype=torch.float64) * torch.tensor([0.1, 1.0, 3.0, 9.0, 0.5]) + 7.0
    head = TaskHead(5).double()
    assert not head.any_features
    assert not head.measured
    assert head.num_weights == 6
    close(head.of_task(batch).query, TaskHead().double().of_task(batch).query)
    head.measure(TrainingRows(x=1e3 * x, y=cluster.double(), cluster=cluster))
    assert head.measured
    off = x - x.mean(0)
    expected = within_metric(off / off.abs().max(), cluster)
    close(head.metric, expected)
    seen = replace(batch, support_x=batch.support_x @ expected, query_x=batch.query_x @ expected)
    for got, wanted in zip((head.of_task(batch).support, head.of_task(batch).query), _of(seen), strict=True):
        close(got, wanted)
    head.measure(TrainingRows(x=x[:, [4, 3, 2, 1, 0]], y=cluster.double(), cluster=cluster))
    close(head.metric, expected)
    with pytest.raises(ValueError, match="x: expected 4 features per input, got 5"):
        TaskHead(4).of_task(batch)


def _of(batch):
    features = TaskHead().double().of_task(batch)
    return features.support, features.query
