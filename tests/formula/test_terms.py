"""Columns of terms and responses."""

from __future__ import annotations

import copy
import decimal
import pickle

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.terms import Terms, tidy, variables

DATA = pd.DataFrame(
    {"y": [1.0, 2.0, 3.0, 4.0], "n": [2, 4, 6, 8], "x": [0.0, 1.0, 2.0, 4.0], "kind": ["u", "v", "w", "u"]}
)


def test_columns_of_training_rows_and_of_new_ones():
    terms = Terms("poly(x, 2) + kind + offset(n)", DATA)
    assert terms.names == ["Intercept", "poly(x, 2)[0]", "poly(x, 2)[1]", "kind[v]", "kind[w]"]
    assert terms.widths == [1, 2, 2]
    first, offset = terms.first(4)
    np.testing.assert_allclose(first[:, 1:3].T @ first[:, 1:3], np.eye(2), atol=1e-12)
    np.testing.assert_array_equal(offset, DATA["n"])
    again, _ = terms.new(DATA[2:])
    np.testing.assert_allclose(again, first[2:], atol=1e-12)


def test_a_sum_may_be_empty():
    terms = Terms("0", DATA)
    assert terms.first(4)[0].shape == terms.new(DATA)[0].shape == (4, 0)


def test_categories_and_nullable_numbers_are_made_plain():
    frame = pd.DataFrame({"a": pd.Categorical(["u", "v"], ["u", "v", "w"]), "b": pd.array([1, 2], "Int64")})
    found = tidy(frame, [("c",)])
    assert found["a"].cat.categories.tolist() == ["u", "v"]
    assert found["b"].dtype == np.float64
    assert tidy(frame, [("b",)])["b"].dtype == "Int64"
    prices = tidy(pd.DataFrame({"price": [decimal.Decimal("1.5"), decimal.Decimal(2)]}), [])["price"]
    assert (prices.dtype, prices.tolist()) == (np.float64, [1.5, 2.0])


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("term", "names"),
    [
        ("C(size)", ["Intercept", "C(size)[mid]", "C(size)[high]"]),
        ("T(size)", ["Intercept", "T(size)[mid]", "T(size)[high]"]),
        ("S(size)", ["Intercept", "S(size)[low]", "S(size)[mid]"]),
        ("0 + C(size)", ["C(size)[low]", "C(size)[mid]", "C(size)[high]"]),
        ("C(size, Treatment('mid'))", ["Intercept", *(f"C(size, Treatment('mid'))[{k}]" for k in ("low", "high"))]),
    ],
)
def test_a_contrast_takes_categories_in_their_order(term, names, ordered):
    values = ["high", "low", "mid", "high", "low"]
    frame = pd.DataFrame({"size": pd.Categorical(values, ["low", "mid", "high"], ordered=ordered)})
    terms = Terms(term, frame)
    assert terms.names == names
    first, rows = terms.first(5)[0], [3, 1]
    for column in (values, pd.Categorical(values, ["high", "never", "mid", "low"], ordered=ordered)):
        new = tidy(pd.DataFrame({"size": column}).iloc[rows], [])
        np.testing.assert_array_equal(terms.new(new)[0], first[rows])
    with pytest.raises(ValueError, match=r"The levels [(]never[)] in '.*' are not present"):
        terms.new(pd.DataFrame({"size": ["never"]}))


def test_small_whole_numbers_neither_wrap_nor_lose_digits():
    small = pd.DataFrame({"a": [1, 200], "b": [3, 100]}, dtype=np.uint8).assign(t=[10**7, 3 * 10**6])
    for text, wanted in {
        "0 + I(a - b)": [-2, 100],
        "0 + a:b": [3, 20000],
        "0 + I(t ** 3)": [1e21, 2.7e19],
        "0 + log(b)": np.log([3, 100]),
    }.items():
        terms = Terms(text, small)
        np.testing.assert_allclose(terms.first(2)[0][:, 0], wanted, rtol=1e-12)
        np.testing.assert_allclose(terms.new(small)[0][:, 0], wanted, rtol=1e-12)
    assert Terms("C(a)", small).names == ["Intercept", "C(a)[200]"]  # names stay whole


def test_columns_that_terms_name():
    assert variables("x * log(n)", DATA) == ["n", "x"]
    with pytest.raises(
        ValueError, match="formula: expected names of columns, got 'z', and the columns are y, n, x, kind"
    ):
        variables("x + z", DATA)
    for text in ("Intercept", "x + log(Intercept)"):  # which formulae would take for one term with the constant
        with pytest.raises(
            ValueError, match=r"expected names of columns but that of the constant, got 'Intercept' [(]"
        ):
            variables(text, DATA.assign(Intercept=DATA["n"]))


