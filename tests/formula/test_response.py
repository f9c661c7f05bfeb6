"""Labels and trials of the left side of a formula."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.response import Response, columns_of_response

DATA = pd.DataFrame(
    {"y": [1.0, 2.0, 3.0, 4.0], "n": [2, 4, 6, 8], "yes": [True, False, True, True], "kind": ["u", "v", "w", "u"]}
)
GRADES = DATA.assign(kind=pd.Categorical(DATA["kind"], ["w", "u", "v"], ordered=True))


@pytest.mark.parametrize(
    ("response", "labels", "trials"),
    [
        ("cbind(y, n - y)", [1, 2, 3, 4], [2, 4, 6, 8]),
        ("prop(y, n)", [1, 2, 3, 4], [2, 4, 6, 8]),
        ("prop(y, 10)", [1, 2, 3, 4], [10] * 4),
        ("p(y, 2 * n)", [1, 2, 3, 4], [4, 8, 12, 16]),
        ("log(y)", np.log([1, 2, 3, 4]), None),
        ("I(n - y)", [1, 2, 3, 4], None),
        ("{n / y}", [2, 2, 2, 2], None),
        ("kind['v']", [0, 1, 0, 0], None),
        ("yes", [1, 0, 1, 1], None),
    ],
)
def test_responses(response, labels, trials):
    found, size = Response(response, DATA).first
    np.testing.assert_allclose(found, labels)
    np.testing.assert_array_equal(size, trials)


def test_columns_that_a_response_names():
    assert columns_of_response("cbind(y, n - y)", DATA) == ["y", "n"]
    assert columns_of_response("prop(y, 8)", DATA) == ["y"]
    assert columns_of_response("kind['v']", DATA) == ["kind"]


@pytest.mark.parametrize("response", ["scale(y)", "center(y)", "log(y)", "kind['u']", "prop(y, n)", "y"])
def test_a_new_row_has_the_label_that_it_would_have_in_training(response):
    """Also next to other rows, or where all of them have one value."""
    found = Response(response, DATA)
    for rows in ([2], [0, 3], [3, 1, 0, 2]):
        for one, whole in zip(found.new(DATA.iloc[rows]), found.first, strict=True):
            np.testing.assert_array_equal(one, None if whole is None else whole[rows])


def test_ordered_categories_are_numbers_in_their_order():
    found = Response("kind", GRADES)
    assert found.levels == ["w", "u", "v"]
    assert found.first[0].tolist() == [1, 2, 0, 1]
    assert found.new(pd.DataFrame({"kind": ["v", "w"]}))[0].tolist() == [2, 0]
    assert Response("y", GRADES).levels is None


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("y / n", "formula: expected a column or a function of columns on the left, got 'y / n' (write I(y / n) for"),
        ("y - 1", "formula: expected a column or a function of columns on the left, got 'y - 1'"),
        ("y:n", "formula: expected a column or a function of columns on the left, got 'y:n'"),
        ("y > 1", "formula: expected terms that can be computed, got 'y > 1': I(x > 0) is 1 where a comparison holds"),
        (
            "kind",
            "labels: expected numbers, got texts in 'kind' (write kind['w'] for 1 where it is 'w' and 0 elsewhere",
        ),
        ("kind['x']", "labels: expected a value of column 'kind' in brackets, such as 'w', got 'x'"),
        ("poly(y, 2)", "labels: expected one column, got 2 in 'poly(y, 2)'"),
        ("log(y - 1)", "labels: expected finite numbers, got -inf of 'log(y - 1)' in row 0"),
        ("cbind(y)", "formula: expected two columns in 'cbind(y)', such as cbind(successes, failures)"),
        ("np.cumsum(y)", "term 'np.cumsum(y)': expected a value of each row by itself"),
    ],
)
def test_what_is_no_response_is_refused_in_one_line(response, said):
    with pytest.raises(ValueError) as error:
        Response(response, DATA)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("response", "new", "said"),
    [
        ("y", {"y": ["1.5"]}, f"column 'y': expected numbers as in the training rows, got {pd.Series(['1.5']).dtype}"),
        ("kind['u']", {"kind": ["x"]}, "labels: expected categories among u, v, w, as in the training rows, got 'x'"),
        ("kind", {"kind": ["x"]}, "labels: expected categories among w, u, v, as in the training rows, got 'x'"),
    ],
)
def test_new_labels_of_another_kind_are_refused(response, new, said):
    with pytest.raises(ValueError) as error:
        Response(response, GRADES).new(pd.DataFrame(new))
    assert str(error.value) == said
