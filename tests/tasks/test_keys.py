"""Names of classes, groups and rows: those that numbers cannot tell apart are refused, and others stay as they are."""

import numpy as np
import pandas as pd
import pytest
import torch

import ebmeta
from ebmeta.tasks.classes import class_codes
from ebmeta.tasks.columns import read_keys
from ebmeta.tasks.frame_files import as_ids
from ebmeta.tasks.keys import refuse_inexact, values_of

BIG = 10**17
FIRST = [
    (np.float64, 2**53),
    (np.float32, 2**24),
    (np.float16, 2**11),
    (torch.float64, 2**53),
    (torch.float32, 2**24),
    (torch.bfloat16, 2**8),
    ("Float64", 2**53),
    ("Float32", 2**24),
]


def column(dtype, *values):
    """Return a column of one type."""
    if isinstance(dtype, torch.dtype):
        return torch.tensor(values, dtype=dtype)
    return pd.Series(values, dtype=dtype) if isinstance(dtype, str) else np.array(values, dtype=dtype)


@pytest.mark.parametrize(("dtype", "first"), FIRST, ids=lambda v: str(v))
def test_the_first_float_that_stands_for_two_numbers_is_refused(dtype, first):
    assert column(dtype, first).tolist() == column(dtype, first + 1).tolist()
    with pytest.raises(ValueError, match=f"groups: expected names that are told apart, got the float {first},"):
        read_keys("groups", column(dtype, 1, first))
    largest = column(dtype, first - 1)
    assert largest.tolist() != column(dtype, first - 2).tolist()
    assert read_keys("groups", largest) == [first - 1]


def test_whole_numbers_texts_and_gaps_are_as_large_as_they_like():
    refuse_inexact("ids", [BIG, "1e17", None, np.nan, 2.5, -3.0])
    refuse_inexact("ids", pd.Series([BIG, None], dtype="Int64"))
    refuse_inexact("ids", torch.tensor([BIG]))
    assert read_keys("groups", [2**70, 2**70 + 1]) == [2**70, 2**70 + 1]
    with pytest.raises(ValueError, match="got the float -100000000000000000,"):
        refuse_inexact("ids", [1.0, -1e17])


@pytest.mark.parametrize("kind", [float, object])
def test_groups_that_floats_make_one_are_refused_wherever_they_are_read(kind):
    ids = (np.repeat(np.arange(4), 5) + float(BIG)).astype(kind)
    assert len(set(ids.tolist())) == 1
    X, y = np.arange(20.0)[:, None], np.arange(20.0)
    for ask in (
        lambda: ebmeta.GroupSampler(X, y, ids, n_support=2),
        lambda: ebmeta.FewShotRegressor(ebmeta.EmpiricalBayes.regressor(1)).fit(X, y, groups=ids),
        lambda: ebmeta.mixed_model("y ~ x + (1 | g)", pd.DataFrame({"x": X[:, 0], "y": y, "g": ids})),
        lambda: class_codes(ids),
        lambda: as_ids(ids),
    ):
        with pytest.raises(ValueError, match="names that are told apart, got the float 100000000000000000"):
            ask()


def test_whole_numbers_stay_whole_beside_gaps():
    assert values_of(pd.Series([BIG + 1, None], dtype="Int64"))[0] == BIG + 1
    assert values_of(pd.Series([BIG + 1, 2], dtype="Int64")).tolist() == [BIG + 1, 2]
    assert values_of(pd.Series([0.5, None])).dtype == np.float64