@pytest.mark.parametrize("text", ["1", "0", "x", "1 + x", "0 + x", "n + x", "1 + x + n", "0 + n + x"])
def test_plain_sums_are_those_of_formulae(text, monkeypatch):
    found = Terms(text, DATA)
    monkeypatch.setattr("ebmeta.formula.terms._plain", lambda text, frame: None)
    other = Terms(text, DATA)
    assert (found.names, found.widths) == (other.names, other.widths)
    for one, two in ((found.first(len(DATA)), other.first(len(DATA))), (found.new(DATA[:2]), other.new(DATA[:2]))):
        np.testing.assert_allclose(one[0], two[0])
        np.testing.assert_allclose(one[1], two[1])


def test_sums_that_are_not_plain_are_left_to_formulae():
    assert [Terms(text, DATA).plain for text in ("x + x", "kind", "0 + kind", "x:n", "I(x)")] == [None] * 5
    with pytest.raises(ValueError, match=r"term 'x': expected finite numbers, got inf in row 1"):
        Terms("x", DATA.assign(x=np.where(np.arange(len(DATA)) == 1, np.inf, DATA["x"])))


@pytest.mark.parametrize(
    "term", ["np.cumsum(x)", "I(x - np.mean(x))", "np.random.normal(0, 1, 4)", "offset(np.cumsum(x))", "np.argsort(x)"]
)
def test_a_term_that_other_rows_change_is_refused(term):
    with pytest.raises(ValueError) as error:
        Terms(f"n + {term}", DATA)
    name = term if "random" not in term else f"n + {term}"
    assert str(error.value).startswith(f"term {name!r}: expected a value of each row by itself, got one that depends")


@pytest.mark.parametrize(
    "term", ["scale(x)", "center(x)", "poly(x, 2)", "bs(n, df=4)", "log(n)", "I(x**2) * kind", "np.abs(x):kind", "C(n)"]
)
def test_what_a_term_learns_of_the_training_rows_is_kept(term):
    frame = pd.concat([DATA] * 3, ignore_index=True).assign(x=np.arange(12.0) ** 1.5)
    terms = Terms(term, frame)
    for rows in ([3], [7, 2, 2], list(range(11, -1, -1))):
        np.testing.assert_allclose(terms.new(frame.iloc[rows])[0], terms.first(12)[0][rows], atol=1e-12)


def test_a_product_with_a_category_of_one_level_is_refused():
    with pytest.raises(ValueError, match=r"got 'x [*] kind': a product with a category of one level [(]leave it out"):
        Terms("x * kind", DATA.assign(kind="u"))


def test_a_function_of_a_function_stands_last():
    with pytest.raises(ValueError, match=r"a function of a function before another call of it [(]write log"):
        Terms("scale(log(n)) + scale(x)", DATA)
    assert Terms("scale(x) + scale(log(n))", DATA).names == ["Intercept", "scale(x)", "scale(log(n))"]


@pytest.mark.parametrize("unit", ["datetime64[s]", "timedelta64[s]"])
def test_a_column_of_times_is_refused_by_what_to_make_of_it(unit):
    frame = DATA.assign(x=np.arange(4).astype(unit))
    with pytest.raises(
        ValueError, match=r"got 'x \* n': a column of neither numbers, texts nor categories [(]of times, m"
    ):
        Terms("x * n", frame)


def test_a_slash_after_a_product_is_refused():
    with pytest.raises(
        ValueError, match=r"^term 'kind': expected no product or sum next to a slash [(]write a [+] a:b"
    ):
        Terms("x*kind/n", DATA)
    assert Terms("kind + kind:n", DATA).names == [
        "Intercept",
        "kind[v]",
        "kind[w]",
        "kind[u]:n",
        "kind[v]:n",
        "kind[w]:n",
    ]


def test_terms_of_functions_pickle_and_copy():
    terms = Terms("np.log(n) + scale(x) + exp(x) + kind", DATA)
    for other in (pickle.loads(pickle.dumps(terms)), copy.deepcopy(terms)):
        np.testing.assert_array_equal(other.new(DATA[1:])[0], terms.first(4)[0][1:])


def test_a_level_of_a_category_is_no_term():
    with pytest.raises(ValueError, match=r"got \"x [+] kind\['v'\]\": write I[(]kind == 'v'[)], which is 1 there"):
        Terms("x + kind['v']", DATA)
    np.testing.assert_array_equal(Terms("0 + I(kind == 'v')", DATA).first(4)[0][:, 0], [0, 1, 0, 0])
