"""Text of a summary."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.summary import narrow, text_of, warnings_of
from tests.mixed.worlds import frame


def test_numbers_are_shown_with_four_digits_and_what_is_unknown_as_a_dash():
    index = pd.MultiIndex.from_tuples([("g", "sd(x)"), ("g", "cor(x, y)")])
    table = pd.DataFrame({"estimate": [123456.78, 0.123456], "lower": [np.nan, -1e-7]}, index=index)
    text = text_of([("rows", "3"), ("log likelihood", "-1")], [("Spreads", table)], ["One.", "Two."])
    lines = text.splitlines()
    assert lines[:2] == ["rows            3", "log likelihood  -1"]
    assert [line.split() for line in lines[4:7]] == [
        ["estimate", "lower"],
        ["g", "sd(x)", "123457", "-"],
        ["g", "cor(x,", "y)", "0.1235", "-1e-07"],
    ]
    assert lines[-2:] == ["One.", "Two."]


def test_a_parameter_without_an_error_is_at_the_end_that_it_ran_off_to():
    names = ["inflation", "shape", "freedom"]
    index = pd.MultiIndex.from_product([["residual"], names], names=["factor", "component"])
    table = pd.DataFrame({"estimate": [1e-9, 4e7, 2.0001], "std_error": np.nan}, index=index)
    assert [text.split("that it is ")[1] for text in warnings_of([], table, True)] == [
        "very small.",
        "very large.",
        "next to 2.",
    ]


def test_the_page_shows_what_its_lines_print(capsys):
    page = (Path(__file__).parents[2] / "docs" / "mixed_models.md").read_text(encoding="utf-8")
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.S).groups()
    exec(compile(code, "mixed_models.md", "exec"), {})
    found = re.sub(r"after \d+ eval", "after 9 eval", capsys.readouterr().out)
    assert found == re.sub(r"after \d+ eval", "after 9 eval", shown)


def test_few_groups_of_labels_that_are_not_normal_have_narrow_intervals():
    def notes(likelihood: str, groups: int) -> list[str]:
        data = frame(num_groups=groups, sizes=(3, 5)).assign(c=lambda rows: rows["y"].clip(0, 9).round())
        fit = mixed_model("c ~ 1 + (1 | g)", data, likelihood)
        return narrow(fit.engine, fit.optimum.at)

    assert notes("poisson", 12) == [
        "g: of 12 groups, these intervals of the common terms are narrow; propagate() and confint() have better ones."
    ]
    assert notes("poisson", 40) == notes("normal", 12) == []
