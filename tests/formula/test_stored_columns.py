"""Columns go into tensors and come out as they were."""

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.stored_columns import pack_frame, pack_index, unpack_frame, unpack_index

FRAME = pd.DataFrame(
    {
        "float": [0.1, np.pi, -0.0],
        "whole": np.array([2**60, -1, 0]),
        "small": np.array([1, 2, 3], dtype=np.uint8),
        "yes": [True, False, True],
        "text": ["b", "a", "b"],
        "mixed": np.array([1, "1", 2.5], dtype=object),
        "kind": pd.Categorical(["y", "x", "y"], categories=["z", "y", "x"], ordered=True),
        "day": np.array(["2024-02-29", "1960-01-01T12:00:00.000001", "2024-02-29"], "M8[ns]"),
    }
)


def test_columns_come_back_as_they_were():
    facts, tensors = pack_frame(FRAME, "c.")
    found = unpack_frame(facts, tensors, "c.")
    assert list(found) == list(FRAME)
    for name in FRAME:
        assert found[name].tolist() == FRAME[name].tolist(), name
        assert [type(v) for v in found[name]] == [type(v) for v in FRAME[name]], name
    assert found["kind"].cat.categories.tolist() == ["z", "y", "x"]
    assert found["kind"].cat.ordered
    assert np.signbit(found["float"].iloc[2])


def test_nullable_numbers_become_plain_ones():
    facts, tensors = pack_frame(pd.DataFrame({"g": pd.array([2**60 + 1, 5], dtype="Int64")}), "c.")
    assert unpack_frame(facts, tensors, "c.")["g"].tolist() == [2**60 + 1, 5]


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(2, 8, 2),
        pd.Index(["a", "b", "a"], name="row"),
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["shop", None]),
    ],
)
def test_names_of_rows_come_back(index):
    facts, tensors = pack_index(index, "i.")
    found = unpack_index(facts, tensors, "i.")
    assert found.equals(index)
    assert found.names == index.names


def test_other_things_are_refused():
    with pytest.raises(ValueError, match="numbers, texts, categories or times in column 'a', got tuple"):
        pack_frame(pd.DataFrame({"a": [(1,), (2,)]}), "c.")
