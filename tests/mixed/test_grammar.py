"""Formulas and their parts, and what is none."""

from __future__ import annotations

import pytest

from ebmeta.mixed.grammar import Bar, parse


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
