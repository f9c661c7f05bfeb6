"""Run the python blocks of a page at build and show what they print, return and draw.

The blocks of a page in `run_blocks_pages` share one namespace and run in order in a temporary folder. Below a
block stand its printed text and the value of its last expression: a figure for matplotlib axes or figures, its
`repr` for everything else but None. A block that fails stops the build.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

__all__ = ["render", "setup"]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def _run(code: str, where: str, line: int, namespace: dict[str, Any]) -> tuple[str, Any]:
    """Run one block; return what it printed, and the value of its last statement where it is an expression."""
    tree = ast.parse("\n" * line + code, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), namespace)
    return printed.getvalue(), value


def render(text: str, page: str, figures: Path) -> str:
    """Return a page's source with the output of each python block below it.

    Args:
        text: the source, Markdown.
        page: its name, for messages and for the names of figures.
        figures: folder for figures; made where it does not exist.

    Raises:
        ExtensionError: if a block fails.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0

    def output(match: re.Match[str]) -> str:
        nonlocal count
        line = text.count("\n", 0, match.start(1))
        try:
            printed, value = _run(match[1], f"{page}.md", line, namespace)
        except Exception as error:
            raise ExtensionError(f"{page}.md, block at line {line}: {type(error).__name__}: {error}") from error
        parts = [match[0]]
        figure = getattr(value, "figure", value)
        if value is not None and not hasattr(figure, "savefig"):
            printed += f"{value!r}\n"
        if printed.strip():
            parts.append(f"```{{code-block}} text\n:class: output\n\n{printed.rstrip()}\n```")
        if hasattr(figure, "savefig"):
            count += 1
            figures.mkdir(parents=True, exist_ok=True)
            name = f"{page.replace('/', '-')}-{count}.png"
            figure.savefig(figures / name, dpi=150)
            axes = figure.axes[0]
            label = f"{axes.get_ylabel()} against {axes.get_xlabel()}"
            parts.append(f"```{{image}} /{figures.name}/{name}\n:alt: {label}\n:width: 24em\n```")
        return "\n\n".join(parts)

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return BLOCK.sub(output, text)


def _on_source(app: Any, docname: str, source: list[str]) -> None:
    if docname in app.config.run_blocks_pages:
        source[0] = render(source[0], docname, Path(app.srcdir) / "_generated")


def setup(app: Any) -> dict[str, bool]:
    """Register the hook and the list of pages."""
    app.add_config_value("run_blocks_pages", [], "env", types=(list,))
    app.connect("source-read", _on_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
