"""What a regressor is told of rows beside features: read as numbers and keys, or refused by row."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from ebmeta import EmpiricalBayes, FewShotClassifier, FewShotRegressor
from ebmeta.estimators.rows import (
    among,
    distinct,
    groups_of,
    matched,
    names_of_row,
    read_anchors,
    sizes_of,
    staying,
    targets_of,
    unlike,
)


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


def test_rows_that_leave_are_the_first_of_their_kind():
    pool = torch.tensor([[1.0], [2.0], [1.0], [1.0]])
    assert matched(pool, torch.tensor([[3.0], [1.0], [2.0], [1.0]])).tolist() == [1, 2, 3, -1]
    assert matched(pool, pool[:0]).tolist() == [-1] * 4
    assert matched(pool[:0], pool).tolist() == []


NAMED = pd.Series([1.0, 2.0], index=["size", "weight"])


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        (
            {"a": np.ma.array([1.0, 2.0], mask=[True, False])},
            "^anchors: expected a value in every place, got a masked one",
        ),
        ({"a": ["1.0", "2.0"]}, "^anchors: expected numbers, got the text '1.0'"),
        ({"a": [1.0, None]}, "^anchors: expected numbers, got no value"),
        ({"a": [1.0, np.inf]}, "^anchors: expected finite numbers, got NaN or infinity at row 0, column 1"),
        ({"a": [1.0, 1e200]}, r"^anchors: expected numbers below 1e\+150, got 1e\+200 for 'a'"),
        ({"a": 1.0}, "^anchors: expected a numeric array of shape"),
        (
            {"a": [1.0, 2.0], "b": [[1.0, 2.0]]},
            r"^anchors: expected numbers of one shape .* \(1, 2\) for 'b' and \(2,\)",
        ),
        ({"a": [1.0, 2.0], 1: [1.0, 2.0]}, "^anchors: expected labels of one kind, got the text 'a' .* the number 1"),
        ({"a": NAMED, "b": NAMED[::-1]}, "as the first anchor; got the same names in another order: weight, size"),
    ],
)
def test_an_anchor_is_read_as_any_other_row(anchors, message):
    with pytest.raises(ValueError, match=message):
        read_anchors(anchors)


def test_columns_of_anchors_and_rows_are_those_of_one_another():
    rows = pd.DataFrame([[1.0, 2.0], [3.0, -1.0]], columns=["size", "weight"])
    clf = FewShotClassifier().fit(rows, ["b", "c"], anchors={"a": NAMED})
    plain = FewShotClassifier().fit(rows.to_numpy(), ["b", "c"], anchors={"a": [1.0, 2.0]})
    np.testing.assert_array_equal(clf.predict_proba(rows), plain.predict_proba(rows.to_numpy()))
    with pytest.raises(ValueError, match="feature names should match"):
        FewShotClassifier().fit(rows, ["b", "c"], anchors={"a": NAMED[::-1]})
    alone = FewShotClassifier().fit(anchors={"a": NAMED, "b": 2 * NAMED})
    with pytest.raises(ValueError, match="feature names should match"):
        alone.predict(rows[["weight", "size"]])


def test_labels_beside_anchors_are_of_one_kind():
    with pytest.raises(ValueError, match="y: expected labels of one kind, got the number 1 in row 0 and the text '1'"):
        FewShotClassifier().fit([[1.0], [2.0]], [1, "1"], anchors={"b": [0.0]})
    with pytest.raises(ValueError, match="y and anchors: .* labels of one kind, got the text '1' .* the number 1"):
        FewShotClassifier().fit([[1.0], [2.0]], ["1", "2"], anchors={1: [0.0]})
    with pytest.raises(ValueError, match="anchors: expected labels of one kind, got the truth value True"):
        FewShotClassifier().fit([[1.0], [2.0]], [0, 1], anchors={True: [0.0], 2: [1.0]})


def test_rows_are_found_among_others_by_their_values():
    rows = torch.tensor([[1.0, 0.0], [1.0, -0.0], [2.0, 0.0]])
    assert among(rows, rows[:1]).tolist() == [True, True, False]
    assert among(rows, rows[:0]).tolist() == [False, False, False]
    assert unlike(rows, rows[:0]).tolist() == [True, False, True]
    assert unlike(rows, rows[2:]).tolist() == [True, False, False]


def test_rows_too_large_to_square_are_named_as_the_caller_named_them():
    X = np.array([[1.0, 2.0], [0.0, -1e300]])
    said = r"expected numbers below 1e\+150, got 1e\+300 at row 1$"
    with pytest.raises(ValueError, match=f"^X: {said}"):
        FewShotClassifier().fit(X, ["a", "b"])
    with pytest.raises(ValueError, match=f"^pool: {said}"):
        FewShotClassifier().fit([*X[:1], [3.0, 4.0]], ["a", "b"], pool=X)
    with pytest.raises(ValueError, match=f"^X: {said}"):
        FewShotClassifier().fit([*X[:1], [3.0, 4.0]], ["a", "b"]).predict(X)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int8, bool, np.longdouble])
def test_numbers_of_any_type_are_compared_without_a_word(kind):
    rows = np.array([[1, 0], [0, 1]], dtype=kind)
    assert FewShotClassifier().fit(rows, ["a", "b"], pool=rows).predict(rows).tolist() == ["a", "b"]


def test_rows_that_meet_by_chance_are_rows_of_their_own():
    """Three truth values allow for 8 rows: fewer than the pairs of 4 distinct ones, and more than those of 3."""
    cube = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert distinct(cube[[0, 1, 2, 2, 3]])[0].tolist() == [0, 1, 2, 3, 4]
    first, which = distinct(cube[[1, 2, 1, 3, 2]])
    assert (first.tolist(), which.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1])
    assert distinct(cube[[1, 1, 1]])[0].tolist() == [0]
    assert distinct(cube[:0], torch.zeros(0, dtype=torch.int64))[0].tolist() == []


def test_labelled_rows_are_one_where_they_have_one_label():
    rows = torch.tensor([[0.1, 0.2, 0.3], [1.1, 1.2, 1.3]], dtype=torch.float64)[[0, 1, 0, 1, 0]]
    labels = torch.tensor([0, 1, 0, 0, 1])
    assert distinct(rows, labels)[1].tolist() == [0, 1, 0, 2, 3]


def test_groups_of_zeros_that_may_be_inflated_are_told_of():
    X, groups = np.arange(8.0).reshape(4, 2), ["b", "a", "a", "c"]
    model = EmpiricalBayes.regressor(2, "zero_inflated_poisson")
    said = r"^y: labels of group 'a' \(and 1 more\) are zeros alone, which may be inflated: predicted means may be too"
    with pytest.warns(UserWarning, match=said):
        FewShotRegressor(model).fit(X, [1, 0, 0, 0], groups=groups)
    with pytest.warns(UserWarning, match="^y: labels are zeros alone"):
        FewShotRegressor(model).fit(X, [0, 0, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FewShotRegressor(model).fit(X, [1, 0, 2, 3], groups=groups)
        FewShotRegressor(EmpiricalBayes.regressor(2, "poisson")).fit(X, [1, 0, 0, 0], groups=groups)
