"""The options `--no-skips`, by which a skipped test that is no GPU test fails, and `--without-data`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = {
    "test_whole.py": "import pytest\npytest.importorskip('no_such_module')\n",
    "test_parts.py": """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no data")

@pytest.mark.skip(reason="marked")
def test_marked():
    pass

@pytest.fixture
def data():
    pytest.skip("no folder")

def test_needs(data):
    pass

@pytest.mark.xfail(strict=True)
def test_fails_as_it_should():
    assert False

@pytest.mark.gpu
def test_on_a_gpu():
    pytest.skip("no device")
""",
    "documented.py": '"""\n>>> 1  # doctest: +SKIP\n2\n"""\n',
}


def run(folder: Path, *options: str) -> str:
    conftest = (Path(__file__).parents[1] / "conftest.py").read_text()
    files = {"tests/conftest.py": conftest, "tests/test_whole.py": CASES["test_whole.py"]}
    files |= {"tests/test_parts.py": CASES["test_parts.py"], "package/documented.py": CASES["documented.py"]}
    files["pytest.ini"] = "[pytest]\ntestpaths = package tests\naddopts = --doctest-modules\nmarkers = gpu\n"
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def test_skips_fail_on_demand(tmp_path):
    strict = run(tmp_path, "--no-skips", "--continue-on-collection-errors")
    assert "2 failed, 1 passed, 1 skipped, 1 xfailed, 4 errors" in strict
    for reason in ("no data", "marked", "no folder", "all tests skipped", "could not import 'no_such_module'"):
        assert f"--no-skips: Skipped: {reason}" in strict


def test_tests_of_data_are_left_out_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("EBMETA_DATA", str(tmp_path / "none"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_data.py").write_text("def test_reads(shared_data): pass\n")
    report = run(tmp_path, "--no-skips", "--without-data", "tests/test_data.py", "tests/test_parts.py::test_passes")
    assert "1 passed, 1 deselected" in report
    assert "1 passed, 1 error" in run(tmp_path, "--no-skips", "tests/test_data.py", "tests/test_parts.py::test_passes")
