"""Sphinx configuration."""

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "ebmeta"
author = "The ebmeta developers"
copyright = author
release = version = installed("ebmeta-bayes")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "comparison",
    "counts",
    "few_classes",
    "groups",
    "growth",
    "docstrings",
    "mathml",
    "names",
    "offline",
    "results",
    "run_blocks",
    "stages",
    "suggestions",
]
exclude_patterns = ["_build", "_generated", "_ext", "examples", "pages"]
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?s:(?!ebmeta\.).*)")]  # words of code, and other packages

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
math_eqref_format = "({number})"

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

copybutton_selector = "div:not(.output) > div.highlight > pre"
copybutton_exclude = ".linenos, .gp, .go"

results_folder = str(HERE.parent / "benchmarks" / "results")
run_blocks_pages = ["tutorial", "groups", "information_bottleneck"]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "parallel": 2,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_math_renderer = "mathml"
html_static_path = ["_static/math", "_static/narrow"]
html_css_files = ["math.css", "narrow.css"]
html_theme = "furo"
html_title = f"ebmeta {release}"


def without_tree(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Leave the tree of all pages out of listings of sources: it takes longer to draw than all else of them."""
    if page.startswith("_modules/"):
        context.pop("toctree", None)


def setup(app: Any) -> None:
    app.connect("html-page-context", without_tree, priority=400)  # before the theme asks for the tree
