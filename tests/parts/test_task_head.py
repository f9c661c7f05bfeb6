"""The head of a general classifier looks at directions from the centre of each task."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, close

from ebmeta.parts.task_head import TaskHead


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


def test_some_rows_of_a_task_have_no_features():
    with pytest.raises(ValueError, match="features: expected all rows of a task together"):
        TaskHead().features(torch.ones(1, 2, 3))
