"""What a newcomer is told holds: commands, paths and quoted code exist, and every door runs the same checks."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PAGE = read("CONTRIBUTING.md")
QUOTES = re.compile(r"^`([^`\n]+)`:\n\n```python\n(.*?)^```$", re.M | re.S)
#: The commands that every commit has to pass, and what runs them.
COMMANDS = ("ruff check", "ruff format", "mypy", "sphinx-build", "pytest")


def sessions() -> dict[str, ast.FunctionDef]:
    """Return the sessions of the noxfile."""
    nodes = [node for node in ast.parse(read("noxfile.py")).body if isinstance(node, ast.FunctionDef)]
    return {node.name: node for node in nodes if [ast.unparse(each) for each in node.decorator_list] == ["nox.session"]}


def commands() -> set[str]:
    """Return what the sessions run, as a command line each; starred arguments left out."""
    calls = [node for function in sessions().values() for node in ast.walk(function) if isinstance(node, ast.Call)]
    runs = [call for call in calls if ast.unparse(call.func) == "session.run"]
    return {" ".join(arg.value for arg in run.args if isinstance(arg, ast.Constant)) for run in runs}


def test_sessions_are_those_of_the_page() -> None:
    assert set(re.findall(r"nox -s (\w+)", PAGE)) == set(sessions())
    assert set(re.findall(r"nox -s (\w+)", read("noxfile.py"))) <= set(sessions())


def test_commands_without_nox_are_those_of_the_sessions() -> None:
    run = " | ".join(commands())
    for command in COMMANDS:
        assert command in PAGE
        assert command in run
        assert command in read(".ci/run")


def test_paths_of_the_page_exist() -> None:
    paths = set(re.findall(r"(?<![\w/.])((?:[\w.-]+/)+[\w.-]*|[\w.-]+\.(?:md|toml|txt|yaml))", PAGE))
    made = {"docs/_build/html", ".venv/bin/pip", ".venv/bin/pre-commit", ".venv/bin/activate"}
    assert {"ebmeta/", "constraints.txt", "tests/whole/test_limits.py", ".ci/run", ".pre-commit-config.yaml"} <= paths
    assert {path for path in paths - made if not (ROOT / path).exists()} == set()


def test_arguments_of_the_page_exist() -> None:
    scripts = re.findall(r"nox -s bench -- (\w+)", PAGE)
    assert scripts
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in scripts)
    mutated = re.findall(r"nox -s mutants -- (\S+\.py)", PAGE)
    assert mutated
    assert all(f"{name}" in read("benchmarks/mutants.toml") for name in mutated)


def test_quoted_code_stands_in_its_file() -> None:
    quotes = QUOTES.findall(PAGE)
    assert len(quotes) == PAGE.count("```python") > 3
    for path, code in quotes:
        assert code in read(path), path


def test_extras_of_the_project_are_those_installed() -> None:
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    named = re.findall(r'\.\[([\w,]+)\]"', PAGE + read(".ci/run") + read("benchmarks/README.md"))
    named += re.findall(r'install\(session, "([\w,]+)"\)', read("noxfile.py"))
    assert len(named) > 5
    assert {extra for each in named for extra in each.split(",")} <= set(extras)
    both = extras["dev"][0]
    assert set(re.findall(r"\w+", both.partition("[")[2])) == set(extras) - {"dev"}


def test_hooks_run_what_lint_and_types_run() -> None:
    yaml = pytest.importorskip("yaml", reason="needs the extra `docs`")
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    # `--fix` and the lack of `--check` mend; a hook is given files, so it must keep to those of the settings.
    entries = {re.sub(r" --(force-exclude|fix|check)| \.", "", text) for text in (h["entry"] for h in hooks)}
    assert entries == {re.sub(r" --check| \.", "", text) for text in commands() if text.startswith(("ruff", "mypy"))}
    assert {hook["language"] for hook in hooks} == {"system"}


def steps() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="needs the extra `docs`")
    (job,) = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    listed: list[dict[str, Any]] = job["steps"]
    return listed


def test_workflow_runs_the_one_script() -> None:
    runs = [step["run"] for step in steps() if "run" in step]
    assert runs == [".ci/run --without-data"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (python,) = [step["with"] for step in steps() if "setup-python" in step.get("uses", "")]
    assert python["python-version"].split() == ["3.12", "3.11"]
    assert all((ROOT / path).is_file() for path in python["cache-dependency-path"].split())


@pytest.mark.parametrize("name", ["bug", "feature", "wrong_number"])
def test_forms_are_whole(name: str) -> None:
    yaml = pytest.importorskip("yaml", reason="needs the extra `docs`")
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert set(form) == {"name", "description", "labels", "body"}
    fields = {field["id"]: field for field in form["body"]}
    assert len(fields) == len(form["body"])
    assert all(set(field) <= {"type", "id", "attributes", "validations"} for field in fields.values())
    assert name == "feature" or fields["reproducer"]["validations"] == {"required": True}
