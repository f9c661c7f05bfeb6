"""Rows beyond the outer knots of splines are told, once, and where R tells them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.knots import beyond, reaches
from ebmeta.formula.terms import Terms
from ebmeta.mixed.fit import mixed_model


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(12), 10), np.tile(np.linspace(1.0, 9.0, 10), 12)
    y = np.sin(x) + rng.normal(size=12)[g] + 0.3 * rng.normal(size=120)
    return pd.DataFrame({"y": y, "x": x, "g": g})


def told(fit, new: pd.DataFrame) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit.predict(new)
    assert all(one.filename == __file__ for one in said)
    return [str(one.message) for one in said]


@pytest.mark.parametrize("term", ["bs(x, df=5)", "cr(x, df=5)", "tp(x, df=5)"])
def test_rows_beyond_the_knots_of_a_spline_are_told(data, term):
    fit = mixed_model(f"y ~ {term} + (1 | g)", data)
    new = pd.DataFrame({"x": [np.nan, 1.0, 9.0, 0.5, 12.25], "g": 0})
    said = f"new_data: term '{term}': expected x from 1 to 9, as in the training rows, got 2 of 4 rows beyond, "
    assert told(fit, new) == [f"{said}12.25 in row 4: no row says how the curve goes on there"]
    assert told(fit, data) == told(fit, new[:3]) == []


@pytest.mark.parametrize("term", ["poly(x, 2)", "scale(x)", "center(x)", "standardize(x)"])
def test_of_other_bases_nothing_is_said(data, term):
    """As in R. What they learned of the training rows is kept."""
    assert told(mixed_model(f"y ~ {term} + (1 | g)", data), pd.DataFrame({"x": [-5.0, 12.0], "g": 0})) == []


def test_a_polynomial_goes_on_as_its_powers_do(data):
    new = pd.DataFrame({"x": [-5.0, 30.0], "g": 0})
    found, powers = (
        mixed_model(f"y ~ {terms} + (1 | g)", data).predict(new)["mean"] for terms in ("poly(x, 2)", "x + I(x**2)")
    )
    np.testing.assert_allclose(found, powers, rtol=1e-6)


def test_a_spline_of_a_function_and_of_groups_is_told_of_once_and_knots_further_out_hold(data):
    both = mixed_model("y ~ bs(log(x), df=3) + (0 + bs(log(x), df=3) || g)", data)
    (said,) = told(both, pd.DataFrame({"x": [10.0, 5.0], "g": 0}))
    assert (
        "expected log(x) from 0 to 2.19722, as in the training rows, got 1 of 2 rows beyond, 2.30259 in row 0" in said
    )
    wide = mixed_model("y ~ bs(x, df=5, lower_bound=0, upper_bound=20) + (1 | g)", data)
    assert told(wide, pd.DataFrame({"x": [0.5, 20.0], "g": 0})) == []
    assert len(told(wide, pd.DataFrame({"x": [20.5], "g": 0}))) == 1


def test_outer_knots_are_those_of_the_rows(data):
    terms = Terms("x + bs(scale(x), df=4)", data)
    (found,) = reaches(terms.matrix, data)
    ends = (data["x"] - data["x"].mean()) / data["x"].std(ddof=0)
    np.testing.assert_allclose([found.low, found.high], [ends.min(), ends.max()], rtol=1e-12)
    assert beyond([found], data, np.arange(len(data))) == {}
    assert reaches(None, data) == []
