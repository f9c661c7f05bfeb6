"""Columns that number the rows are found in any order and type, and no others are."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.tasks.row_numbers import FEWEST, notes_on_row_numbers, row_numbers


def table(column, kind=np.float64) -> np.ndarray:
    column = np.asarray(column)
    return np.stack([np.random.default_rng(0).normal(size=len(column)), column], 1).astype(kind)


@pytest.mark.parametrize("order", [np.arange(90), np.arange(90)[::-1], np.random.default_rng(1).permutation(90)])
@pytest.mark.parametrize("start", [0, 1, -40, 7_000_001])
def test_numbers_of_rows_are_found_in_any_order_and_from_any_start(order, start):
    assert row_numbers(table(start + order)) == [1]
    assert row_numbers((start + order)[:, None].repeat(2, 1)) == [0, 1]


def test_other_columns_number_nothing():
    n = np.arange(90)
    for other in (n // 2, 2 * n, n + 0.5, n % 89, np.where(n == 80, 200, n), np.where(n == 80, np.nan, n), 0 * n):
        assert row_numbers(table(other)) == []
    assert row_numbers(n[:, None]) == []  # what there is to learn from
    assert row_numbers(table(n)[: FEWEST - 1]) == []
    assert row_numbers(np.zeros((90, 2, 2))) == []


def test_a_note_has_the_name_of_the_column_or_its_number():
    X = table(np.arange(3, 33))
    assert notes_on_row_numbers(X, None) == [
        "X: column 1 numbers the rows, from 3 to 32, and counts as a feature; leave it out (--exclude)"
    ]
    assert notes_on_row_numbers(X, ["a", "nr"])[0].startswith("X: column 'nr' numbers")
    assert notes_on_row_numbers(X[:, :1], None) == []
