"""A folder is a stage of the flow, and a module imports only what stands above it: types included."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))  # last: `counts` is a script of benchmarks too

from stages import Package, flow, listing, sentences  # noqa: E402  # in the folder named above

PACKAGE = Package.read()


def test_modules_import_what_stands_above_them():
    assert PACKAGE.faults() == []


def test_nothing_stands_at_the_top_but_the_stages():
    top = {path.name for path in PACKAGE.folder.iterdir() if path.name != "__pycache__"}
    assert top == {"__init__.py", "__init__.pyi", "__main__.py", "py.typed", *PACKAGE.stages}


@pytest.fixture
def small(tmp_path) -> Path:
    """A package of two stages, in order."""
    files = {
        "foundation/__init__.py": '"""What all stands on."""',
        "foundation/high.py": '"""First."""\nimport small.foundation.low',
        "foundation/low.py": '"""Second: of\ntwo lines.\n\nMore."""',
        "tasks/__init__.py": '"""Tasks."""',
        "tasks/batch.py": "from small.foundation import high, low",
    }
    for name, text in files.items():
        (tmp_path / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "small" / name).write_text(text)
    return tmp_path / "small"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("from small.tasks.batch import TaskBatch", "foundation.low imports tasks.batch"),
        ("def f():\n    from small.tasks import batch", "foundation.low imports tasks.batch"),
        ("if TYPE_CHECKING:\n    import small.tasks", "foundation.low imports tasks"),
        ("from small import fit", "foundation.low imports small"),
        ("import small", "foundation.low imports small"),
        ("from small.foundation import anything", "foundation.low imports its own stage as a whole"),
        ("from small.foundation import high", "foundation.high > foundation.low > foundation.high"),
    ],
)
def test_an_import_against_the_order_is_found(small, line, fault):
    stages = ["foundation", "tasks"]
    assert Package(small, stages).faults() == []
    (small / "foundation" / "low.py").write_text(line)
    found = Package(small, stages).faults()
    assert found
    assert found[0] == fault or set(found[0].split(" > ")) == set(fault.split(" > "))


def test_relative_imports_are_refused(small):
    (small / "foundation" / "low.py").write_text("from . import high")
    with pytest.raises(ValueError, match="foundation.low: expected absolute imports, got a relative one"):
        Package(small, ["foundation", "tasks"])


def test_pages_are_made_of_what_modules_say(small):
    package = Package(small, ["foundation", "tasks"])
    assert sentences(package) == (
        "**`foundation/`** What all stands on.\n\n- `low`: Second: of two lines.\n- `high`: First.\n\n"
        "**`tasks/`** Tasks.\n\n- `batch`: \n"
    )
    assert [line for line in listing(package, "foundation").splitlines() if line.startswith("## ")] == [
        "## `small.foundation.low`",
        "## `small.foundation.high`",
    ]
    picture = flow(package)
    assert picture.count("<path") == 1
    assert "<title>1 module of tasks import foundation</title>" in picture
    with pytest.raises(ValueError, match=r"stage: expected one of \['foundation', 'tasks'\], got 'model'"):
        listing(package, "model")


def test_every_module_says_what_it_is():
    assert [name for name in [*PACKAGE.files, *PACKAGE.stages] if not PACKAGE.sentence(name)] == []
