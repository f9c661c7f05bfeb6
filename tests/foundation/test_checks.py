"""What an annotation and a range beside it let through, and how the rest is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta.foundation.checks import above, array, at_least, between, check, checked, real_array
from ebmeta.tasks.episodes import TaskSampler


@checked(count=at_least(1), share=between(0, 1), width=above(0, finite=False), steps=at_least(0), x=array(ndim=1))
def entry(
    count: int = 1,
    share: float = 0.5,
    width: float = 1.0,
    steps: int | None = None,
    flag: bool = False,
    score: Literal["lac", "aps"] = "lac",
    name: str = "",
    tasks: TaskSampler | ebmeta.TaskBatch | None = None,
    levels: Sequence[float] = (),
    function: Callable[[int], int] = abs,
    x: Any = None,
    seed: int = 0,
) -> dict[str, Any]:
    return dict(locals())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": True}, "count: expected a whole number, got True"),
        ({"count": 1.0}, "count: expected a whole number, got 1.0"),
        ({"count": 0}, "count: expected at least 1, got 0"),
        ({"count": None}, "count: expected a whole number, got None"),
        ({"share": 1.0}, "share: expected a number between 0 and 1, got 1.0"),
        ({"share": float("nan")}, "share: expected a number between 0 and 1, got nan"),
        ({"share": "0.5"}, "share: expected a number, got '0.5'"),
        ({"width": 0}, "width: expected a number above 0, got 0"),
        ({"steps": -1}, "steps: expected at least 0, got -1"),
        ({"steps": "auto"}, "steps: expected a whole number or None, got 'auto'"),
        ({"flag": 1}, "flag: expected True or False, got 1"),
        ({"score": "raps"}, "score: expected 'lac' or 'aps', got 'raps'"),
        ({"score": np.zeros(2)}, r"score: expected 'lac' or 'aps', got array of shape \(2,\)"),
        ({"name": 3}, "name: expected a text, got 3"),
        ({"tasks": [1]}, "tasks: expected a source such as EpisodeSampler.X, y. or a TaskBatch or None, got list"),
        ({"tasks": ebmeta.EpisodeSampler}, "tasks: expected .* got the class EpisodeSampler"),
        ({"levels": "0.5"}, "levels: expected a sequence, each a number, got '0.5'"),
        ({"levels": [0.5, None]}, "levels: expected a sequence, each a number, got None at place 1"),
        ({"function": 3}, "function: expected a function, got 3"),
        ({"x": [[1.0]]}, r"x: expected numbers with 1 axis, got shape \(1, 1\) of float64"),
        ({"x": [1.0, None]}, "x: expected numbers with 1 axis, got .* object"),
        ({"x": [1.0, float("inf")]}, "x: expected finite numbers, got inf at 1"),
        ({"seed": -1}, r"seed: expected a non-negative integer of at most 63 bits, got -1"),
        ({"seed": 2**63}, r"seed: expected a non-negative integer of at most 63 bits, got 9223372036854775808"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$") as error:
        entry(**arguments)
    assert "\n" not in str(error.value)


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
        (np.int64(-(2**63)), int, at_least(0), "expected at least 0, got np.int64"),
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


def test_what_fits_comes_through_as_plain_numbers():
    got = entry(np.int32(3), np.float32(0.25), 2, np.uint8(0), np.True_, "aps", levels=np.array([0.5]), x=(1, 2))
    assert got["count"] == 3
    assert type(got["count"]) is type(got["steps"]) is int
    assert type(got["share"]) is type(got["width"]) is float
    assert got["flag"] is True
    assert got["levels"] == (0.5,)
    assert got["x"].tolist() == [1, 2]


def test_a_frame_that_can_be_sampled_is_no_source_of_tasks():
    import pandas as pd

    with pytest.raises(
        ValueError,
        match="^tasks: expected a source such as EpisodeSampler.X, y. or a TaskBatch or None, got DataFrame$",
    ):
        entry(tasks=pd.DataFrame({"a": [1]}))


def test_constructors_are_checked_and_frozen_ones_stay_frozen():
    @checked(size=at_least(1))
    @dataclass(frozen=True)
    class Thing:
        size: int = 1

    assert Thing(np.int64(2)).size == 2
    with pytest.raises(ValueError, match="size: expected at least 1, got 0"):
        Thing(0)


def test_python_reports_arguments_that_do_not_exist():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        entry(colour=3)


@pytest.mark.parametrize("value", [[1, [2]], np.ma.array([1.0, 2.0], mask=[0, 1]), np.array([1j]), ["1"], [], object()])
def test_what_is_no_array_of_numbers_is_refused(value):
    with pytest.raises(ValueError, match=r"^x: expected numbers"):
        real_array("x", value)


def test_a_tensor_is_an_array():
    assert real_array("x", torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]
