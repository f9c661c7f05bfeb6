"""The small Sphinx extensions of docs/_ext."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("sphinx", reason="the documentation's extensions need Sphinx")

FOLDER = Path(__file__).parents[2] / "docs" / "_ext"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docstrings, names, results, run_blocks, stages = map(load, ("docstrings", "names", "results", "run_blocks", "stages"))


# docstrings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a $x$ b", "a :math:`x` b"),
        ("$x$-th and $y$.", ":math:`x`-th and :math:`y`."),
        ("$x$s", r":math:`x`\ s"),
        ("over\n$a\n+ b$ lines", "over\n:math:`a\n+ b` lines"),
        ("code `$HOME` and ``$x$`` stay", "code `$HOME` and ``$x$`` stay"),
        ("one $ is no mathematics", "one $ is no mathematics"),
        (">>> '$x$'\n'$x$'\n\n$y$", ">>> '$x$'\n'$x$'\n\n:math:`y`"),
        ("Code::\n\n    $x$\n\n$y$", "Code::\n\n    $x$\n\n:math:`y`"),
        ("Text.\n\n    w_t ~ $p$\n\n$y$", "Text.\n\n::\n\n    w_t ~ $p$\n\n:math:`y`"),
        (":param x: text\n\n    more $x$", ":param x: text\n\n    more :math:`x`"),
        ("$$ a $$", "\n.. math::\n\n   a\n"),
        ("  $$ a,\n     b $$\n  $c$", "\n  .. math::\n\n     a,\n     b\n\n  :math:`c`"),
        ("$$\na\n$$", "\n.. math::\n\n   a\n"),
    ],
)
def test_docstring_mathematics(text: str, wanted: str) -> None:
    assert "\n".join(docstrings.convert(text.split("\n"))) == wanted


def test_tables_are_laid_out_anew() -> None:
    table = ["====  ====", "on    code", "====  ====", "$x$   `x`", "====  ====", "", "$y$"]
    wide = "========="
    assert docstrings.convert(table) == [
        f"{wide}  ====",
        "on         code",
        f"{wide}  ====",
        ":math:`x`  `x`",
        f"{wide}  ====",
        "",
        ":math:`y`",
    ]


@pytest.mark.parametrize("text", ["$$ a", "==  ==\na   b"])
def test_unfinished_docstrings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="docstring: expected"):
        docstrings.convert(text.split("\n"))


# results ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(
        json.dumps({"a": {"b": [0.5, 72.846]}, "n": 3, "long": 23.817350449, "who": "us", "yes": True})
    )
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("run.json:a.b.1:.1f", "72.8"),
        ("run.json:a.b.0:.0%", "50%"),
        ("run.json:n", "3"),
        ("run.json:n:,", "3"),
        ("run.json:who", "us"),
    ],
)
def test_result_is_read(folder: Path, reference: str, wanted: str) -> None:
    assert results.lookup(folder, reference) == wanted


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("run.json", "expected file:path"),
        ("absent.json:a", "expected a JSON file"),
        ("broken.json:a", "expected a JSON file"),
        ("run.json:a.c", "no value at 'a.c'"),
        ("run.json:a.b.2", "no value at"),
        ("run.json:a.b.first", "no value at"),
        ("run.json:n.deeper", "no value at"),
        ("run.json:a", "expected a number or text"),
        ("run.json:yes", "expected a number or text"),
        ("run.json:who:.1f", "run.json:who:.1f"),
        ("run.json:long", "expected a format such as ':.2f' at the end of 'run.json:long', got 23.817350449"),
    ],
)
def test_missing_result_is_refused(folder: Path, reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results.lookup(folder, reference)


# run_blocks -------------------------------------------------------------------------------------------


class Drawing:
    """What a page may end a block with: something with axes that can be saved."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(1, 1))
        self.figure.subplots().set(xlabel="time", ylabel="loss")


def test_blocks_show_what_they_print_and_return(tmp_path: Path) -> None:
    text = "# T\n\n```python\nx = 2\nprint('x is', x)\n```\n\nWords.\n\n```python\nx + 1\n```\n\n```python\nNone\n```\n"
    page = run_blocks.render(text, "page", tmp_path)
    assert "```{code-block} text\n:class: output\n\nx is 2\n```" in page
    assert ":class: output\n\n3\n```" in page
    assert page.count("{code-block}") == 2
    assert page.endswith("```python\nNone\n```\n")


def test_blocks_show_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.Drawing", Drawing, raising=False)
    page = run_blocks.render("```python\nDrawing()\n```\n", "deep/page", tmp_path / "figures")
    assert (tmp_path / "figures" / "deep-page-1.png").stat().st_size > 0
    assert "```{image} /figures/deep-page-1.png\n:alt: loss against time" in page


