"""Task batches: collation, views, and what they refuse."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from builders import class_tasks, classifier, close, real_tasks, regressor

from ebmeta import Objective, TaskBatch


def arguments(**changes):
    values = {
        "support_x": torch.arange(24.0).reshape(2, 3, 4),
        "support_y": torch.tensor([[0, 1, 1], [1, 0, 2]]),
        "query_x": torch.arange(40.0).reshape(2, 5, 4),
        "query_y": torch.tensor([[0, 1, 1, 0, 1], [1, 0, 2, 2, 0]]),
        "way_mask": torch.tensor([[True, True, False], [True, True, True]]),
    }
    return values | changes


def changed(name, index, value):
    v = arguments()[name].clone()
    v[index] = value
    return {name: v}


NAN, INF = float("nan"), float("inf")
NO_QUERY = torch.tensor([[True] * 5, [False] * 5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"support_x": torch.zeros(2, 3)},
            r"expected shapes \(tasks, rows, features...\), got \(2, 3\) and \(2, 5, 4\)",
        ),
        ({"query_x": torch.zeros(5)}, r"expected shapes \(tasks, rows, features...\), got \(2, 3, 4\) and \(5,\)"),
        ({"support_y": torch.zeros(2, 4).long()}, r"support_y: expected shape \(2, 3\) .*, got \(2, 4\)"),
        ({"query_y": torch.zeros(3, 5).long()}, r"query_y: expected shape \(2, 5\) .*, got \(3, 5\)"),
        ({"query_x": torch.zeros(3, 5, 4)}, r"query_x: expected shape \(2, 5, 4\) .*, got \(3, 5, 4\)"),
        ({"query_x": torch.zeros(2, 5, 6)}, r"query_x: expected shape \(2, 5, 4\) .*, got \(2, 5, 6\)"),
        ({"support_mask": torch.ones(2, 2).bool()}, r"support_mask: expected shape \(2, 3\) .*, got \(2, 2\)"),
        ({"query_mask": torch.ones(5).bool()}, r"query_mask: expected shape \(2, 5\) .*, got \(5,\)"),
        ({"way_mask": torch.ones(3).bool()}, r"way_mask: expected two axes, .*, got shape \(3,\)"),
        ({k: v[:0] for k, v in arguments().items()}, "expected at least one task, got 0"),
        ({"query_mask": NO_QUERY}, "query_x: expected at least one query per task, got none in task 1"),
        (
            changed("support_x", (1, 2, 0), NAN),
            "support_x: expected finite numbers, got NaN or infinity at task 1, row 2",
        ),
        (changed("query_x", (0, 4, 3), INF), "query_x: expected finite numbers, got NaN or infinity at task 0, row 4"),
        (changed("support_y", (0, 1), 2), "support_y: expected labels from 0 to 1 in task 0, got 2 at row 1"),
        (changed("query_y", (1, 3), -1), "query_y: expected labels from 0 to 2 in task 1, got -1 at row 3"),
        (
            {"support_y": torch.tensor([[0, NAN, 0], [0, 0, 0]]), "way_mask": None, "query_y": None},
            "support_y: expected finite numbers, got NaN or infinity at task 0, row 1",
        ),
        (
            {"concentration": torch.tensor([NAN, 0.0])},
            "concentration: expected numbers above 0, infinity or NaN, got 0.0 at task 1",
        ),
        ({"concentration": torch.ones(3)}, r"concentration: expected shape \(2,\) to match support_x, got \(3,\)"),
        ({"way_class": torch.tensor([1, 2])}, r"way_class: expected shape \(2, 3\) to match support_x, got \(2,\)"),
        ({"way_class": torch.zeros(2, 2).long()}, r"way_class: expected shape \(2, 3\) .*, got \(2, 2\)"),
        ({"way_class": torch.zeros(2, 3)}, "way_class: expected integers, got torch.float32"),
        (
            {"way_class": torch.tensor([[0, 1, -7], [0, -2, 1]])},
            "way_class: expected numbers of classes from 0 on, or -1 for none, got -2 of class 1 in task 1",
        ),
    ],
)
def test_bad_tensors_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TaskBatch(**arguments(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"way_mask": torch.tensor([[True, False, True]] * 2), "query_y": None}, id="a gap in the ways"),
        pytest.param({"query_y": torch.zeros(2, 5)}, id="class labels beside real ones"),
        pytest.param({"query_mask": torch.ones(2, 5).long()}, id="a mask of integers"),
    ],
)
def test_inconsistent_tensors_are_refused(changes):
    with pytest.raises(ValueError, match=r"expected .* got"):
        TaskBatch(**arguments(support_y=torch.tensor([[0, 1, 1], [1, 0, 1]]), **changes))


X, Y = torch.ones(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (([], [], []), r"expected lists of one equal, positive length, got lengths \[0\]"),
        (([X, X], [Y], [X, X]), r"expected lists of one equal, positive length, got lengths \[1, 2\]"),
        (([X], [Y], [X], [Y, Y]), r"expected lists of one equal, positive length, got lengths \[1, 2\]"),
        (([X], [Y], [X], [Y], [2, 2]), r"expected lists of one equal, positive length, got lengths \[1, 2\]"),
        (([X, X], [Y, Y[:1]], [X, X]), "support_y: expected 2 labels in task 1, got 1"),
        (([X], [Y], [X], [Y[:1]]), "query_y: expected 2 labels in task 0, got 1"),
        (([X], [Y], [X], [Y], [1]), "support_y: expected labels from 0 to 0 in task 0, got 1 at row 1"),
        (([X, X[:, :1]], [Y, Y], [X, X]), "expected .* got"),
        (([X, X[:, :2]], [Y, Y], [X, X]), "expected .* got"),
        (([X, X], [Y, Y + 0.5], [X, X]), "expected .* got"),
        (([X[:0]], [Y[:0]], [X]), "expected .* got"),
    ],
    ids=[
        "nothing", "fewer labels", "more query labels", "more ways", "short support labels", "short query labels",
        "too few ways", "one feature", "fewer features", "labels of two kinds", "ways unknown",
    ],
)  # fmt: skip
def test_bad_lists_are_refused(lists, message):
    with pytest.raises(ValueError, match=message):
        TaskBatch.from_tasks(*lists)


def test_collation_pads_and_masks():
    rows = [torch.arange(6.0).reshape(3, 2), 10 + torch.arange(2.0).reshape(1, 2)]
    batch = TaskBatch.from_tasks(
        rows, [torch.tensor([2, 0, 1]), torch.tensor([0])], rows[::-1], [torch.tensor([1]), torch.tensor([1, 0, 1])]
    )
    assert batch.support_mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.query_mask.tolist() == [[True, False, False], [True, True, True]]
    assert batch.way_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.support_y.tolist() == [[2, 0, 1], [0, 0, 0]]
    assert batch.query_y.tolist() == [[1, 0, 0], [1, 0, 1]]
    assert torch.equal(batch.support_x[1, :1], rows[1])
    assert torch.equal(batch.query_x[1], rows[0])
    assert batch.num_queries.tolist() == [1, 3]
    assert len(batch) == batch.num_tasks == 2


def test_ways_default_to_the_labels():
    assert TaskBatch(X[None], Y[None], X[None], Y[None] + 2).way_mask.tolist() == [[True] * 4]
    assert TaskBatch(X[None], Y[None] / 2, X[None]).way_mask.tolist() == [[True]]
    assert TaskBatch.from_tasks([X], [Y], [X], None, [3]).way_mask.tolist() == [[True] * 3]


def test_support_may_be_absent():
    batch = TaskBatch.from_tasks([X[:0], X], [Y[:0], Y], [X, X])
    assert batch.support_mask.tolist() == [[False, False], [True, True]]
    assert TaskBatch(X[None, :0], Y[None, :0], X[None]).way_mask.tolist() == [[True]]


def test_changing_type_leaves_labels_and_masks():
    batch = class_tasks(dtype=torch.float32)
    double = batch.to(torch.float64)
    for field in present(batch):
        before, after = getattr(batch, field.name), getattr(double, field.name)
        assert after.dtype == (torch.float64 if before.is_floating_point() else before.dtype)
        assert torch.equal(after, before.to(after.dtype))
    assert torch.equal(batch.unlabelled().to("cpu").query_x, batch.query_x)


def present(batch):
    return [f for f in fields(TaskBatch) if getattr(batch, f.name) is not None]


@pytest.mark.parametrize("index", [slice(1, 3), [2, 0], torch.tensor([False, True, True, False])])
def test_indexing_chooses_tasks(index):
    batch = class_tasks()
    chosen = batch[index]
    for field in present(batch):
        assert torch.equal(getattr(chosen, field.name), getattr(batch, field.name)[index])
    assert batch.unlabelled()[index].query_y is None


def test_unlabelled_hides_query_labels_alone():
    batch = class_tasks()
    hidden = batch.unlabelled()
    assert hidden.query_y is None
    names = [f.name for f in present(batch) if f.name != "query_y"]
    assert all(torch.equal(getattr(hidden, name), getattr(batch, name)) for name in names)


def test_pooling_makes_every_row_support_and_query():
    batch = real_tasks((2, 1), (1, 3))
    pooled = batch.pooled()
    for t in range(2):
        x = torch.cat([batch.support_x[t][batch.support_mask[t]], batch.query_x[t][batch.query_mask[t]]])
        y = torch.cat([batch.support_y[t][batch.support_mask[t]], batch.query_y[t][batch.query_mask[t]]])
        for part in ("support", "query"):
            mask = getattr(pooled, f"{part}_mask")[t]
            assert torch.equal(getattr(pooled, f"{part}_x")[t][mask], x)
            assert torch.equal(getattr(pooled, f"{part}_y")[t][mask], y)
    with pytest.raises(ValueError, match="pooled: expected query labels, got unlabelled tasks"):
        batch.unlabelled().pooled()


def test_what_is_known_of_class_proportions_goes_with_its_task():
    lists = [X, X, X], [Y, Y, Y], [X, X, X], [Y, Y, Y]
    batch = TaskBatch.from_tasks(*lists, concentration=torch.tensor([2.0, INF, NAN]))
    assert batch[[1, 0]].unlabelled().concentration.tolist() == [INF, 2.0]
    assert batch.to(torch.float64).concentration.dtype == torch.float64
    assert batch[2:].concentration.isnan().all()
    assert batch.pooled().concentration is None  # it speaks of the queries alone
    with pytest.raises(ValueError, match=r"expected lists of one equal, positive length, got lengths \[2, 3\]"):
        TaskBatch.from_tasks(*lists, concentration=torch.ones(2))


def test_the_numbers_of_classes_go_with_their_task():
    numbers = torch.tensor([[7, -1, 9], [3, 4, 5], [0, 1, 2]], dtype=torch.int32)
    lists = [X, X, X], [Y, Y, Y], [X, X, X], [Y, Y, Y], [2, 3, 3]
    batch = TaskBatch.from_tasks(*lists, way_class=numbers)
    assert batch.way_class.dtype == torch.int64
    assert batch.way_class.tolist() == [[7, -1, -1], [3, 4, 5], [0, 1, 2]]  # the third class of task 0 is padding
    assert batch.to(torch.float64).way_class.dtype == torch.int64
    kept = [batch.to("cpu"), batch.unlabelled(), batch.pooled(), batch.trimmed(), batch.with_rows(batch.query)]
    assert all(torch.equal(other.way_class, batch.way_class) for other in (*kept, replace(batch, query_y=None)))
    for index in (slice(1, 3), [2, 0], torch.tensor([True, False, True])):
        assert torch.equal(batch[index].way_class, batch.way_class[index])
    parts = batch.parts(1)
    assert len(parts) == 3
    assert all(torch.equal(part.way_class, batch.way_class[number]) for number, part in parts)
    assert TaskBatch.from_tasks(*lists).way_class is None
    with pytest.raises(ValueError, match=r"expected lists of one equal, positive length, got lengths \[2, 3\]"):
        TaskBatch.from_tasks(*lists, way_class=numbers[:2])


def test_repr_says_what_is_in_it():
    assert repr(class_tasks()) == "TaskBatch(tasks=4, ways<=5, support<=6, queries<=7, features=(4,), labelled)"
    assert repr(class_tasks().unlabelled()).endswith("unlabelled)")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_any_integer_type_mean_the_same(dtype):
    model, batch = classifier(), class_tasks()
    other = replace(batch, support_y=batch.support_y.to(dtype), query_y=batch.query_y.to(dtype))
    close(model.posterior(other)[-1].loc, model.posterior(batch)[-1].loc)
    a, b = (Objective("gibbs").loss(model.model, model.guide, v, generator=g()) for v in (other, batch))
    assert a == pytest.approx(b, rel=1e-12)


def g():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("label", [-1, -100, 99])
def test_labels_of_padded_rows_do_not_matter(label):
    model, batch = classifier(), class_tasks()
    other = replace(
        batch,
        support_y=batch.support_y.masked_fill(~batch.support_mask, label),
        query_y=batch.query_y.masked_fill(~batch.query_mask, label),
    )
    close(model.posterior(other)[-1].loc, model.posterior(batch)[-1].loc)
    a, b = (Objective("gibbs").loss(model.model, model.guide, v, generator=g()) for v in (other, batch))
    assert a == pytest.approx(b, rel=1e-12)


@pytest.mark.parametrize("build", [classifier, regressor])
def test_inputs_of_padded_rows_do_not_matter(build):
    model, batch = build(), class_tasks() if build is classifier else real_tasks()
    other = replace(
        batch,
        support_x=batch.support_x.masked_fill(~batch.support_mask.unsqueeze(-1), NAN),
        query_x=batch.query_x.masked_fill(~batch.query_mask.unsqueeze(-1), NAN),
    )
    close(model.posterior(other)[-1].loc, model.posterior(batch)[-1].loc)
    a, b = (Objective("gibbs").loss(model.model, model.guide, v, generator=g()) for v in (other, batch))
    assert a == pytest.approx(b, rel=1e-12)
