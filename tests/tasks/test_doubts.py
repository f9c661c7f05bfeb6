"""What rows make doubtful: columns that number them, features and rows that outweigh all others, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.tasks.doubts import FEWEST, far_rows, few_features, notes_on_numbers, notes_on_rows, row_numbers


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
    assert notes_on_numbers(X, None) == [
        "X: column 1 numbers the rows, from 3 to 32, and counts as a feature; leave it out (--exclude)"
    ]
    assert notes_on_numbers(X, ["a", "nr"])[0].startswith("X: column 'nr' numbers")
    assert notes_on_numbers(X[:, :1], None) == []


def test_features_that_outweigh_all_others_are_few_and_far_above_most():
    share = np.ones(40)
    share[[3, 4]] = 100.0, 50.0
    assert few_features(share, None).startswith("2 features of 40 have 80% of the variance and will decide alone; the")
    assert "the largest is column 'c3'; if" in few_features(share, [f"c{i}" for i in range(40)])
    share[5] = 75.0  # the first of two, now 175 of 262
    assert few_features(share, None).startswith("2 features of 40 have 67%")
    for other in (np.ones(40), 0 * share, np.minimum(share, 20.0), np.r_[share[:1], 0 * share]):
        assert few_features(other, None) == ""


def test_far_rows_are_those_beyond_a_gap():
    X = np.random.default_rng(0).normal(size=(60, 3))
    assert far_rows(X).tolist() == []
    X[[5, 9, 11]] = [[1e6, 0, 0], [0, 1e3, 0], [0, 0, 1e3]]
    assert far_rows(X)[0] == 5
    assert set(far_rows(X)) == {5, 9, 11}
    X[20] = 1e3  # more than a twentieth: a class of its own
    assert far_rows(X).tolist() == [5]
    assert far_rows(X[: FEWEST - 1]).tolist() == []
    assert far_rows(np.r_[np.zeros((59, 3)), np.ones((1, 3))]).tolist() == []  # how far is nothing?


def test_notes_on_rows_of_classes():
    X = np.random.default_rng(0).normal(size=(60, 8))
    names = [f"c{i}" for i in range(8)]
    assert notes_on_rows(X, names) == []
    assert notes_on_rows(X * [1, 1, 1, 1, 1, 1, 1, 20], names) == []  # which a metric takes
    assert notes_on_rows(X.reshape(60, 2, 4), None) == []
    assert notes_on_rows(np.where(X > 2, np.nan, X), names) == []  # refused where they are drawn
    (said,) = notes_on_rows(1e150 * X * [1, 1, 1, 1, 1, 1, 1, 1e3], names)
    assert said.startswith(
        "X: 1 feature of 8 has 99% of the variance and will decide alone; the largest is column 'c7'"
    )
    X[13] *= 1e5
    assert notes_on_rows(X.astype(np.float32), names) == ["X: row 13 lies more than 50 times as far out as the others"]
    assert notes_on_rows(0 * X + 3, None) == ["X: no feature varies, so that there is nothing to learn"]
