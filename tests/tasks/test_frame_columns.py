"""Columns of frames: numbers are read as they are, texts become levels, and what is neither is named."""

import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ebmeta.tasks.frame_columns import frame_of, levels_of, numbers_of, refuse_missing, texts_of


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3], [1.0, 2.0, 3.0], [decimal.Decimal(1), decimal.Decimal(2), decimal.Decimal(3)], [1, 2.0, 3]],
)
def test_numbers_of_every_kind_are_read(values):
    out = numbers_of("price", pd.Series(values, dtype=object))
    assert out.dtype == np.float64
    assert out.tolist() == [1.0, 2.0, 3.0]
    assert levels_of("price", pd.Series(values, dtype=object)) is None


def test_truth_values_are_zero_and_one():
    assert numbers_of("sold", pd.Series([True, False])).tolist() == [1.0, 0.0]


def test_levels_are_those_that_occur_in_order():
    assert levels_of("kind", pd.Series(["tea", "bread", "tea"])) == ["bread", "tea"]
    ordered = pd.Categorical(["low", "high"], categories=["low", "middle", "high"])
    assert levels_of("size", pd.Series(ordered)) == ["low", "high"]
    assert texts_of("size", pd.Series(ordered), ["low", "high"]).tolist() == ["low", "high"]


@pytest.mark.parametrize(
    ("read", "values", "message"),
    [
        (refuse_missing, [1.0, None, None], r"expected a value in every row, got none in row 1 \(and 1 more rows\)"),
        (
            refuse_missing,
            ["a", None],
            ".*leave out the rows; in a CSV file NA, None, null and nan stand for none: give",
        ),
        (refuse_missing, [1.0, None], ".*leave out the rows$"),
        (refuse_missing, [None, None], "expected values, got none in any row"),
        (numbers_of, ["yes", "no"], "expected numbers, got string values, such as 'yes' in row 0 .code an outcome"),
        (numbers_of, ["no" * 99], f"expected numbers, got string values, such as '{'no' * 29}n[.]{{3}} in row 0$"),
        (numbers_of, [1.0, np.inf], "expected finite numbers, got inf in row 1"),
        (levels_of, ["1", "2", "three"], "expected numbers or texts, got both: 'three' in row 2, and '1' in row 0"),
        (levels_of, ["1,5", "2,5"], "expected numbers with a decimal point and no other marks, got '1,5' in row 0"),
        (levels_of, [f"name {k}" for k in range(51)], "expected at most 50 distinct texts, got 51"),
        (levels_of, [[1], [2]], "expected numbers or texts, got list values"),
    ],
)
def test_what_is_neither_is_named_by_column_and_row(read, values, message):
    with pytest.raises(ValueError, match=f"^column 'a': {message}"):
        read("a", pd.Series(values))


def test_a_text_that_training_has_not_seen_is_named():
    with pytest.raises(ValueError, match=r"one of the categories of the training rows, \['a'\], got 'b' in row 1"):
        texts_of("kind", pd.Series(["a", "b"]), ["a"])


def test_whole_numbers_with_gaps_stay_whole():
    far = 2**53 + 1  # which no float is
    for frame in (pl.DataFrame({"id": [far, None], "x": [1.5, None]}), pa.table({"id": [far, None], "x": [1.5, None]})):
        found = frame_of("data", frame)
        assert found["id"].iloc[0] == far
        assert found["id"].isna().tolist() == found["x"].isna().tolist() == [False, True]
