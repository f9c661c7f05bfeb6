"""Kinds of arguments: what is an array of numbers, and what is a source of tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta.foundation.checks import above, at_least, check, real_array
from tests.foundation.test_checks import entry


@pytest.mark.parametrize(
    ("value", "kind", "inside", "message"),
    [
        (10**12, int, at_least(1), "expected a number below 2147483648, got 1000000000000"),
        (10**12, int, None, "expected a number below 2147483648, got 1000000000000"),
        (-(10**12), int, None, "expected a number above -2147483648, got -1000000000000"),
        (-(10**12), int, at_least(1), "expected at least 1, got -1000000000000"),
        (10**400, int, at_least(0), "expected a number below 2147483648, got 1000"),
        (1e200, float, at_least(0), r"expected a number below 1e\+150, got 1e\+200"),
        (-1e200, float, None, r"expected a number above -1e\+150, got -1e\+200"),
        (10**400, float, above(0), "expected a finite number above 0 that 64 bits hold, got 1000"),
        (float("inf"), float, at_least(0), "expected a finite number of at least 0, got inf"),
        (np.int64(-(2**63)), int, at_least(0), r"expected at least 0, got (np\.int64\()?-9"),
    ],
)
def test_what_is_too_large_is_called_so(value, kind, inside, message):
    with pytest.raises(ValueError, match=f"^x: {message}"):
        check("x", value, kind, inside)


def test_infinity_stays_where_it_may_be():
    assert check("x", math.inf, float, at_least(0, finite=False)) == math.inf


def test_too_many_tasks_are_called_so():
    model, X = ebmeta.EmpiricalBayes.classifier(4), np.eye(4)
    with pytest.raises(ValueError, match="num_tasks: expected a number below 2147483648, got 999999999999"):
        ebmeta.evaluate(model, ebmeta.EpisodeSampler(X[[0, 0, 1, 1]], [0, 0, 1, 1], 2, 1, 1), 999999999999)
    for n_query in (10**12, (1, 10**12)):
        with pytest.raises(ValueError, match="n_query: expected a number below 2147483648, got 1000000000000"):
            ebmeta.EpisodeSampler(X, [0, 0, 1, 1], n_way=2, n_query=n_query)


def test_a_frame_that_can_be_sampled_is_no_source_of_tasks():
    import pandas as pd

    with pytest.raises(
        ValueError,
        match="^tasks: expected a source such as EpisodeSampler.X, y. or FixedTasks.batch. or a TaskBatch or None, "
        "got DataFrame$",
    ):
        entry(tasks=pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize("value", [[1, [2]], np.ma.array([1.0, 2.0], mask=[0, 1]), np.array([1j]), ["1"], [], object()])
def test_what_is_no_array_of_numbers_is_refused(value):
    with pytest.raises(ValueError, match=r"^x: expected numbers"):
        real_array("x", value)


def test_a_tensor_is_an_array():
    assert real_array("x", torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
