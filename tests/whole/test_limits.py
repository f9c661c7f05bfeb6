"""No function takes many positional parameters, branches often or is long: what a reader holds in mind at once.

ruff counts parameters and branches, with the limits of pyproject.toml, and leaves nothing out; lines are counted here.
"""

from __future__ import annotations

import ast
import io
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("ebmeta", "benchmarks", "docs")
FILES = [path for place in PLACES for path in sorted((ROOT / place).rglob("*.py"))]
#: Lines of code of a function: neither its docstring, nor comments, nor blank lines.
LINES = 60
#: Lines of a module of the package, all of them.
MODULE = 350
RULES = {"PLR0917", "C901"}
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def functions(node: ast.AST, name: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Return every function of a tree by its qualified name."""
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}" if name else child.name
            if isinstance(child, ast.FunctionDef):
                yield inner, child
        yield from functions(child, inner)


def lengths(text: str) -> dict[str, int]:
    """Return the lines of code of every function of a source."""
    tree, code = ast.parse(text), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return {name: len(code & set(range(node.lineno, node.end_lineno + 1))) for name, node in functions(tree)}


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}: {name}": count
        for path in FILES
        for name, count in lengths(path.read_text(encoding="utf-8")).items()
        if count > LINES
    }
    assert long == {}


def test_modules_are_short() -> None:
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "ebmeta").rglob("*.py")}
    assert {str(path.relative_to(ROOT)): count for path, count in counts.items() if count > MODULE} == {}


def test_lint_counts_parameters_and_branches_everywhere() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert set(lint["select"]) >= RULES
    assert (lint["mccabe"]["max-complexity"], lint["pylint"]["max-positional-args"]) == (15, 6)
    left_out = {place for place, rules in lint["per-file-ignores"].items() if RULES & set(rules)}
    assert left_out == {"tests/**"}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not any(f"noqa: {rule}" in text for rule in RULES), path


def test_lines_are_counted_without_docstring_comments_and_blanks() -> None:
    text = '''
class Outer:
    def first(self):
        """Say
        much."""
        # why

        return """two
        lines"""

    @property
    def second(self):
        def inner():
            return 1

        return inner
'''
    assert lengths(text) == {"Outer.first": 3, "Outer.second": 4, "Outer.second.inner": 2}
