"""How benchmarks/ is laid out: scripts above, what they share in lib/, and nothing that nobody uses."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from lib.common import RESULTS, ROOT

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


ROW = re.compile(
    r"^\| `(\w+)\.py` \| `(\w+\.json)` \| \[([^]]+)\]\(([^)]+)\)"  # script, result, page
    r" \| (not timed|(?:about )?\d+, [^|]+) \| ([^|]+) \|$",  # minutes, needs
    re.M,
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[1:] for row in ROW.findall(README)}
#: Where a result keeps the seconds that its row counts.
SECONDS = {
    "ablation": ["*.seconds"],
    "calibrated_training": ["*.cpu_seconds"],
    "cifar_fs_images": ["seconds"],
    "counts": ["pieces.*.seconds", "pieces.*.train_seconds"],
    "few_shot_classification": ["[!u]*.training.seconds"],  # `untold` is the default model again
    "hierarchical_regression": ["sets.*.cpu_seconds"],
    "information_bottleneck": ["cpu_seconds.*"],
    "linear_gaussian": ["*.seconds"],
    "memory": ["cases.*.seconds"],
    "omniglot": ["encoder.cpu_seconds", "seconds"],
    "reference": ["eight_schools.seconds", "radon.seconds", "speed.numpyro.seconds*", "speed.pyro.each.*.seconds"],
    "sines": ["*.candidates.*.seconds"],
    "zero_shot": ["*.seconds"],
}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Return the dotted names of the numbers in a result."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float):
        yield name, value


def test_each_script_has_a_row() -> None:
    assert len(ROW.findall(README)) == README.count("\n| `")
    assert set(ROWS) == {path.stem for path in SCRIPTS}
    assert {file for file, *_ in ROWS.values()} == {path.name for path in RESULTS.iterdir()}


@pytest.mark.parametrize("script", ROWS)
def test_a_row_names_the_result_and_a_page_that_shows_it(script: str) -> None:
    file, title, page, *_ = ROWS[script]
    assert file in TEXTS[ROOT / f"{script}.py"]
    assert json.loads((RESULTS / file).read_text())["script"] == f"benchmarks/{script}.py"
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.startswith(f"# {title}\n")
    assert f"benchmarks/{script}.py" in text or f"{file}:" in text


@pytest.mark.parametrize("script", ROWS)
def test_minutes_are_those_of_the_result(script: str) -> None:
    file, *_, minutes, _ = ROWS[script]
    patterns = SECONDS.get(script, [])
    numbers = leaves(json.loads((RESULTS / file).read_text()))
    seconds = [value for name, value in numbers if any(fnmatchcase(name, pattern) for pattern in patterns)]
    assert bool(seconds) == bool(patterns)
    known = re.search(r"about (\d+) minutes", TEXTS[ROOT / f"{script}.py"])
    if seconds:
        assert minutes.partition(",")[0] == str(round(sum(seconds) / 60))
    else:
        assert minutes.partition(",")[0] == (f"about {known[1]}" if known else "not timed")


@pytest.mark.parametrize("script", ROWS)
def test_features_are_needed_where_they_are_read(script: str) -> None:
    needs, text = ROWS[script][-1], TEXTS[ROOT / f"{script}.py"]
    taken = "from lib.classifier import" in text
    assert ("features" in needs) == (taken or "cifar_fs(" in text or "from lib.kinds import" in text)
    # The comparison itself is where that classifier is trained.
    assert ("default classifier" in needs) == (taken and script != "few_shot_classification")
