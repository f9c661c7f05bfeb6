"""Frames and formulas: columns, groups, new rows, and what is refused."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest

from ebmeta.formula.design import Design, Extras
from tests.mixed.worlds import frame

DATA = pd.DataFrame(
    {
        "y": [1.0, 2.0, 3.0, 4.0, 5.0, np.nan],
        "n": [2, 4, 6, 8, 9, 9],
        "x": [0.0, 1.0, 2.0, 3.0, np.nan, 5.0],
        "kind": ["u", "v", "w", "u", "v", "w"],
        "g": ["b", "a", "b", "a", "b", "a"],
        "h": [1, 1, 2, 2, 1, 2],
        "yes": [True, False, True, False, True, True],
    }
)


def design(formula: str, data=DATA, na: str = "drop", **given) -> Design:
    return Design(formula, data, Extras(**given), na)


@pytest.mark.parametrize("make", [lambda d: d, polars.from_pandas, pyarrow.Table.from_pandas])
def test_columns_of_common_and_random_terms(make):
    found = design("y ~ x * kind + (1 + x | g)", make(DATA))
    assert found.common.names == ["Intercept", "x", "kind[v]", "kind[w]", "x:kind[v]", "x:kind[w]"]
    np.testing.assert_array_equal(found.rows.x[1], [1, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.rows.groupings[0].z, [[1, 0], [1, 1], [1, 2], [1, 3]])
    assert found.rows.groupings[0].labels.tolist() == ["a", "b"]
    np.testing.assert_array_equal(found.rows.groupings[0].codes, [1, 0, 1, 0])
    assert (found.num_rows, found.num_dropped, found.num_unlabelled) == (6, 1, 1)
    assert found.kept.tolist() == [True] * 4 + [False] * 2


def test_blocks_of_bars():
    assert design("y ~ x + (1 + x | g)").terms_of(("g",)) == (["Intercept", "x"], [2])
    assert design("y ~ x + (1 + x || g)").terms_of(("g",)) == (["Intercept", "x"], [1, 1])
    assert design("y ~ x + (1 | g) + (0 + x | g)").terms_of(("g",)) == (["Intercept", "x"], [1, 1])
    assert design("y ~ (0 + kind || g)").terms_of(("g",)) == (["kind[u]", "kind[v]", "kind[w]"], [3])
    with pytest.raises(ValueError, match="random term 'Intercept' of 'g': expected it once"):
        design("y ~ (1 | g) + (x | g)").terms_of(("g",))


def test_nested_and_crossed_factors():
    found = design("y ~ 1 + (1 | g/h)")
    assert found.factors == [("g",), ("g", "h")]
    assert found.rows.groupings[1].labels.tolist() == ["a:1", "a:2", "b:1", "b:2"]


def test_groups_whose_names_differ_in_white_space_alone_are_told_of():
    names = DATA["g"].replace("b", "site ").where(DATA.index != 0, "Site")
    with pytest.warns(UserWarning, match="^column 'g': 'Site' and 'site ' differ in white space, the case of letters"):
        assert design("y ~ 1 + (1 | g)", DATA.assign(g=names)).labels["g",].tolist() == ["Site", "a", "site "]


def test_what_stands_beside_the_formula():
    found = design("y ~ offset(x) + (1 | g)", size="n", offset=np.arange(6.0), weights="n")
    assert found.common.names == ["Intercept"]
    np.testing.assert_array_equal(found.rows.offset, [0.0, 2.0, 4.0, 6.0])
    np.testing.assert_array_equal(found.rows.size, [2.0, 4.0, 6.0, 8.0])
    np.testing.assert_array_equal(found.rows.weights, [2.0, 4.0, 6.0, 8.0])


def test_new_rows_have_the_columns_of_the_training_rows():
    found = design("y ~ poly(x, 2) + kind + (1 | g)")
    again, whole = found.new(DATA, Extras())
    assert whole.tolist() == [True] * 4 + [False, True]
    np.testing.assert_allclose(again.x[:4], found.rows.x, atol=1e-12)
    np.testing.assert_array_equal(np.isnan(again.y), [False] * 4 + [True])
    fresh, _ = found.new(DATA[["x", "kind"]].assign(g=["z", "a", "z", "c", "a", "a"]), Extras())
    assert fresh.groupings[0].labels.tolist() == ["a", "b", "z", "c"]
    np.testing.assert_array_equal(fresh.groupings[0].codes, [2, 0, 2, 3, 0])
    assert np.isnan(fresh.y).all()


@pytest.mark.parametrize(
    ("formula", "given", "said"),
    [
        (
            "y ~ z + (1 | g)",
            {},
            "formula: expected names of columns, got 'z', and the columns are y, n, x, kind, g, h, yes",
        ),
        ("z ~ x + (1 | g)", {}, "formula: expected names of columns, got 'z'"),
        ("y ~ x + (z | g)", {}, "formula: expected names of columns, got 'z'"),
        ("y ~ x + (1 | z)", {}, "formula: expected a column as the grouping factor, got 'z'"),
        ("y ~ foo(x) + (1 | g)", {}, "formula: expected names of columns or functions in 'foo(x)', got 'foo'"),
        ("y ~ log(x) + (1 | g)", {}, "term 'log(x)': expected finite numbers, got -inf in row 0"),
        ("log(x) ~ 1 + (1 | g)", {}, "labels: expected finite numbers, got -inf of 'log(x)' in row 0"),
        ("kind ~ x + (1 | g)", {}, "labels: expected numbers, got texts in 'kind' (write kind['w'] for 1"),
        ("y ~ x + (0 | g)", {}, "formula: expected terms on the left of the bar"),
        ("y ~ x + (1 | g)", {"size": "z"}, "size: expected the name of a column, got 'z'"),
        (
            "y ~ x + (1 | g)",
            {"size": [1.0]},
            "size: expected 6 numbers, got shape (1,) of float64",
        ),
        (
            "y ~ x + (1 | g)",
            {"offset": 3.0},
            "offset: expected a column, or a number for each row, got 3.0",
        ),
        (
            "y ~ x + (1 | g)",
            {"known_noise": True},
            "known_noise: expected a column of standard deviations, or a number for each row, got True",
        ),
        ("y ~ x + (1 | g)", {"weights": "kind"}, "column 'kind': expected numbers, got string values"),
        ("prop(y, n) ~ x + (1 | g)", {"size": "n"}, "size: expected none next to 'prop(y, n)'"),
        ("cbind(y) ~ x + (1 | g)", {}, "formula: expected two columns in 'cbind(y)'"),
        ("y ~ x + ) + (1 | g)", {}, "formula: expected as many closing"),
        ("y ~ x $ + (1 | g)", {}, "formula: expected terms that can be computed, got 'x $': Unexpected character"),
        (
            "y ~ x n + (1 | g)",
            {},
            "formula: expected terms that can be computed, got 'x n': expected an operator before 'n'",
        ),
    ],
)
def test_what_is_refused_is_named_in_one_line(formula, given, said):
    with pytest.raises(ValueError) as error:
        design(formula, **given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_new_rows_are_refused_by_column_and_level():
    found = design("y ~ x + kind + (1 | g)")
    with pytest.raises(ValueError, match="new_data: expected a column 'kind', which the formula names, got x, g"):
        found.new(DATA[["x", "g"]], Extras())
    with pytest.raises(ValueError, match="formula: expected terms that can be computed, got 'x [+] kind': .*new.*kind"):
        found.new(DATA.assign(kind="new"), Extras())


def test_missing_values_are_refused_on_request():
    with pytest.raises(ValueError, match="column 'x': expected a value in every row, got none in row 4 "):
        design("y ~ x + (1 | g)", na="raise")
    with pytest.raises(ValueError, match="data: expected rows with a value of every term and a label, got none of 6"):
        design("y ~ x + (1 | g)", DATA.assign(x=np.nan))


@pytest.mark.parametrize("data", [np.zeros((3, 2)), {"y": [1]}, None, DATA[:0]])
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(ValueError, match="^data: expected"):
        design("y ~ x + (1 | g)", data)


def test_rows_without_a_value_and_without_a_label_are_counted_once():
    """Of six rows one lacks a feature, one a label, and one both."""
    some = pd.DataFrame({"y": [1.0, np.nan, 2.0, np.nan, 4.0, 3.0], "x": [1.0, 2.0, np.nan, np.nan, 0.0, 1.0]})
    found = design("y ~ x + (1 | g)", some.assign(g=list("aabbcc")))
    assert (found.num_rows, found.num_dropped, found.num_unlabelled, len(found.rows)) == (6, 2, 1, 3)


@pytest.mark.parametrize("response", ["prop(s, n)", "prop(s, 2 * n / 2)", "prop(s, 8)", "cbind(s, f)"])
def test_rows_without_a_label_have_the_trials_that_the_response_gives(response):
    data = pd.DataFrame({"s": [1.0, 2.0, 3.0, 0.0], "f": [7.0, 6.0, 5.0, 8.0], "n": 8.0, "g": list("aabb")})
    known = design(f"{response} ~ 1 + (1 | g)", data)
    new = data.assign(s=[np.nan, 2.0, 3.0, np.nan], n=[8.0, 8.0, 8.0, np.nan])
    told = {"prop(s, 8)": [8, 8, 8, 8], "cbind(s, f)": [1, 8, 8, 1]}.get(response, [8, 8, 8, 1])
    labelled = [False, True, True, False]
    rows, _ = known.new(new, Extras())
    assert rows.size.tolist() == told
    assert np.isfinite(rows.y).tolist() == labelled
    without, _ = known.new(new.drop(columns="s"), Extras())
    assert without.size.tolist() == ([1, 1, 1, 1] if response == "cbind(s, f)" else told)


def test_complex_numbers_are_refused_everywhere():
    data = frame(num_groups=5).reset_index(drop=True)
    design = Design("y ~ x + (1 | g)", data, Extras(), "drop")
    wrong = data.assign(x=data["x"] + 1j)
    with pytest.raises(ValueError, match=r"^column 'x': expected numbers as in the training rows, got complex128"):
        design.new(wrong, Extras())
    with pytest.raises(ValueError, match=r"^terms 'x': expected real numbers, got complex ones"):
        Design("y ~ x + (1 | g)", wrong, Extras(), "drop")
    with pytest.raises(ValueError, match=r"^labels: expected real numbers, got complex ones in 'x'"):
        Design("x ~ y + (1 | g)", wrong, Extras(), "drop")


def test_columns_beside_the_formula_have_the_order_of_the_rows():
    data = DATA[:4].set_axis([3, 1, 2, 0])
    beside = pd.Series([1.0, 2.0, 3.0, 4.0], data.index)
    assert design("y ~ x + (1 | g)", data, offset=beside).rows.offset.tolist() == [1, 2, 3, 4]
    assert design("y ~ x + (1 | g)", data, offset=beside.to_numpy()).rows.offset.tolist() == [1, 2, 3, 4]
    for name in ("offset", "size", "weights"):
        with pytest.raises(ValueError, match=f"^{name}: .* in their order, got 0 in row 0, where X has 3"):
            design("y ~ x + (1 | g)", data, **{name: beside.sort_index()})


def test_the_first_category_is_the_reference():
    """In the order that a pandas categorical has; other frames number their categories as they come."""
    data = DATA.assign(kind=pd.Categorical(DATA["kind"], ["w", "u", "v"]))
    assert design("y ~ kind + (1 | g)", data).common.names == ["Intercept", "kind[u]", "kind[v]"]
    assert design("y ~ x + (0 + kind | g)", data).bars[0][1].names == ["kind[w]", "kind[u]", "kind[v]"]
    frame = polars.from_pandas(DATA[::-1])
    for other in (DATA, frame, frame.with_columns(polars.col("kind").cast(polars.Categorical))):
        assert design("y ~ kind + (1 | g)", other).common.names == ["Intercept", "kind[v]", "kind[w]"]
    again, _ = design("y ~ kind + (1 | g)", data).new(DATA, Extras())
    np.testing.assert_array_equal(again.x[:3], [[1, 1, 0], [1, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["1,5", None, "2,5", "3,5"], "expected numbers with a decimal point and no other marks, got '1,5' in row 0"),
        ([None, "1.5", ".", "3.5"], "expected numbers or texts, got both: '.' in row 2, and '1.5' in row 1"),
    ],
)
def test_numbers_written_as_texts_are_no_categories(texts, said):
    data = pd.DataFrame({"y": np.arange(12.0), "x": texts * 3, "g": np.repeat(["a", "b", "c"], 4)})
    with pytest.raises(ValueError, match=f"^column 'x': {re.escape(said)}$"):
        Design("y ~ x + (1 | g)", data, Extras(), "drop")
    assert Design("y ~ C(x) + (1 | g)", data, Extras(), "drop").common.names[1].startswith("C(x)")  # who says so


def test_an_offset_is_no_term_of_groups():
    data = pd.DataFrame({"y": np.arange(6.0), "x": np.arange(6.0) ** 2, "g": list("aabbcc")})
    with pytest.raises(ValueError, match=r"^formula: expected offset[(]x[)] among the common terms, got it in [(]1 "):
        Design("y ~ 1 + (1 + offset(x) | g)", data, Extras(), "drop")
    rows = Design("y ~ 1 + offset(x) + (1 | g)", data, Extras(), "drop").rows
    np.testing.assert_array_equal(rows.offset, data["x"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("y ~ x:t + (1 | g)", True),
        ("y ~ x + (0 + t | g)", True),
        ("y ~ x * t + (1 | g)", False),
        ("y ~ t + (t | g)", False),
    ],
)
def test_truth_values_that_r_would_take_for_categories_are_told_of(text, told):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"y": rng.normal(size=80), "x": rng.normal(size=80), "g": np.arange(80) % 8})
    data["t"] = rng.random(80) < 0.5
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        design(text, data)
        design(text.replace("t", "x2"), data.assign(x2=data["t"].astype(float)))  # numbers from the start
    words = [str(w.message) for w in found]
    assert len(words) == told
    assert all("(C(t) takes them for two categories, as R does)" in w for w in words)


def test_numbers_that_are_texts_are_no_categories():
    x = np.random.default_rng(0).normal(size=40)
    data = pd.DataFrame({"y": x**2, "g": np.arange(40) % 8, "x": [f"{v:.3f}" for v in x], "code": ["10", "20"] * 20})
    with pytest.raises(ValueError, match=r"^column 'x': expected numbers, or texts that name categories, got 40 diff"):
        design("y ~ x + (1 | g)", data)
    assert design("y ~ code + (1 | g)", data).common.names == ["Intercept", "code[20]"]
    assert len(design("y ~ C(x) + (1 | g)", data).common.names) == 40
