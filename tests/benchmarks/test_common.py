"""What the scripts of benchmarks/ share: results as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib import common
from lib.common import RESULTS, WIDTH, compact

FILES = sorted(RESULTS.glob("*.json"))
#: Lines that all results may have together.
LINES = 20_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_are_as_written(path: Path) -> None:
    text = path.read_text()
    assert text == compact(json.loads(text)) + "\n", "write it by common.write"


def test_results_are_short() -> None:
    assert len(FILES) > 20
    assert sum(len(path.read_text().splitlines()) for path in FILES) <= LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_compact_loses_nothing(path: Path) -> None:
    value = json.loads(path.read_text())
    assert json.dumps(json.loads(compact(value))) == json.dumps(value)  # order of keys and last digits too


def test_compact_breaks_what_is_long() -> None:
    numbers = [index / 7 for index in range(40)]
    text = compact({"numbers": numbers, "sets": {"a": [1, 2], "b": {}}, "empty": [], "pairs": [numbers[:3]] * 4})
    lines = text.splitlines()
    assert lines[0] == "{"
    assert lines[1] == f'  "numbers": {json.dumps(numbers)},'
    assert lines[2] == '  "sets": {"a": [1, 2], "b": {}},'
    assert lines[3] == '  "empty": [],'
    assert lines[4] == '  "pairs": ['
    assert lines[5:9] == ["    " + json.dumps(numbers[:3]) + ","] * 3 + ["    " + json.dumps(numbers[:3])]
    assert lines[9:] == ["  ]", "}"]


@pytest.mark.parametrize("length", [WIDTH - 1, WIDTH])
def test_lines_are_as_wide_as_said(length: int) -> None:
    text = compact({"a": "x" * (length - len('{"a": ""}'))})
    assert len(text.splitlines()) == (1 if length < WIDTH else 3)


def test_numbers_as_keys_are_written_as_texts(monkeypatch, tmp_path):
    """Keys of a table of several lines stood there without quotes."""
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    common.write("widths.json", {"of": {width: [0.5] * 9 for width in (64, 256, 640)}})
    assert json.loads((tmp_path / "widths.json").read_text())["of"] == {w: [0.5] * 9 for w in ("64", "256", "640")}
