"""Rows of one side of many tasks: what the support and the query of a batch share."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from builders import class_tasks, number_tasks, real_tasks

from ebmeta import TaskBatch
from ebmeta.tasks.rows import Rows


def same(got: Rows, expected: Rows) -> None:
    for field in fields(Rows):
        a, b = getattr(got, field.name), getattr(expected, field.name)
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("batch", [class_tasks(), real_tasks(), number_tasks("binomial")])
def test_sides_are_the_arrays_of_the_batch(batch):
    same(batch.support, Rows(batch.support_x, batch.support_y, batch.support_mask, batch.support_size))
    same(batch.query, Rows(batch.query_x, batch.query_y, batch.query_mask, batch.query_size))
    assert batch.unlabelled().query.y is None
    assert batch.query.count.tolist() == batch.num_queries.tolist()


def test_other_rows_take_the_place_of_one_side():
    batch = replace(number_tasks("poisson"), task_x=torch.ones(4, 1))
    fewer = batch.with_rows(query=batch.query.first(2))
    same(fewer.support, batch.support)
    same(
        fewer.query, Rows(batch.query_x[:, :2], batch.query_y[:, :2], batch.query_mask[:, :2], batch.query_size[:, :2])
    )
    assert torch.equal(fewer.task_x, batch.task_x)
    assert batch.with_rows(batch.support.first(0)).support.width == 0
    with pytest.raises(ValueError, match=r"query_x: expected shape \(4, 7, 3\) to match support_x, got \(4, 7, 2\)"):
        batch.with_rows(query=replace(batch.query, x=batch.query_x[..., :2]))


def test_padding_of_one_side_holds_what_does_no_harm():
    batch = number_tasks("poisson")
    rows = batch.support
    bad = Rows(*(torch.where(rows.mask, v, torch.nan) for v in (rows.x[..., 0], rows.y)), rows.mask, rows.size * 0)
    blank = replace(bad, x=bad.x.unsqueeze(-1)).blanked()
    assert (blank.x[~rows.mask] == 0).all()
    assert (blank.y[~rows.mask] == 0).all()
    assert (blank.size[~rows.mask] == 1).all()
    assert torch.equal(blank.y[rows.mask], rows.y[rows.mask])


def test_labelled_rows_stand_one_after_another():
    batch = number_tasks("poisson", supports=(0, 2), queries=(1, 3))
    rows = batch.labelled()
    expected = [(t, s) for s in ("support", "query") for t, n in enumerate((0, 2) if s == "support" else (1, 3)) if n]
    assert rows.task.tolist() == [1, 1, 0, 1, 1, 1]
    for name in ("x", "y", "size"):
        parts = [getattr(getattr(batch, s), name)[t][getattr(batch, s).mask[t]] for t, s in expected]
        assert torch.equal(getattr(rows, name), torch.cat(parts))
    support = batch.unlabelled().labelled()
    assert support.task.tolist() == [1, 1]
    assert torch.equal(support.y, batch.support_y[1, :2])
    assert (replace(batch, support_size=None, query_size=None).labelled().size == 1).all()


def test_sizes_of_one_side_alone_are_pooled_with_ones():
    batch = replace(number_tasks("poisson"), query_size=None)
    pooled = batch.pooled()
    assert torch.equal(pooled.support_size[:, : batch.support.width], batch.support_size)
    assert (pooled.support_size[:, batch.support.width :] == 1).all()
    same(pooled.support, pooled.query)


def test_trimming_counts_each_side_by_itself():
    batch = TaskBatch.from_tasks([torch.ones(1, 2)] * 2, [torch.ones(1)] * 2, [torch.ones(4, 2), torch.ones(2, 2)])
    wide = batch.with_rows(batch.support.map(lambda v: torch.cat([v, torch.zeros_like(v)], 1)))
    short = wide[[1]].trimmed()
    assert (short.support.width, short.query.width) == (1, 2)


def test_rows_of_a_network_are_looked_at_without_its_gradients():
    """Warnings are errors here: torch warns of numbers taken from tensors with gradients."""
    x = torch.zeros(1, 3, 2, requires_grad=True)
    batch = TaskBatch(x, torch.zeros(1, 3), torch.zeros(1, 4, 2), torch.zeros(1, 4, requires_grad=True))
    assert batch.support_x.requires_grad
