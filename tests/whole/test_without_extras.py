"""All but what an extra is for works without it, and what it is for says in one line what to install.

The packages of all extras are made absent for Python in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ebmeta.foundation.extras import EXTRAS

ROOT = Path(__file__).parents[2]
SUFFIXES = (".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".txt", ".html")
ABSENT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from absent import without
sys.meta_path = without(sys.meta_path, {[*EXTRAS, "jaxlib", "dask"]})
import matplotlib
matplotlib.use("Agg")
from ebmeta.app.cli import main
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, where no package of an extra is to be had."""
    call = [sys.executable, "-c", ABSENT + code]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Rows of classes, and rows of groups, as CSV files."""
    folder, rng = tmp_path_factory.mktemp("core"), np.random.default_rng(0)
    y = np.repeat(np.arange(8), 12)
    rows = pd.DataFrame(3 * rng.normal(size=(8, 3))[y] + rng.normal(size=(96, 3)), columns=list("abc"))
    rows.assign(y=[f"c{label}" for label in y]).to_csv(folder / "classes.csv", index=False)
    few = [f"c{label}" if row % 12 == 0 and label < 3 else "" for row, label in enumerate(y)]
    rows.assign(y=few)[y < 3].to_csv(folder / "rows.csv", index=False)
    group = np.repeat([f"g{n}" for n in range(12)], 6)
    x = rng.normal(size=72)
    score = 1 + 0.5 * x + np.repeat(rng.normal(size=12), 6) + 0.3 * rng.normal(size=72)
    pd.DataFrame({"g": group, "x": x, "score": score}).to_csv(folder / "groups.csv", index=False)
    return folder


COMMANDS = [
    ["classify", "rows.csv", "--output", "p.csv", "--report", "p.html"],
    ["train", "classes.csv", "--output", "model", "--n-way", "3", "--n-query", "4", "--num-iterations", "5"],
    ["evaluate", "model", "classes.csv", "--n-way", "3", "--n-query", "4", "--num-tasks", "8", "--plots", "plots"],
    ["predict", "model", "classes.csv", "rows.csv", "--output", "tree.nc"],
    ["train", "groups.csv", "--groups", "g", "--label", "score", "--output", "groups", "--num-iterations", "5"],
    ["predict", "groups", "groups.csv", "groups.csv", "--output", "groups.npz"],
    ["mixed", "groups.csv", "score ~ x + (1 | g)", "--output", "fitted"],
]
DEMO = "from ebmeta.app import demo\ndemo.run('shown', num_iterations=4, progress=False, num_tasks=40)\n"


def test_every_command_works_on_the_core_alone(folder):
    run = python(f"for tokens in {COMMANDS}:\n    assert main(tokens) == 0, tokens\n{DEMO}", folder)
    assert run.returncode == 0, run.stderr
    assert len(pd.read_csv(folder / "p.csv")) == 33
    assert (folder / "shown" / "result.json").is_file()


#: What needs an extra; the package that is missed; the extra.
NEEDS = [
    ("main(['classify', 'rows.csv', '--output', 'p.parquet'])", "pyarrow", "parquet"),
    ("main(['classify', 'rows.parquet', '--output', 'p.csv'])", "pyarrow", "parquet"),
    ("import ebmeta; ebmeta.reference.numpyro_model(ebmeta.EmpiricalBayes.regressor(1))", "jax", "numpyro"),
    ("from ebmeta import reference as r; r.hierarchical(r.Rows(y=[1.0, 2.0], task=[0, 1]))", "jax", "numpyro"),
    (
        "import ebmeta, polars; ebmeta.FewShotClassifier().fit(polars.DataFrame({'a': [0.]}), [1])",
        "pyarrow",
        "parquet",
    ),
]
#: Run one after the other; what each says on the way out is told after its number.
EACH = f"""
import traceback
for number, code in enumerate({[code for code, *_ in NEEDS]}):
    print(f"== {{number}}", file=sys.stderr)
    try:
        exec(code, {{"main": main}})
    except Exception:
        traceback.print_exc()
"""


@pytest.fixture(scope="module")
def said(folder) -> list[str]:
    """The last line that each of `NEEDS` says, one process for all of them."""
    (folder / "rows.parquet").write_bytes(b"PAR1")
    run = python(EACH, folder)
    assert run.returncode == 0, run.stderr
    each = re.split(r"^== \d+$", run.stderr, flags=re.M)[1:]
    assert len(each) == len(NEEDS)
    return [text.strip().split("\n")[-1] for text in each]


@pytest.mark.parametrize(("number", "package", "extra"), [(n, *needs[1:]) for n, needs in enumerate(NEEDS)])
def test_what_an_extra_is_for_says_what_to_install(folder, said, number, package, extra):
    wanted = f'{package}: expected the package, found none; pip install "ebmeta-bayes[{extra}]"'
    assert said[number].removeprefix("ebmeta: error: ").rpartition("Error: ")[2] == wanted
    assert not (folder / "p.parquet").exists()


def test_nothing_tells_to_install_the_other_package_of_that_name():
    """On the index `ebmeta` is a tool for e-books."""
    wrong = re.compile(r"""pip3? install (?:-\S+ )*["']?ebmeta(?![-\w])""")
    assert wrong.search("pip install -U ebmeta")
    assert wrong.search('pip install "ebmeta[all]"')
    assert not wrong.search('pip install "ebmeta-bayes[all]"')
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {name: ROOT / name for name in listed.split("\0") if name.endswith(SUFFIXES) or name == ".ci/run"}
    assert len(texts) > 400
    found = {name for name, path in texts.items() if path.is_file() and wrong.search(path.read_text(encoding="utf-8"))}
    assert found == {"tests/whole/test_without_extras.py"}
