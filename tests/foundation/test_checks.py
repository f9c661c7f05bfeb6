"""What an annotation and a range beside it let through, and how the rest is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

import ebmeta
from ebmeta.foundation.checks import above, array, at_least, between, checked
from ebmeta.tasks.source import TaskSampler

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        (
            {"tasks": [1]},
            "tasks: expected a source such as EpisodeSampler.X, y. or FixedTasks.batch. or a TaskBatch or None, "
            "got list",
        ),
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


def test_what_fits_comes_through_as_plain_numbers():
    got = entry(np.int32(3), np.float32(0.25), 2, np.uint8(0), np.True_, "aps", levels=np.array([0.5]), x=(1, 2))
    assert got["count"] == 3
    assert type(got["count"]) is type(got["steps"]) is int
    assert type(got["share"]) is type(got["width"]) is float
    assert got["flag"] is True
    assert got["levels"] == (0.5,)
    assert got["x"].tolist() == [1, 2]


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


def test_a_name_for_the_type_checker_alone_is_left_to_the_entry():
    @checked(width=above(0))
    def draw(ax: Axes, other: Axes | None = None, width: float = 1.0) -> Axes:
        return ax, other, width

    assert draw(1, "2", np.float32(3)) == (1, "2", 3.0)
    with pytest.raises(ValueError, match="width: expected a finite number above 0, got 0"):
        draw(1, width=0)
