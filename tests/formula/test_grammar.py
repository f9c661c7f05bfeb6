"""Formulas and their parts, and what is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.formula.design import Design, Extras
from ebmeta.formula.grammar import Bar, parse
from ebmeta.mixed.fit import mixed_model


@pytest.mark.parametrize(
    ("text", "common", "bars"),
    [
        ("y ~ x + (1 | g)", "x", [Bar("1", ("g",), True)]),
        ("y ~ (1 | g)", "1", [Bar("1", ("g",), True)]),
        ("y ~ (1 | été)", "1", [Bar("1", ("été",), True)]),
        ("y ~ 0 + x*(a + b) + (x || g)", "0 + x*(a + b)", [Bar("x", ("g",), False)]),
        ("y ~ (a + b) + (1|factor(g)) + (0 + x | h)", "(a + b)", [Bar("1", ("g",), True), Bar("0 + x", ("h",), True)]),
        ("y ~ x - 1 + (1 | a:b)", "x - 1", [Bar("1", ("a", "b"), True)]),
        (
            "y ~ x + (1 | a/b/c)",
            "x",
            [Bar("1", ("a",), True), Bar("1", ("a", "b"), True), Bar("1", ("a", "b", "c"), True)],
        ),
        ("y ~ (1 | `my group`)", "1", [Bar("1", ("my group",), True)]),
        ("y ~ `a ~ b` + (1 | g)", "`a ~ b`", [Bar("1", ("g",), True)]),
        ("y ~ a / b/c + (d/e | g)", "a + a:b + a:b:c", [Bar("d + d:e", ("g",), True)]),
        ("y ~ log(a/b) + {a / b} + (1 | g)", "log(a/b) + {a / b}", [Bar("1", ("g",), True)]),
        ("y ~ (a + b)/c + a*b/c + a/2 + (1 | g)", "(a + b)/c + a*b/c + a/2", [Bar("1", ("g",), True)]),
    ],
)
def test_parts(text, common, bars):
    found = parse(text)
    assert (found.response, found.common, list(found.bars)) == ("y", common, bars)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y", "expected a response, a tilde and terms"),
        ("~ x + (1 | g)", "expected a response, a tilde and terms"),
        ("y ~ x ~ (1 | g)", "expected a response, a tilde and terms"),
        ("y ~ x", "expected terms of groups, as in"),
        ("y ~ x + (1 | g", "expected as many closing as opening brackets"),
        ("y ~ x) + (1 | g)", "expected as many closing as opening brackets"),
        ("y ~ x + 1 | g", "expected terms of groups in brackets of their own"),
        ("y ~ x * (1 | g)", "expected terms of groups in brackets of their own"),
        ("y ~ x + + (1 | g)", "expected a term on both sides of every plus"),
        ("y ~ x + ( | g)", "expected terms, one bar or two, and a grouping factor"),
        ("y ~ x + (1 ||| g)", "expected terms, one bar or two, and a grouping factor"),
        ("y ~ x + (1 | g + h)", "expected columns as the grouping factor"),
        ("y ~ x + (1 | log(g))", "expected columns as the grouping factor"),
    ],
)
def test_what_is_no_formula_is_refused_in_one_line(text, said):
    with pytest.raises(ValueError, match="^formula: ") as error:
        parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ my col + (1 | g)",
        "my col ~ 1 + (1 | g)",
        "y ~ log(my col) + (1 | g)",
        "y ~ 1 + (1 | my col)",
        "y ~ `my col` + (0 + my col | g)",
    ],
)
def test_a_name_with_a_blank_is_told_to_stand_between_backticks(formula):
    frame = pd.DataFrame({"y": range(8), "my col": [1, 2] * 4, "g": [1, 1, 2, 2] * 2, "x-1": 1.0})
    with pytest.raises(ValueError, match=r"^formula: .* \(write `my col` for the column 'my col'\)$"):
        Design(formula, frame, Extras(), "drop")
    right = Design("`my col` ~ `x-1` + (`my col` | `my col`)", frame, Extras(), "drop")
    assert (right.columns, right.response_columns) == (["x-1", "my col"], ["my col"])
    with pytest.raises(ValueError, match=r"got 'x', and the columns are y, my col, g, x-1 \(write `x-1` for"):
        Design("y ~ x-1 + (1 | g)", frame, Extras(), "drop")
    with pytest.raises(ValueError, match="got 'z', and the columns are y, my col, g, x-1$"):
        Design("y ~ z + `x-1` + (1 | g)", frame, Extras(), "drop")


@pytest.mark.parametrize(
    ("text", "common"),
    [
        ("y ~ x + offset(log(n)) + (1 | g) + offset(w)", "x + offset((log(n)) + (w))"),
        ("y ~ 0 + offset(a) - x + z + offset(-b) + (1 | g)", "0 - x + z + offset((a) + (-b))"),
        ("y ~ offset(a) - 1 + offset(b) + (1 | g)", "1 - 1 + offset((a) + (b))"),
        ("y ~ x + offset(a) - 1 + (1 | g)", "x + offset(a) - 1"),
        ("y ~ `offset(a)` * x + (1 | g)", "`offset(a)` * x"),
    ],
)
def test_several_offsets_add_up(text, common):
    assert parse(text).common == common


@pytest.mark.parametrize("part", ["x * offset(z)", "x:offset(z)", "x - offset(z)", "log(offset(z))", "(x + offset(z))"])
def test_an_offset_is_a_part_of_its_own(part):
    words = "formula: expected an offset as a part of its own, as in 'y ~ x + offset(a) + (1 | g)', got it in "
    with pytest.raises(ValueError) as error:
        parse(f"y ~ w + {part} + (1 | g)")
    assert str(error.value) == f"{words}{part!r} (write offset(-a) to subtract one)"


def test_offsets_are_those_of_their_sum():
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"x": rng.normal(size=40), "n": rng.uniform(1, 9, 40), "w": rng.normal(size=40)})
    data = data.assign(g=np.arange(40) % 8, y=rng.poisson(data["n"]))
    two, one = (
        mixed_model(f"y ~ x + {text} + (1 | g)", data, likelihood="poisson")
        for text in ("offset(log(n)) + offset(w)", "offset(log(n) + w)")
    )
    assert two.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(two.predict(data)["mean"], one.predict(data)["mean"], rtol=1e-8)
