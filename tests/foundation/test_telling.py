"""Warnings point to the line of the caller's own code."""

import warnings

import numpy as np
import pandas as pd
import pytest

import ebmeta
from ebmeta.foundation.telling import tell

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
