"""The gallery: short scripts that run as they are, each with a picture; the documentation's build executes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SCRIPTS = sorted((DOCS / "examples").glob("plot_*.py"))
SUBJECTS = ["intents", "digits", "own_encoder", "following_a_run", "shops", "schools"]
SUBJECTS += ["own_likelihood", "spinning_lines", "pyro"]


def test_each_subject_has_a_script_in_this_order():
    assert [path.stem for path in SCRIPTS] == [f"plot_{n}_{name}" for n, name in enumerate(SUBJECTS, 1)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_has_a_title_and_a_picture_and_needs_no_file(path: Path):
    text = path.read_text(encoding="utf-8")
    title, line, empty, *_ = (ast.get_docstring(ast.parse(text), clean=True) or "").splitlines()
    assert line == "=" * len(title)
    assert empty == ""
    assert text.count("\n") <= 110
    assert len(re.findall(r"^# %%$", text, re.M)) >= 2  # cells of the notebook
    assert "plt.subplots(" in text
    assert not re.search(r"EBMETA_DATA|shared/|https?://|fetch_|read_csv\(", text)


def test_the_build_executes_them_and_stops_at_an_error():
    conf: dict[str, object] = {"__file__": str(DOCS / "conf.py")}
    text = (DOCS / "conf.py").read_text(encoding="utf-8")
    exec(text[text.index("sphinx_gallery_conf") : text.index("html_math_renderer")], conf)
    settings = conf["sphinx_gallery_conf"]
    assert settings["abort_on_example_error"]
    assert settings["examples_dirs"] == "examples"
    assert '"sphinx_gallery.gen_gallery"' in text
    assert f"\n{settings['gallery_dirs']}/index\n" in (DOCS / "index.md").read_text(encoding="utf-8")
