"""A folder is a stage of the flow, and a module imports only what stands above it: types included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ebmeta

#: The stages, in the order of the flow: each may import those before it.
STAGES = (
    "foundation",
    "tasks",
    "likelihood",
    "parts",
    "simulate",
    "refine",
    "model",
    "prediction",
    "training",
    "estimators",
    "plots",
    "reference",
    "diagnostics",
    "app",
)
PACKAGE = Path(ebmeta.__file__).parent


def modules(package: Path) -> dict[str, Path]:
    """Return the modules of the stages by dotted name without the package's own, `__init__` left out."""
    found = sorted(path for path in package.glob("*/**/*.py") if path.stem != "__init__")
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in found}


def imports(package: Path) -> dict[str, set[str]]:
    """Return what each module imports of the package, as modules or stages, at any depth of its text."""
    known, out = modules(package), {}
    for name, path in known.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: expected absolute imports, got a relative one"
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                inner = {b for b in below if b.removeprefix("ebmeta.") in {*known, *STAGES}}
                found |= inner | ({node.module or ""} if len(inner) < len(below) else set())
        out[name] = {f.removeprefix("ebmeta.") for f in found if f.startswith("ebmeta.")}
        if "ebmeta" in found:
            out[name].add("ebmeta")
    return out


def faults(package: Path) -> list[str]:
    """Return every import against the order, and every circle."""
    graph, out = imports(package), []
    for name, targets in graph.items():
        stage = name.split(".")[0]
        for target in sorted(targets):
            theirs = target.split(".")[0]
            if theirs not in STAGES or STAGES.index(theirs) > STAGES.index(stage):
                out.append(f"{name} imports {target}")
            elif theirs == stage and target == stage:
                out.append(f"{name} imports its own stage as a whole")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        out.append(" > ".join(error.args[1]))
    return out


def test_modules_import_what_stands_above_them():
    assert faults(PACKAGE) == []


def test_nothing_stands_at_the_top_but_the_stages():
    top = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert top == {"__init__.py", "__main__.py", "py.typed", *STAGES}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("from ebmeta.tasks.batch import TaskBatch", "foundation.low imports tasks.batch"),
        ("def f():\n    from ebmeta.tasks import batch", "foundation.low imports tasks.batch"),
        ("if TYPE_CHECKING:\n    import ebmeta.tasks", "foundation.low imports tasks"),
        ("from ebmeta import fit", "foundation.low imports ebmeta"),
        ("from ebmeta.foundation import high", "foundation.low > foundation.high > foundation.low"),
    ],
)
def test_an_import_against_the_order_is_found(tmp_path, line, fault):
    files = {"foundation/low.py": line, "foundation/high.py": "import ebmeta.foundation.low", "tasks/batch.py": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = faults(tmp_path)
    assert len(found) == 1
    assert found[0] == fault or (">" in fault and set(found[0].split(" > ")) == set(fault.split(" > ")))
