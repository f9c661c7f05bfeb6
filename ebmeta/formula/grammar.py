"""The parts of a formula: response, common terms, and bars with the terms that differ between groups.

Bars are read here, since a term of groups needs no matrix with a column for every group; common terms, and those on
the left of a bar, are left to `formulae`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ebmeta.foundation.checks import found

__all__ = ["Bar", "Formula", "parse", "quoted"]

NAME = re.compile(r"`[^`]+`|(?:[^\W\d]|\.)[\w.]*")
WRAPPED = re.compile(r"(?:factor|as\.factor|C)\((.*)\)")
OFFSET = re.compile(r"(?<![\w.])offset\s*\(")
EXAMPLE = "'y ~ x + (1 + x | g)'"


class Bar(NamedTuple):
    """Terms that differ between groups.

    Args:
        terms: what stands on the left of the bar.
        factor: columns whose combinations are the groups.
        correlated: whether there is one bar, and not two.
    """

    terms: str
    factor: tuple[str, ...]
    correlated: bool


class Formula(NamedTuple):
    """What a formula says, as text.

    Args:
        response: what stands on the left of the tilde.
        common: terms without those in bars; `"1"` where there are none.
        bars: terms of groups, one for each grouping factor of a nesting.
    """

    response: str
    common: str
    bars: tuple[Bar, ...]


def parse(text: str) -> Formula:
    """Return the parts of a formula.

    Raises:
        ValueError: if it is not one of lme4's form with at least one bar.

    Examples:
        >>> parse("y ~ x + (1 + x | school/class)").bars
        (Bar(terms='1 + x', factor=('school',), correlated=True), \
Bar(terms='1 + x', factor=('school', 'class'), correlated=True))
        >>> parse("log(y) ~ (x || g)")
        Formula(response='log(y)', common='1', bars=(Bar(terms='x', factor=('g',), correlated=False),))
    """
    sides = _split(text, "~")
    if len(sides) != 2 or not all(side.strip() for side in sides):
        raise ValueError(f"formula: expected a response, a tilde and terms, as in {EXAMPLE}, got {found(text)}")
    common, bars = [], []
    for part in _offsets_joined(_split(sides[1], "+")):
        inner = _inside(part.strip())
        if inner is not None and "|" in inner:
            bars += _bars(inner)
        elif "|" in part:
            raise ValueError(
                f"formula: expected terms of groups in brackets of their own, as in {EXAMPLE}, got {part.strip()!r}"
            )
        elif not part.strip():
            raise ValueError(
                f"formula: expected a term on both sides of every plus, as in {EXAMPLE}, got {found(text)}"
            )
        else:
            common.append(_nested(part.strip()))
    if not bars:
        raise ValueError(f"formula: expected terms of groups, as in {EXAMPLE}, got none in {text!r}")
    return Formula(sides[0].strip(), " + ".join(common) or "1", tuple(bars))


@contextmanager
def quoted(text: str, columns: Iterable[Any]) -> Iterator[None]:
    """Add to a refusal of a formula which of its columns have names that stand between backticks, and do not.

    Examples:
        >>> with quoted("y ~ my col + (1 | g)", ["y", "g", "my col"]):
        ...     raise ValueError("formula: expected a column")
        Traceback (most recent call last):
        ValueError: formula: expected a column (write `my col` for the column 'my col')
    """
    try:
        yield
    except ValueError as error:
        bare = re.sub("`[^`]*`", "``", text)
        odd = [c for c in columns if isinstance(c, str) and NAME.fullmatch(c) is None and "`" not in c]
        found = [c for c in odd if c.strip() and re.search(rf"(?<!\w){re.escape(c)}(?!\w)", bare)]
        if not found:
            raise
        name = max(found, key=len)
        raise ValueError(f"{error} (write `{name}` for the column {name!r})") from None


def _split(text: str, mark: str) -> list[str]:
    """Split a text at a mark wherever it stands outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote or letter in "`'\"":
            quote = "" if letter == quote else quote or letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if depth < 0:
            break
        if letter == mark and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    if depth or quote:
        raise ValueError(f"formula: expected as many closing as opening brackets and quotes, got {text.strip()!r}")
    return parts


def _offsets_joined(parts: list[str]) -> list[str]:
    """Return the parts of a sum with one offset that is the sum of all, as R takes several.

    Raises:
        ValueError: if an offset is no part of the sum, but of a product, a function or a difference.
    """
    found, rest = list[str](), list[str]()
    for part in parts:
        plain = re.sub("`[^`]*`", lambda name: "_" * len(name[0]), part)
        if "|" in plain or OFFSET.search(plain) is None:
            rest.append(part)
            continue
        own, *taken = _split(part, "-")
        whole = OFFSET.match(plain.strip())
        inner = _inside(own.strip()[whole.end() - 1 :]) if whole else None
        if inner is None or len(OFFSET.findall(plain)) > 1:
            raise ValueError(
                f"formula: expected an offset as a part of its own, as in 'y ~ x + offset(a) + (1 | g)', got it in "
                f"{part.strip()!r} (write offset(-a) to subtract one)"
            )
        found.append(inner.strip())
        if taken:  # what is left out of the terms before
            rest = [*rest[:-1], " - ".join(t.strip() for t in [rest[-1] if rest else "1", *taken])]
    if len(found) < 2:
        return parts
    return [*rest, f"offset({' + '.join(f'({each})' for each in found)})"]


def _inside(part: str) -> str | None:
    """Return what stands in the brackets that enclose a text, None where none do."""
    if not (part.startswith("(") and part.endswith(")")):
        return None
    depth = 0
    for i, letter in enumerate(part):
        depth += (letter == "(") - (letter == ")")
        if not depth and i < len(part) - 1:
            return None
    return part[1:-1]


def _bars(inner: str) -> list[Bar]:
    sides = _split(inner, "|")
    correlated = len(sides) == 2
    if len(sides) not in (2, 3) or (not correlated and sides[1]) or not all(s.strip() for s in (sides[0], sides[-1])):
        raise ValueError(f"formula: expected terms, one bar or two, and a grouping factor, got '({inner})'")
    terms, factor = " + ".join(_nested(part.strip()) for part in _split(sides[0], "+")), sides[-1].strip()
    levels = [_names(level, inner) for level in _split(factor, "/")]
    nested = [tuple(name for level in levels[: i + 1] for name in level) for i in range(len(levels))]
    return [Bar(terms, names, correlated) for names in nested]


def _nested(term: str) -> str:
    """Return `a + a:b` for `a/b`; a term without a slash, or of sums, products and numbers, as it is."""
    levels = [level.strip() for level in _split(term, "/")]
    sums = any(len(_split(term, mark)) > 1 for mark in "*-") or any(level.startswith("(") for level in levels)
    if len(levels) == 1 or sums or any(not level or level[0].isdigit() for level in levels):
        return term
    return " + ".join(":".join(levels[: i + 1]) for i in range(len(levels)))


def _names(text: str, inner: str) -> tuple[str, ...]:
    names = []
    for part in _split(text, ":"):
        bare = part.strip()
        if (wrapped := WRAPPED.fullmatch(bare)) is not None:
            bare = wrapped[1].strip()
        if NAME.fullmatch(bare) is None:
            raise ValueError(
                f"formula: expected columns as the grouping factor, as in (1 | g), (1 | a:b) or (1 | a/b), "
                f"got '({inner})'"
            )
        names.append(bare.strip("`"))
    return tuple(names)
