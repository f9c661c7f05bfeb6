"""Mathematics as MathML, made at build: browsers draw it themselves, without a script and without a network.

A formula that cannot be converted stops the build. Source: MathML Core, W3C.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.errors import ExtensionError
from sphinx.util.math import get_node_equation_number

__all__ = ["convert", "setup"]

_converter = LatexToMathML(annotation=True, fancy_error=False)  # readers may copy the TeX


def convert(tex: str, displayed: bool = False) -> str:
    r"""Return a formula as a `math` element.

    Args:
        tex: LaTeX without delimiters; displayed lines that `\\` parts are aligned at `&`.
        displayed: on lines of its own.

    Raises:
        ExtensionError: if it is no LaTeX that can be converted.
    """
    if displayed and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    try:
        return _converter.convert_with_local_state(tex, displaystyle=displayed)
    except LatexError as error:
        raise ExtensionError(f"mathematics: expected LaTeX, got {tex!r}: {error}") from None


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(translator.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    translator.body.append(f"{convert(node.astext())}</span>")
    raise nodes.SkipNode


def _displayed(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(f"{convert(node.astext(), displayed=True)}</div>\n")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
