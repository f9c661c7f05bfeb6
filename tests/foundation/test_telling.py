"""Warnings point to the line of the caller's own code."""

import warnings

import numpy as np
import pandas as pd
import pytest

import ebmeta
from ebmeta.foundation.telling import named, tell

RNG = np.random.default_rng(0)
X, WIDE = RNG.normal(size=(12, 2)), RNG.normal(size=(6, 3))
SITES = np.repeat(["east", "EAST", "west"], 4)
TABLE = pd.DataFrame({"x": X[:, 0], "y": X[:, 1], "site": SITES})
REG = ebmeta.EmpiricalBayes.regressor(2)
CALLS = {
    "a constructor": lambda: ebmeta.GroupSampler(X, X[:, 0], SITES, n_support=2),
    "a method that checks": lambda: ebmeta.FewShotClassifier().fit(X[:3], ["cat", "Cat", "dog"]),
    "a method without a gradient": lambda: ebmeta.FewShotRegressor(REG).fit(X, X[:, 0]).predict(X),
    "a function deep below": lambda: ebmeta.mixed_model("y ~ x + (1 | site)", TABLE),
    "one class": lambda: ebmeta.FewShotClassifier().fit(X[:3], ["cat"] * 3),
    "groups of an estimator": lambda: ebmeta.FewShotRegressor(REG).fit(X, X[:, 0], groups=SITES),
    "categories of a frame": lambda: ebmeta.tasks.FrameEncoder("y", "x").fit(TABLE),
    "categories of a formula": lambda: ebmeta.mixed_model("y ~ site + (1 | g)", TABLE.assign(g=np.arange(12) % 3)),
    "rows": lambda: ebmeta.FewShotClassifier().fit(WIDE[:2] * 1e4, ["a", "b"]).predict(WIDE),
    "itself": lambda: tell("a: expected one, got two"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_points_to_the_line_that_called(name):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        CALLS[name]()
    assert {one.filename for one in told} == {__file__}
    line = CALLS[name].__code__.co_firstlineno
    assert {one.lineno for one in told} == {line}


def test_names_of_columns_are_some_and_show_blanks_at_their_ends():
    assert named(range(20)) == "0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert named(["shop", " price", "my price", "\tx", ""]) == "shop, ' price', my price, '\\tx', ''"


@pytest.mark.parametrize(
    "call",
    [
        lambda rows: ebmeta.mixed_model("y ~ x + (1 | site)", rows),
        lambda rows: ebmeta.tasks.FrameEncoder("y", groups="site", features=["x"]).fit(rows),
    ],
)
def test_a_column_that_differs_by_a_blank_is_seen_in_the_message(call):
    spaced = TABLE.rename(columns={"x": " x"})
    with pytest.raises(ValueError, match="' x', y, site"):
        call(spaced)
