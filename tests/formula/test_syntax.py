"""Expressions that mean the same to `formulae`, Python and R; others are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.syntax import parsed
from ebmeta.formula.terms import Terms

DATA = pd.DataFrame({"a": [1.0, -2.0, 3.0, 0.5], "b": [0.5, 1.5, 2.0, 3.0], "c": [2.0, 1.0, 1.0, 3.0]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a**2", "** is a power of terms in brackets, and I(x ** 2) is one of numbers"),
        ("b + log(b)**2", "** is a power of terms in brackets, and I(x ** 2) is one of numbers"),
        ("I(-a ** 2)", "write -(x ** 2) or (-x) ** 2"),
        ("b + exp(b - a / (-c**2))", "write -(x ** 2) or (-x) ** 2"),
        ("I(a ** b ** c)", "write x ** (a ** b) or (x ** a) ** b"),
        ("a > 0", "I(x > 0) is 1 where a comparison holds and 0 elsewhere"),
        ("I(0 < a < 1)", "write I(0 < x) * I(x < 1) for a number between two"),
        ("True + a", "True is a truth value and no term; write `True` for a column of that name"),
        ("a b", "expected an operator before 'b'"),
    ],
)
def test_what_would_be_taken_for_something_else_is_refused(text, said):
    with pytest.raises(ValueError) as error:
        parsed(text)
    assert str(error.value) == said


@pytest.mark.parametrize(
    "text",
    [
        "-(a ** 2)",
        "(-a) ** 2",
        "a - b - c",
        "a / b * c",
        "a - b * c ** 2 + 1",
        "-a * b",
        "2 ** -b",
        "a * (b + c) / 2.5",
        "(a > 0) * (a < 2)",
        "a + b > c",
        "np.exp(-b) + np.abs(a) ** 0.5",
        "b ** (c ** 2)",
    ],
)
def test_arithmetic_is_that_of_python(text):
    expected = eval(text, {"np": np}, {name: DATA[name] for name in DATA})
    np.testing.assert_allclose(Terms(f"0 + I({text})", DATA).first(4)[0][:, 0], expected.astype(float))


def test_a_column_named_true_is_one_between_backticks():
    terms = Terms("`True` + a", DATA.assign(**{"True": [4.0, 3.0, 2.0, 9.0]}))
    np.testing.assert_array_equal(terms.first(4)[0][:, 1:], np.column_stack([[4.0, 3.0, 2.0, 9.0], DATA["a"]]))
