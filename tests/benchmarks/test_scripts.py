"""How benchmarks/ is laid out: scripts above, what they share in lib/, and nothing that nobody uses."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lib.common import ROOT

SCRIPTS = sorted(ROOT.glob("*.py"))
LIB = sorted((ROOT / "lib").rglob("*.py"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in [*SCRIPTS, *LIB]}


def imported(text: str) -> set[str]:
    """Return the first part of the name of every module that a source imports, inside functions too."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_a_script(path: Path) -> None:
    assert not imported(TEXTS[path]) & {script.stem for script in SCRIPTS}


def test_imports_are_found_wherever_they_stand() -> None:
    assert imported("def f():\n    from counts import x\n    import sines.y as z") == {"counts", "sines"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_how_it_is_run(path: Path) -> None:
    assert 'if __name__ == "__main__":' in TEXTS[path]
    assert f"python benchmarks/{path.name}" in (ast.get_docstring(ast.parse(TEXTS[path])) or "")


def defined(text: str) -> set[str]:
    """Return the functions, classes and constants at the top of a module."""
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)}
    return names - {"__all__"}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_whatever_is_defined_is_used(path: Path) -> None:
    """Each name stands in a second place, its own `__all__` left out; a definition that only a test uses is none."""
    sources = [re.sub(r"__all__ = \[.*?\]", "", text, flags=re.DOTALL) for text in TEXTS.values()]
    words = [word for text in sources for word in re.findall(r"\w+", text)]
    assert {name for name in defined(TEXTS[path]) if words.count(name) < 2} == set()
