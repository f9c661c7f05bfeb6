"""No function takes many positional parameters, branches often or is long: what a reader holds in mind at once.

ruff counts parameters and branches, with the limits of pyproject.toml; lines are counted here. `LISTED` holds the
functions of the package that are above a limit today. It may only shrink: a function that is mended leaves it.
"""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("ebmeta", "benchmarks", "docs")
#: Lines of code of a function: neither its docstring, nor comments, nor blank lines.
LINES = 60
LISTED: dict[str, set[str]] = {
    "parameters": set(),
    "complexity": set(),
    "lines": set(),
}
RULES = {"PLR0917": "parameters", "C901": "complexity"}
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


def complaints() -> Iterator[tuple[str, str]]:
    """Return the kind of every complaint of ruff, whatever files its settings leave out, and the function."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    limits = {
        "lint.mccabe.max-complexity": lint["mccabe"]["max-complexity"],
        "lint.pylint.max-positional-args": lint["pylint"]["max-positional-args"],
    }
    assert list(limits.values()) == [15, 6]
    options = [f"--config={key}={value}" for key, value in limits.items()]
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--preview",
            f"--select={','.join(RULES)}",
            "--output-format=json",
            *options,
        ]
        + [str(ROOT / place) for place in PLACES],
        capture_output=True,
        text=True,
    )
    for each in json.loads(found.stdout):
        tree, row = ast.parse(Path(each["filename"]).read_text(encoding="utf-8")), each["location"]["row"]
        yield RULES[each["code"]], next(name for name, node in functions(tree) if node.lineno == row)


def test_functions_within_limits() -> None:
    pytest.importorskip("ruff", reason="needs the extra `lint`")
    found: dict[str, set[str]] = {kind: set() for kind in LISTED}
    for kind, name in complaints():
        found[kind].add(name)
    for path in (path for place in PLACES for path in (ROOT / place).rglob("*.py")):
        found["lines"] |= {name for name, count in lengths(path.read_text(encoding="utf-8")).items() if count > LINES}
    for kind, names in found.items():
        assert not names - LISTED[kind], f"above the limit of {kind}"
        assert not LISTED[kind] - names, f"within the limit of {kind} by now: take it off the list"


def test_lint_checks_the_package_once_it_can() -> None:
    """ruff leaves the package out for the listed functions alone."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert set(RULES) <= set(lint["select"])
    left_out = set(lint["per-file-ignores"].get("ebmeta/**", []))
    assert left_out == {rule for rule, kind in RULES.items() if LISTED[kind]}


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
