"""The head of a general classifier looks at directions from the centre of each task."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, close

from ebmeta import TaskBatch, general_classifier
from ebmeta.parts import neighbours, task_head
from ebmeta.parts.metric import within_metric
from ebmeta.parts.task_head import TaskHead
from ebmeta.tasks.training_rows import TrainingRows


@pytest.fixture
def alone(monkeypatch):
    """Rows that borrow nothing from their neighbours."""
    monkeypatch.setattr(neighbours, "BORROWED", 0.0)


def test_directions_borrow_from_their_neighbours(monkeypatch):
    batch, head = class_tasks(ways=(2, 3), shots=(1, 2), queries=(24, 36), features=12), TaskHead().double()
    got = head.of_task(batch)
    monkeypatch.setattr(neighbours, "BORROWED", 0.0)
    own = head.of_task(batch)
    monkeypatch.undo()
    support, query = neighbours.borrowed(own.support[..., :-1], own.query[..., :-1], batch)
    close(got.support[..., :-1], support)
    close(got.query[..., :-1], query)
    assert (got.query - own.query).abs().max() > 0.1


@pytest.mark.usefixtures("alone")
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


@pytest.mark.usefixtures("alone")
def test_anchors_are_classes_of_the_middle_and_no_labels_leave_the_rows_alone(monkeypatch):
    monkeypatch.setattr(task_head, "LENGTHS", 0.0)
    batch = class_tasks(ways=(2,), shots=(1,), queries=(4,), features=5)
    none = replace(batch, support_mask=torch.zeros_like(batch.support_mask))
    head, x = TaskHead().double(), batch.query_x[0]
    close(head.of_task(none).query[0, :, :-1], torch.nn.functional.normalize(x - x.mean(0), dim=-1))
    stands = torch.stack([x[:2] + 3.0])
    named = replace(none, anchor=stands, anchor_size=torch.full((1, 2), 2.0, dtype=torch.float64))
    center = x.mean(0) / 2 + stands[0].mean(0) / 2
    close(head.of_task(named).query[0, :, :-1], torch.nn.functional.normalize(x - center, dim=-1))
    close(head.of_task(named).anchor[0, :, :-1], torch.nn.functional.normalize(stands[0] - center, dim=-1))


@pytest.mark.usefixtures("alone")
def test_a_lone_class_does_not_pull_the_middle():
    batch = class_tasks(ways=(1,), shots=(3,), queries=(4,), features=5)
    rows = torch.cat([batch.support_x[0], batch.query_x[0]])
    seen = TaskHead().double().of_task(batch).query[0, :, :-1]
    close(seen, torch.nn.functional.normalize(batch.query_x[0] - rows.mean(0), dim=-1))


def test_some_rows_of_a_task_have_no_features():
    with pytest.raises(ValueError, match="features: expected all rows of a task together"):
        TaskHead().features(torch.ones(1, 2, 3))


@pytest.mark.usefixtures("alone")
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


def line(ways: int, features: int = 1, number: int = 1) -> TaskBatch:
    """Return tasks whose classes lie in a line, half a unit wide and three apart, in features that are copies."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(ways).repeat(number, 8)
    x = 3.0 * y + torch.randn(y.shape, generator=rng, dtype=torch.float64) / 2
    x = x.unsqueeze(-1) * torch.linspace(1.0, 2.0, features, dtype=torch.float64)
    n = 2 * ways
    return TaskBatch(support_x=x[:, :n], support_y=y[:, :n], query_x=x[:, n:], query_y=y[:, n:])


@pytest.mark.parametrize("features", [1, 7])
def test_classes_in_a_line_are_told_apart(features):
    """Rows keep their order along the line, and their mean square is that of unit vectors."""
    batch = line(4, features)
    seen = TaskHead().double().of_task(batch)
    rows = torch.cat([seen.support, seen.query], 1)[0, :, :-1]
    order = torch.cat([batch.support_x, batch.query_x], 1)[0, :, 0].argsort()
    along = rows @ rows[order[-1]]
    assert bool((along[order].diff() > 0).all())
    close(rows.square().sum(-1).mean(), torch.ones((), dtype=torch.float64))
    p = general_classifier().double().infer(batch).predict(-1)["probs"]
    assert (p.argmax(-1) == batch.query_y).all()
    assert p.amax(-1).mean() > 0.9


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("ways", "between"), [(2, 1.5), (3, 2)])
def test_lengths_count_as_the_formula_says(ways, between):
    batch = line(ways)
    seen = TaskHead().double().of_task(batch)
    x = torch.cat([batch.support_x, batch.query_x], 1)[0, :, 0]
    labelled, y = batch.support_x[0, :, 0], batch.support_y[0]
    off = x - x.mean() / 2 - torch.stack([labelled[y == c].mean() for c in range(ways)]).mean() / 2
    rho = 2 * (between**2 - 1) * (1 - 1 / 8)  # one direction
    want = off / (off.square() + rho * off.square().mean()).sqrt()
    close(torch.cat([seen.support, seen.query], 1)[0, :, 0], want / want.square().mean().sqrt())


def test_two_classes_in_a_plane_and_many_directions_need_no_lengths():
    tasks = class_tasks(ways=(3,), shots=(2,), queries=(30,), features=40)
    rows = torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plane = TaskBatch(rows[:, :2], torch.tensor([[0, 1]]), rows[:, 2:])
    for batch in (plane, tasks):
        length = TaskHead().double().of_task(batch).query[..., :-1].norm(dim=-1)
        close(length, torch.ones_like(length))
    same = replace(tasks, support_x=tasks.support_x * 0, query_x=tasks.query_x * 0)
    assert TaskHead().double().of_task(same).query[..., :-1].abs().max() == 0
