"""The table of symbols agrees with the pages and the code, and each page names the symbols that it uses otherwise."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from ebmeta import EmpiricalBayes, TaskBatch

THEORY = Path(__file__).parents[2] / "theory"
COMMON, LOCAL = (THEORY / "notation.md").read_text(encoding="utf-8").split("## Symbols of one page")
MATH = re.compile(r"\$\$.*?\$\$|\$[^$]+\$", re.S)
CODE = re.compile(r"```.*?```", re.S)
NAMES = sorted(set(re.findall(r"`((?:model|batch)\.[^`]+)`", COMMON)))


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of a table, its two lines of heading left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def symbols(text: str) -> set[str]:
    return set(re.findall(r"\$([^$]+)\$", text))


def local() -> dict[str, set[str]]:
    """Return the symbols that a page uses in a meaning of its own, by page."""
    found = defaultdict(set)
    for symbol, page, _ in rows(LOCAL):
        (target,) = re.findall(r"\]\((\w+\.md)\)", page)
        found[target] |= symbols(symbol)
    return found


def parts(page: str) -> tuple[str, str]:
    """Return what a page says of its own symbols, and the rest of the page without its code."""
    text = (THEORY / page).read_text(encoding="utf-8")
    own = re.findall(r"^On this page, .*?(?=\n\n)", text, re.M | re.S)
    assert len(own) <= 1, page
    said = own[0] if own else ""
    assert text.index(said) < 1500, page  # at the top
    return said, CODE.sub("", text.replace(said, "") if said else text)


def stands(symbol: str, text: str) -> bool:
    """Return whether a letter stands in the mathematics of a text, as a letter of its own."""
    letter = re.compile(rf"(?<![a-zA-Z\\]){re.escape(symbol)}(?![a-zA-Z])")
    return any(letter.search(re.sub(r"\\(text|mathrm|mathcal|mathbb)\b", "", math)) for math in MATH.findall(text))


@pytest.mark.parametrize("page", sorted(local()))
def test_symbols_of_one_page_stand_on_it_and_are_named_at_its_top(page: str) -> None:
    said, rest = parts(page)
    for symbol in local()[page]:
        assert stands(symbol, rest), symbol
        assert stands(symbol, said), symbol


@pytest.mark.parametrize("page", sorted(page.name for page in THEORY.glob("*.md")))
def test_what_a_page_says_of_its_symbols_stands_in_the_table(page: str) -> None:
    letters = {re.sub(r"_(\w|\\\w+|\{.*\})$", "", symbol) for symbol in symbols(parts(page)[0])}
    assert letters == local().get(page, set())


def test_a_letter_is_found_and_a_part_of_a_word_is_not() -> None:
    assert stands(r"\rho", r"the size $\rho_k$")
    assert stands("s", "$$\ns_k\n$$")
    assert not stands("s", r"$\sigma$ and $\text{as}$, s")
    assert not stands(r"\pi", r"$\pix$ and \pi")


@pytest.mark.parametrize("name", NAMES)
def test_names_in_code_exist(name: str) -> None:
    x, y = torch.zeros(2, 3, 1), torch.zeros(2, 3)
    model = EmpiricalBayes.regressor(num_features=1)
    eval(name, {"model": model, "batch": TaskBatch(x, y, x, y), "k": 1})


def test_the_names_are_many() -> None:
    assert len(NAMES) > 15
    assert len(rows(LOCAL)) > 40
