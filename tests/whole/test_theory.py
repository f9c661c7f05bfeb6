"""Every labelled equation of theory/*.md has a numerical check, in the file of its page.

`CHECKS` maps an equation's label to its test. Expectations are exact sums or converged quadratures in 64-bit floats, so
a check cannot fail by chance; where one draws, as `eq-family` does, which tests a sampler, its false-alarm rate is
stated there.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from equations import ALGEBRA, CHECKS, REASONS

THEORY = Path(__file__).parents[2] / "theory"
TESTS = sorted((Path(__file__).parents[1] / "theory").glob("test_*.py"))


def labels_of(text: str) -> list[str]:
    return re.findall(r"^\$\$ \(([\w-]+)\)$", text, re.M) + re.findall(r"^:label: ([\w-]+)$", text, re.M)


@pytest.fixture(autouse=True, scope="module")
def _checks() -> None:
    for file in TESTS:
        importlib.import_module(f"tests.theory.{file.stem}")


def test_each_page_has_its_file_and_each_file_checks_labels_of_its_page_alone() -> None:
    pages = {page.stem: set(labels_of(page.read_text(encoding="utf-8"))) for page in THEORY.glob("*.md")}
    found: dict[str, set[str]] = {file.stem.removeprefix("test_"): set() for file in TESTS}
    for label, test in CHECKS.items():
        found[test.__module__.rpartition(".test_")[2]].add(label)
    assert found == pages


def test_every_label_has_a_check_and_every_check_a_label() -> None:
    found = [label for page in sorted(THEORY.glob("*.md")) for label in labels_of(page.read_text(encoding="utf-8"))]
    assert len(found) == len(set(found))
    assert set(found) == set(CHECKS)
    for test in CHECKS.values():
        assert test.__name__.startswith("test_")
        assert test is vars(sys.modules[test.__module__])[test.__name__]


def test_checks_of_algebra_alone_are_checks_and_listed_once() -> None:
    """That each of them runs no line of the package, and every other one does, is found as it runs."""
    assert set(CHECKS) >= ALGEBRA
    assert len(ALGEBRA) == sum(len(labels.split()) for labels in REASONS.values())


def test_every_displayed_equation_has_a_label_and_every_reference_a_target() -> None:
    for page in sorted(THEORY.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.startswith("$$")]
        assert all(line == "$$" or re.fullmatch(r"\$\$ \([\w-]+\)", line) for line in lines), page
        assert lines.count("$$") == len(labels_of(text)), page
        assert set(re.findall(r"\{eq\}`([\w-]+)`", text)) <= set(CHECKS), page
        assert len(re.findall(r"\(eq-[\w-]+\)", text)) == len(labels_of(text)), page  # none in plain text
