"""Each module of a stage has its file of tests, and each file of tests of a stage its module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.whole.test_layers import PACKAGE

TESTS = Path(__file__).resolve().parents[1]


def faults(package: Path, tests: Path) -> list[str]:
    """Return every file of one side that the other lacks."""
    out = []
    for stage in PACKAGE.stages:
        modules = {path.stem for path in (package / stage).glob("*.py")} - {"__init__"}
        tested = {path.stem.removeprefix("test_") for path in (tests / stage).glob("test_*.py")}
        out += [f"tests/{stage}/test_{name}.py is missing" for name in sorted(modules - tested)]
        out += [f"tests/{stage}/test_{name}.py tests no module" for name in sorted(tested - modules)]
    return out


def test_modules_and_tests_mirror_each_other() -> None:
    assert faults(PACKAGE.folder, TESTS) == []


def test_files_of_a_mirror_hold_tests() -> None:
    for path in (path for stage in PACKAGE.stages for path in (TESTS / stage).glob("test_*.py")):
        assert "\ndef test_" in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("module", "test", "fault"),
    [
        ("plots/curves.py", None, "tests/plots/test_curves.py is missing"),
        (None, "plots/test_curves.py", "tests/plots/test_curves.py tests no module"),
        ("plots/curves.py", "model/test_curves.py", "tests/plots/test_curves.py is missing"),
    ],
)
def test_a_file_without_its_like_is_found(tmp_path, module, test, fault) -> None:
    for folder, name in (("package", module), ("tests", test)):
        if name is not None:
            (tmp_path / folder / name).parent.mkdir(parents=True)
            (tmp_path / folder / name).write_text("")
    assert fault in faults(tmp_path / "package", tmp_path / "tests")
