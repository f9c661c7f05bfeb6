"""What `formulae` reads in another way than Python and R do, or leaves out, and is refused here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from formulae.expr import Assign, Binary, Call, Grouping as Brackets, Literal, Unary, Variable
from formulae.parser import Parser
from formulae.scanner import Scanner

__all__ = ["parsed"]

POWER = "STAR_STAR"
COMPARISONS = ("EQUAL_EQUAL", "BANG_EQUAL", "LESS_EQUAL", "LESS", "GREATER_EQUAL", "GREATER")


def parsed(text: str, levels: bool = True) -> Any:
    """Return the expression that a text of terms is.

    Args:
        text: the terms.
        levels: whether `kind['a']` may stand for 1 where a column is `'a'`, as in a response; elsewhere `formulae`
            would take it for the column.

    Raises:
        ValueError: if `formulae` would leave something out, or take it for something else than it says.

    Examples:
        >>> str(parsed("(a + b)**2").operator.kind)
        'STAR_STAR'
        >>> parsed("a**2")
        Traceback (most recent call last):
        ValueError: ** is a power of terms in brackets, and I(x ** 2) is one of numbers
        >>> parsed("exp(-a ** 2)")
        Traceback (most recent call last):
        ValueError: write -(x ** 2) or (-x) ** 2
    """
    parser = Parser(Scanner(text).scan(add_intercept=False))
    expression = parser.parse()
    if not parser.at_end():  # what follows would be left out without a word
        raise ValueError(f"expected an operator before {parser.peek().lexeme!r}")
    for part, called in _parts(expression, False):
        _check(part, called)
        if not levels and isinstance(part, Variable) and part.level is not None:
            raise ValueError(f"write I({part.name.lexeme} == {part.level.value!r}), which is 1 there and 0 elsewhere")
    return expression


def _parts(expression: Any, called: bool) -> Iterator[tuple[Any, bool]]:
    """Yield an expression and all inside it, and whether each is an argument of a function."""
    yield expression, called
    if isinstance(expression, Binary):
        inner = [expression.left, expression.right]
    elif isinstance(expression, Brackets):
        inner = [expression.expression]
    elif isinstance(expression, Unary):
        inner = [expression.right]
    elif isinstance(expression, Assign):
        inner = [expression.value]
    else:
        inner = expression.args if isinstance(expression, Call) else []
        called = True
    for part in inner:
        yield from _parts(part, called)


def _check(part: Any, called: bool) -> None:
    if isinstance(part, Literal) and isinstance(part.value, bool) and not called:  # it would be the intercept
        raise ValueError(f"{part.value} is a truth value and no term; write `{part.value}` for a column of that name")
    if not isinstance(part, Binary):
        return
    kind, left = part.operator.kind, part.left
    if kind == POWER and not called and not isinstance(left, Brackets):
        raise ValueError("** is a power of terms in brackets, and I(x ** 2) is one of numbers")
    if kind == POWER and isinstance(left, Unary):  # which binds tighter there, and looser everywhere else
        raise ValueError("write -(x ** 2) or (-x) ** 2")
    if kind == POWER and isinstance(left, Binary) and left.operator.kind == POWER:
        raise ValueError("write x ** (a ** b) or (x ** a) ** b")
    if kind in COMPARISONS and not called:
        raise ValueError("I(x > 0) is 1 where a comparison holds and 0 elsewhere")
    if kind in COMPARISONS and isinstance(left, Binary) and left.operator.kind in COMPARISONS:
        raise ValueError("write I(0 < x) * I(x < 1) for a number between two")
