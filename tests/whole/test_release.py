"""What is released says the same everywhere: versions, requirements, and the Pythons that it is for."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ebmeta

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Names on conda-forge that are others than those on the index.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def loaded(name: str) -> Any:
    yaml = pytest.importorskip("yaml", reason="needs the extra `docs`")
    return yaml.safe_load(read(name))


def on_conda(requirement: str) -> str:
    name, at_least = re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups()
    return f"{CONDA.get(name, name)} {at_least}"


def test_the_recipe_asks_for_what_the_project_asks_for():
    recipe = loaded("conda/recipe.yaml")
    run = recipe["requirements"]["run"]
    assert run == [f"python {PROJECT['requires-python']}", *map(on_conda, PROJECT["dependencies"])]
    extras = PROJECT["optional-dependencies"]
    optional = [r for extra in ("numpyro", "parquet", "distributed") for r in extras[extra]]
    assert recipe["requirements"]["run_constraints"] == [on_conda(r) for r in optional]
    assert recipe["build"]["python"]["entry_points"] == [f"ebmeta = {PROJECT['scripts']['ebmeta']}"]
    assert recipe["package"]["name"] == PROJECT["name"]


def test_versions_are_one():
    assert loaded("conda/recipe.yaml")["context"]["version"] == ebmeta.__version__
    assert loaded("CITATION.cff")["version"] == ebmeta.__version__
    assert f"## [{ebmeta.__version__}]" in read("CHANGELOG.md")


def test_a_release_is_tried_on_every_python_that_is_declared():
    declared = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    install = loaded(".github/workflows/release.yml")["jobs"]["install"]
    assert install["strategy"]["matrix"]["python"] == declared == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={declared[0]}"
    assert set(loaded(".github/workflows/release.yml")["jobs"]["publish"]["needs"]) == {"install", "oldest"}


def test_every_requirement_has_a_version_that_the_tests_run_with():
    """With the same constraints, the command for the tests replaces nothing that the command for the demo installed."""
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in read("constraints.txt").splitlines()
        if "==" in line
    }
    listed = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    names = {re.split(r"[>=\[]", requirement)[0].lower().replace("_", "-") for requirement in listed} - {
        PROJECT["name"]
    }
    assert len(names) > 30
    assert names - pinned == set()
    assert read("README.md").count("pip install -c constraints.txt ") == 2


def test_sizes_of_the_readme_are_measured():
    sizes = json.loads(read("benchmarks/results/startup.json"))["sizes"]
    more = sizes["extras_mb"]
    for words in (
        f"{sizes['core_mb']:.0f} MB beside torch",
        f"`[numpyro]` ({more['numpyro']:.0f} MB)",
        f"`[parquet]` ({more['parquet']:.0f} MB)",
        f"`[distributed]` ({more['distributed']:.0f} MB)",
        f"torch itself {sizes['torch_mb']:.0f} MB",
    ):
        assert words in read("README.md"), words
    assert sizes["core_mb"] <= 115


def test_the_time_of_training_in_the_readme_is_measured():
    """The plain call of the benchmark has the settings of `ebmeta train`."""
    facts = json.loads(read("benchmarks/results/few_shot_classification.json"))["plain"]["training"]
    words = "2,000 iterations, the default, take about two minutes of one core for classes of 256 features"
    assert words in " ".join(read("README.md").split())
    assert facts["iterations"] == 2000
    assert 90 <= facts["cpu_seconds"] <= 150
