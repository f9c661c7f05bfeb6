"""A dotted name of the package in pages and docstrings is one that exists."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))

from names import documented  # noqa: E402

NAME = re.compile(r"[`<]~?(ebmeta(?:\.\w+)+)(?:\([^`]*\))?[`>]")
#: Names of something else.
OTHERS = {"ebmeta.prior.loc": "a key of Pyro's parameter store"}


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every page and module of the project with its text."""
    for folder, ending in (("ebmeta", "py"), ("benchmarks", "py"), ("docs", "md"), ("theory", "md"), (".", "md")):
        paths = (ROOT / folder).glob(f"*.{ending}") if folder == "." else (ROOT / folder).rglob(f"*.{ending}")
        for path in sorted(paths):
            if "_build" not in path.parts:
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def test_names_in_backticks_exist():
    named = {(str(path), name) for path, text in texts() for name in NAME.findall(text) if name not in OTHERS}
    assert len(named) > 100
    assert sorted(pair for pair in named if documented(pair[1]) is None) == []


@pytest.mark.parametrize("name", ["ebmeta.fits", "ebmeta.tasks.episodes.exactly", "ebmeta.nothing.at_all"])
def test_other_names_are_missed(name):
    assert documented("ebmeta.tasks.batch.TaskBatch.support") is not None
    assert documented(name) is None
