"""What a regressor is told of rows beside features: read as numbers and keys, or refused by row."""

import numpy as np
import pandas as pd
import pytest
import torch

from ebmeta.estimators.rows import groups_of, names_of_row, sizes_of, staying, targets_of


def test_what_is_absent_stays_absent():
    assert groups_of(None, 3) is None
    assert sizes_of(None, 3) is None
    assert names_of_row(np.ones(3)) is None


def test_groups_sizes_and_targets_are_read_row_by_row():
    assert groups_of(pd.Series(["b", "a", "b"]), 3) == ["b", "a", "b"]
    size = sizes_of([1, 2, 0.5], 3)
    assert size.dtype == torch.float64
    assert size.tolist() == [1.0, 2.0, 0.5]
    assert targets_of(pd.Series([1, 2]), 2).tolist() == [1.0, 2.0]


def test_names_of_a_row_are_texts():
    assert names_of_row(pd.Series([1.0, 2.0], index=["price", "days"])) == ["price", "days"]
    assert names_of_row(pd.Series([1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (sizes_of, [1.0, 0.0], "^size: expected numbers above 0, got 0 at row 1$"),
        (sizes_of, [1.0], "^size: "),
        (groups_of, ["a"], "^groups: "),
        (targets_of, [1.0, 1e200], r"^y: expected numbers below 1e\+\d+, got 1e\+200$"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(read, value, message):
    with pytest.raises(ValueError, match=message):
        read(value, 2)


def test_rows_leave_a_pool_once_for_every_time_that_they_are_given():
    pool = torch.tensor([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert staying(pool, pool[:0]).tolist() == [True] * 4
    assert staying(pool, pool[[0, 2]]).tolist() == [False, True, False, True]
    assert staying(pool, pool).tolist() == [False] * 4
