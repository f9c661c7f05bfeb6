"""Built pages: mathematics as MathML, and not one request to the network."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import look

from ebmeta.diagnostics import Check, Diagnosis

pytest.importorskip("sphinx", reason="the documentation's extensions need Sphinx")
pytest.importorskip("math_core", reason="the documentation's extensions need math-core")

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS / "_ext"))  # last: `counts` is a script of benchmarks too
mathml, offline = (importlib.import_module(name) for name in ("mathml", "offline"))

PAGE = """# A page

Of $x_i \\in \\mathbb R$, with {eq}`eq-mean`:

$$ \\bar x = \\frac1n \\sum_{i=1}^n x_i, \\qquad \\big[ \\bar x \\big] = 1 $$ (eq-mean)

$$
a &= b \\\\
c &= d
$$
"""


def bare(markup: str) -> str:
    """Leave out the annotation, in which the TeX stands, and the wrapper that it needs."""
    return re.sub(r"</?semantics>|<annotation.*?</annotation>", "", markup)


def build(folder: Path, page: str = PAGE) -> subprocess.CompletedProcess[str]:
    """Build one page as the documentation is built: its theme, its mathematics, its scan."""
    config = (DOCS / "conf.py").read_text()
    theme = re.findall(r"^(?:html_(?:math|static|css|theme)|math_|myst_enable)\w* = .*", config, re.M)
    assert len(theme) == 6
    folder.mkdir()
    (folder / "_static").symlink_to(DOCS / "_static")
    (folder / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(DOCS / '_ext')!r})\n"
        "extensions = ['myst_parser', 'sphinx_copybutton', 'mathml', 'offline']\n" + "\n".join(theme)
    )
    (folder / "index.md").write_text(page)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(folder), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("tex", "wanted"),
    [
        (r"x_i", "<math><msub><mi>x</mi><mi>i</mi></msub></math>"),
        (r"\frac12", "<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math>"),
        (r"\mathbb R", "<math><mi>ℝ</mi></math>"),
        (r"a < b", "<math><mrow><mi>a</mi><mo>&lt;</mo><mi>b</mi></mrow></math>"),
    ],
)
def test_mathematics(tex, wanted):
    assert bare(mathml.convert(tex)) == wanted
    assert f'<annotation encoding="application/x-tex">{tex.replace("<", "&lt;")}</annotation>' in mathml.convert(tex)


def test_lines_are_aligned():
    two = bare(mathml.convert(r"a &= b \\ c &= d", displayed=True))
    assert two == bare(mathml.convert(r"\begin{aligned}a &= b \\ c &= d\end{aligned}", displayed=True))
    assert two.count("<mtr>") == 2


@pytest.mark.parametrize("tex", [r"\undefined x", r"\frac12}", r"{x"])
def test_what_is_no_mathematics_is_refused(tex):
    with pytest.raises(mathml.ExtensionError, match="mathematics: expected LaTeX, got"):
        mathml.convert(tex)


OUTSIDE = [
    '<script defer src="https://cdn.example/mathjax.js"></script>',
    '<link rel="stylesheet" href="//cdn.example/a.css">',
    '<link rel="preload icon" href="http://cdn.example/a.png">',
    '<img src="a.png" srcset="a.png 1x, https://cdn.example/b.png 2x">',
    '<svg><image href="https://cdn.example/a.png"/><use xlink:href="https://cdn.example/a.svg#b"/></svg>',
    "<style>@font-face { src: url( 'https://cdn.example/a.woff2') }</style>",
    '<style>@import "https://cdn.example/a.css";</style>',
    '<p style="background: url(HTTPS://cdn.example/a.png)">x</p>',
    '<iframe src="https://cdn.example"></iframe>',
    '<object data="https://cdn.example/a.pdf"></object>',
]


@pytest.mark.parametrize("markup", OUTSIDE)
def test_requests_are_found(markup):
    assert offline.requests(f"<html><body>{markup}</body></html>")
    assert offline.requests("b { background: url(https://cdn.example/a.png) }", ".css") == ["https://cdn.example/a.png"]


def test_links_and_own_files_are_no_requests():
    assert not offline.requests(
        '<link rel="canonical" href="https://ebmeta.example"><link rel="stylesheet" href="_static/a.css">'
        '<a href="https://example.org">x</a><img src="data:image/png;base64,aa//bb"><script>"https://a"</script>'
        '<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg><style>p { src: url(a.woff2) }</style>'
        "<p>url(https://example.org) is text</p>"
    )


def test_a_diagnosis_asks_the_network_for_nothing():
    page = Diagnosis((Check("a", "b", "good", "c", ""),), {"likelihood": "normal"}, 2, 0.0).to_html()
    assert not offline.requests(page)
    assert offline.requests(page.replace("<body", "<body background='https://cdn.example/a.png'"))


def test_a_build_stops_at_a_request(tmp_path):
    done = build(tmp_path / "page", "# A page\n\n![a picture](https://cdn.example/a.png)\n")
    assert done.returncode != 0
    assert "expected nothing from the network, got https://cdn.example/a.png" in done.stderr


@pytest.mark.parametrize("width", [360, 1200])
def test_a_page_in_a_browser(tmp_path, width):
    """The browser loads the page and its font from the disk, draws the formulas, and numbers them."""
    done = build(tmp_path / "page")
    assert done.returncode == 0, done.stderr
    markup = (tmp_path / "page" / "out" / "index.html").read_text()
    assert markup.count("<math") == 3
    assert not offline.requests(markup)
    seen = look(tmp_path / "page" / "out" / "index.html", width)
    assert seen.requests == []
    assert seen.errors == []
    assert any(url.endswith("/_static/STIXTwoMath.woff2") for url in seen.files)
    assert "(1)" in seen.text
