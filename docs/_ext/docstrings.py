r"""Let docstrings use Markdown's mathematics: `$...$` inline and `$$...$$` displayed.

Both become their reST forms before Sphinx reads a docstring. Doctests, literal blocks and text in backticks are
left as they are; an indented block after a paragraph is a literal block, as in Markdown. Simple tables are laid
out anew, since a longer cell would cross its column's border.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["convert", "setup"]

TOKEN = re.compile(r"(``.+?``|`[^`]+`|\$[^$`]+\$)", re.S)
BORDER = re.compile(r"^\s*=+( +=+)+\s*$")


def _inline(text: str) -> str:
    """Replace inline mathematics outside of backticks."""
    pieces = TOKEN.split(text)
    for k in range(1, len(pieces), 2):
        if pieces[k].startswith("$"):
            before = "\\ " if re.search(r"\w\Z", pieces[k - 1]) else ""
            after = "\\ " if re.match(r"\w", pieces[k + 1]) else ""
            pieces[k] = f"{before}:math:`{pieces[k][1:-1]}`{after}"
    return "".join(pieces)


def _table(rows: list[str]) -> list[str]:
    """Lay out a simple table with converted cells; `rows` runs from its first border to its last."""
    starts = [m.start() for m in re.finditer(r"=+", rows[0])]
    stops = [*starts[1:], None]
    cells = [
        None if BORDER.match(row) else [_inline(row[a:b].strip()) for a, b in zip(starts, stops, strict=True)]
        for row in rows
    ]
    widths = [max(len(row[k]) for row in cells if row) for k in range(len(starts))]
    indent = " " * starts[0]
    out = []
    for row in cells:
        parts = ["=" * w for w in widths] if row is None else [c.ljust(w) for c, w in zip(row, widths, strict=True)]
        out.append((indent + "  ".join(parts)).rstrip())
    return out


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _after_text(lines: list[str], k: int) -> bool:
    """Whether line k follows a blank line and a paragraph of plain text: then its indentation means code."""
    before = [line for line in lines[:k] if line.strip()]
    if not before or lines[k - 1].strip():
        return False
    return not before[-1].startswith((" ", "..", ":", "-", "*", ">>>"))


def _end_of_mathematics(lines: list[str], start: int) -> int:
    stripped = lines[start].strip()
    for k in range(start, len(lines)):
        if lines[k].rstrip().endswith("$$") and (k > start or len(stripped) > 2):
            return k + 1
    raise ValueError(f"docstring: expected a closing $$ after {stripped!r}")


def _end_of_table(lines: list[str], start: int) -> int:
    borders = [k for k in range(start, len(lines)) if BORDER.match(lines[k])]
    if len(borders) < 3:
        raise ValueError(f"docstring: expected a table of three borders after {lines[start].strip()!r}")
    return borders[2] + 1


def convert(lines: list[str]) -> list[str]:
    r"""Return a docstring's lines with mathematics in reST.

    Args:
        lines: the docstring.

    Raises:
        ValueError: if displayed mathematics or a table does not end.

    Examples:
        >>> convert(["The mean $m$ of `q`."])
        ['The mean :math:`m` of `q`.']
        >>> convert(["$$ a = b $$"])
        ['', '.. math::', '', '   a = b', '']
    """
    out: list[str] = []
    plain: list[str] = []

    def flush() -> None:
        out.extend(_inline("\n".join(plain)).split("\n") if plain else [])
        plain.clear()

    k = 0
    while k < len(lines):
        line, start = lines[k], k
        stripped = line.strip()
        if stripped.startswith(">>>"):
            flush()
            while k < len(lines) and lines[k].strip():
                k += 1
            out.extend(lines[start:k])
        elif stripped.startswith("$$"):
            flush()
            k = _end_of_mathematics(lines, start)
            body = "\n".join(lines[start:k]).strip()[2:-2].strip("\n").split("\n")
            indent = " " * _indent(line)
            out += ["", f"{indent}.. math::", "", *(f"{indent}   {b.strip()}" for b in body if b.strip()), ""]
        elif BORDER.match(line):
            flush()
            k = _end_of_table(lines, start)
            out.extend(_table(lines[start:k]))
        elif stripped.endswith("::"):
            plain.append(line)
            flush()
            k += 1
            while k < len(lines) and (not lines[k].strip() or _indent(lines[k]) > _indent(line)):
                out.append(lines[k])
                k += 1
        elif stripped and _indent(line) >= 4 and _after_text(lines, k):
            flush()
            while k < len(lines) and (not lines[k].strip() or _indent(lines[k]) >= 4):
                k += 1
            out += ["::", "", *lines[start:k]]
        else:
            plain.append(line)
            if not stripped:
                flush()
            k += 1
    flush()
    return out


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = convert(lines)


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the metadata requests that scikit-learn adds to every estimator."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Any) -> dict[str, bool]:
    """Register the hooks; that for docstrings runs after napoleon's."""
    app.connect("autodoc-process-docstring", _process, priority=600)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