@pytest.mark.parametrize("code", ["raise KeyError('gone')", "x = (", "print(undefined)"])
def test_failing_block_stops_the_build(code: str, tmp_path: Path) -> None:
    before = os.getcwd()
    with pytest.raises(run_blocks.ExtensionError, match="page.md, block at line 3"):
        run_blocks.render(f"# T\n\n```python\n{code}\n```\n", "page", tmp_path)
    assert os.getcwd() == before


# Pages ------------------------------------------------------------------------------------------------


def test_every_page_of_theory_and_every_module_has_its_place() -> None:
    root = FOLDER.parents[1]
    index = (root / "docs" / "theory" / "index.md").read_text()
    for page in sorted((root / "theory").glob("*.md")):
        assert f"../../theory/{page.name}" in (root / "docs" / "theory" / page.name).read_text()
        assert f"\n{page.stem}\n" in index
    pages = {page.stem for page in (root / "docs" / "api").glob("*.md")} - {"index"}
    assert pages == set(stages.Package.read().stages)
    for page in pages:
        assert f"```{{stage}} {page}\n```\n" in (root / "docs" / "api" / f"{page}.md").read_text()
        assert f"\n{page}\n" in (root / "docs" / "api" / "index.md").read_text()


# In a build -------------------------------------------------------------------------------------------


def build(source: Path, page: str) -> subprocess.CompletedProcess[str]:
    (source / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "extensions = ['results', 'run_blocks']\n"
        f"results_folder = {str(source)!r}\nrun_blocks_pages = ['index']\n"
    )
    (source / "index.rst").write_text(page)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "text", str(source), str(source / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_build_shows_a_result(folder: Path) -> None:
    done = build(folder, "Title\n=====\n\nAccuracy :result:`run.json:a.b.1:.1f`.\n")
    assert done.returncode == 0, done.stderr
    assert "Accuracy 72.8." in (folder / "out" / "index.txt").read_text()


def test_build_stops_where_a_result_is_missing(folder: Path) -> None:
    done = build(folder, "Title\n=====\n\nAccuracy :result:`run.json:a.c:.1f`.\n")
    assert done.returncode != 0
    assert "no value at 'a.c'" in done.stderr


def test_build_stops_where_a_block_fails(folder: Path) -> None:
    done = build(folder, "Title\n=====\n\n```python\n1 / 0\n```\n")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr


# comparison -------------------------------------------------------------------------------------------

comparison = load("comparison")


def piece(accuracy: float, *, steps: int = 0) -> dict[str, object]:
    scores = {name: [accuracy, 0.01] for name in ("accuracy", "nll", "ece", "ece_mass", "brier", "aurc")}
    if steps:
        scores = {name: [[accuracy - (steps - k) / 100, 0.01] for k in range(steps + 1)] for name in scores}
    return {
        "val": scores,
        "test": scores,
        "curves": {"bin_confidence": [None, 0.5], "bin_accuracy": [None, 0.4], "coverage": [0.5, 1], "risk": [0, 0.1]},
        "conformal": {"coverage": [0.905, 0.01], "size": [1.5, 0.1]},
        "ms_per_task": 0.25,
    }


def test_comparison_tables_and_figures(tmp_path: Path) -> None:
    kinds = comparison.FIVE
    result = {
        "test_tasks": 2000,
        "default": {"training": {"seconds": 1.0}} | {kind: piece(0.75, steps=2) for kind in kinds},
        "tim": {kinds[0]: piece(0.7) | {"test": piece(0.7)["test"] | {"accuracy_classes": 0.0525}}},
        "tim_published": {kinds[0]: piece(0.6)},
    }
    tables = comparison.tables(result)
    rows = tables["accuracy"].splitlines()
    head = "%, ± over tasks (over classes)"
    assert (
        rows[0]
        == f"| {head} | 5way 1shot balanced | 5way 1shot imbalanced | 5way 5shot balanced | 5way 5shot imbalanced |"
    )
    assert rows[2] == "| ebmeta, one default model | 75.0 ± 1.0 | 75.0 ± 1.0 | 75.0 ± 1.0 | 75.0 ± 1.0 |"
    assert rows[3:] == [
        "| TIM | 70.0 ± 1.0 (5.2) |  |  |  |",
        "| TIM, published settings | 60.0 ± 1.0 |  |  |  |",
    ]
    assert tables["path_test"].splitlines()[2] == "| 5way 1shot balanced | 0.7300 | 0.7400 | 0.7500 |"
    assert "| TIM | 90.5%, 1.50 |  |  |  |" in tables["conformal"]
    comparison.figures(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"cost.png", "reliability.png", "risk.png"}
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())


