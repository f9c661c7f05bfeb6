"""Questions about all entries: the same answer in a batch of members, under gradients, and of nothing."""

from __future__ import annotations

import math

import pytest
import torch

from ebmeta.foundation.anywhere import anywhere, largest


def test_the_largest_is_that_of_all_members():
    values = torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    assert largest(values) == 5
    assert torch.vmap(lambda row: row + largest(row))(values).tolist() == [[6, 7], [10, 8]]
    alone = torch.vmap(lambda row: row + largest(row), chunk_size=1)(values)  # which shows one at a time
    assert alone.tolist() == [[3, 4], [10, 8]]
    assert math.isnan(largest(torch.tensor([1.0, torch.nan])))
    assert largest(torch.tensor([2**53 - 1])) == 2**53 - 1


def test_one_member_is_enough():
    rows = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert anywhere(rows > 0)
    assert not anywhere(rows > 1)
    assert not anywhere(rows[:0] > 0)
    asked = torch.vmap(lambda row: 2 * row if anywhere(row > 0) else row)(torch.ones(2, 2) * rows)
    assert asked.tolist() == [[0, 0], [0, 2]]


def test_a_gradient_passes_by():
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    (x * largest(x)).sum().backward()
    assert x.grad.tolist() == [3, 3]
    slope = torch.func.grad(lambda v: (v * largest(v)).sum())(torch.tensor([1.0, 3.0]))
    assert slope.tolist() == [3, 3]


def test_of_no_entry_nothing_is_the_largest():
    with pytest.raises(RuntimeError, match="amax"):
        largest(torch.zeros(0))
