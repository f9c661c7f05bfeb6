"""What a part can do is stated on its base class: nobody asks of which of our own classes a thing is.

`LISTED` holds the tests that are left. It may only shrink: where a test is gone, its line leaves.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ebmeta

PACKAGE = Path(ebmeta.__file__).parent
MOST = 3
#: Tests of our own kinds that are left, by module and class, and how many.
LISTED: dict[str, int] = {
    "estimators.base PredictiveModel": 1,
    "tasks.source TaskBatch": 1,
    "tasks.source TaskSource": 1,
}


def classes(package: Path) -> set[str]:
    """Return the names of all classes of the package."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def names(node: ast.AST) -> Iterator[str]:
    """Return the last part of every name below a node."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr


def asked(tree: ast.AST) -> Iterator[str]:
    """Return every class that a text asks for: by `isinstance`, `issubclass`, `type(x) is` or a `case`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 2:
            if node.func.id in ("isinstance", "issubclass"):
                yield from names(node.args[1])
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
            if any(isinstance(n, ast.Call) and "type" in names(n.func) for n in ast.walk(node)):
                yield from names(node)
        elif isinstance(node, ast.MatchClass):
            yield from names(node.cls)


def found(package: Path) -> Counter[str]:
    """Return how often each module asks for each class of the package's own."""
    own, out = classes(package), Counter[str]()
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        out.update(f"{module} {name}" for name in asked(tree) if name in own)
    return out


def test_no_kind_is_asked_for_but_those_listed():
    assert dict(found(PACKAGE)) == LISTED
    assert sum(LISTED.values()) <= MOST


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("isinstance(x, Own)", 1),
        ("isinstance(x, Own | Other)", 2),
        ("isinstance(x, (Own, int))", 1),
        ("isinstance(x, parts.Own)", 1),
        ("type(x) is Own", 1),
        ("type(x).cdf is not Own.cdf", 1),
        ("match x:\n    case Own():\n        pass", 1),
        ("isinstance(x, int)", 0),
        ("Own(x)", 0),
    ],
)
def test_every_way_of_asking_is_seen(tmp_path, line, count):
    (tmp_path / "kinds.py").write_text("class Own: pass\nclass Other: pass\n")
    (tmp_path / "use.py").write_text(line)
    assert sum(found(tmp_path).values()) == count