def test_unequal_numbers_of_labelled_rows_stand_beside_the_share_that_is_too_large() -> None:
    cell = {"accuracy": [0.7, 0.01], "nll": [0.8, 0.01], "share": 0.25}
    result = {"shots": {"few": [1, 1, 1, 5, 5], "one": [1, 1, 1, 1, 20]}}
    result |= {name: {"tim": cell, "ebmeta": cell} for name in ("few", "one")}
    rows = comparison.of_unequal(result)["unequal"].splitlines()
    assert rows[0] == "| accuracy (%), NLL, too many (%) | 1, 1, 1, 5, 5 | 1, 1, 1, 1, 20 |"
    assert rows[2] == "| ebmeta, one default model | 70.0, 0.80, +5 | 70.0, 0.80, +5 |"
    assert rows[3].startswith("| TIM |")


def test_general_weights_stand_beside_methods_that_have_seen_classes() -> None:
    result = {name: {kind: piece(0.7, steps=2) for kind in comparison.FIVE} for name in comparison.BESIDE}
    result["prototypes"] = {kind: piece(0.6) for kind in comparison.FIVE}
    end = {"accuracy": [0.65, 0.005], "accuracy_classes": 0.08}
    general = {"new_classes": {kind: {"end": end} for kind in comparison.FIVE}}
    rows = comparison.beside_general(result, general)["general"].splitlines()[2:]
    assert rows[0] == "| general weights, no training |" + 4 * " 65.0 ± 0.5 (8.0) |"
    assert rows[1] == "| 64 classes, default model |" + 4 * " 70.0 ± 1.0 |"
    assert rows[-1] == "| prototypes |" + 4 * " 60.0 ± 1.0 |"


def test_tables_of_peers_on_other_features() -> None:
    def both(*first: float) -> dict[str, dict[str, list[float]]]:
        """Each scope starts at its own accuracy, and every kind adds a point."""
        scopes = zip(("tuned", "single"), first, strict=True)
        return {scope: {kind: [a + k, 0.5] for k, kind in enumerate(comparison.FIVE)} for scope, a in scopes}

    result = {
        "ebmeta": {"val": both(70.0, 0.0)["tuned"]},
        "tim": {
            "as_they_are": {"val": both(60.0, 59.0), "test": both(61.0, 60.0)},
            "of_ebmeta": {"val": both(64.0, 62.0)},
        },
    }
    tables = comparison.on_features(result)
    assert tables["features_tuned_val"].splitlines()[2:] == [
        "| ebmeta, one default model | 70.0 | 71.0 | 72.0 | 73.0 | 71.5 |",
        "| TIM | 60.0 → 64.0 | 61.0 → 65.0 | 62.0 → 66.0 | 63.0 → 67.0 | 61.5 → 65.5 |",
    ]
    assert "| TIM | 59.0 → 62.0 | 60.0 → 63.0 |" in tables["features_single_val"]
    assert tables["features_tuned_test"].count("\n") == 2  # the head alone: a peer is shown on both features or not


# names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ebmeta.predict", "ebmeta.prediction.trees.predict"),
        ("ebmeta.likelihood.Given", "ebmeta.likelihood.base.Given"),
        ("ebmeta.TaskBatch.to", "ebmeta.tasks.batch.TaskBatch.to"),
        ("ebmeta.likelihood.LIKELIHOODS", "ebmeta.likelihood.LIKELIHOODS"),
        ("ebmeta.TaskBatch.two", None),
        ("ebmeta.predicts", None),
    ],
)
def test_objects_have_the_names_under_which_they_are_documented(name, wanted):
    assert names.documented(name) == wanted


def test_a_reference_to_what_is_not_there_is_told(tmp_path):
    text = ".. py:function:: ebmeta.prediction.trees.predict\n\n:py:obj:`{}` :py:obj:`{}` :py:obj:`{}`\n"
    (tmp_path / "index.rst").write_text("Test\n====\n\n" + text.format("ebmeta.predict", "ebmeta.load", "ebmeta.lode"))
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.append({str(FOLDER)!r})\nextensions, nitpicky = ['names'], True\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(tmp_path), str(tmp_path / "html")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.strip().splitlines()
    assert len(told) == 1
    assert "reference target not found: ebmeta.lode" in told[0]
    assert 'href="#ebmeta.prediction.trees.predict"' in (tmp_path / "html" / "index.html").read_text()
