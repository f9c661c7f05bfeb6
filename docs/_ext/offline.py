"""Fail a build whose pages would ask the network for anything: scripts, styles, fonts, images, frames.

Links that a reader may follow are no requests. The scan reads what is written in pages and style sheets.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

__all__ = ["requests", "setup"]

LOADED = {"src", "srcset", "poster", "data", "background"}  # attributes that load, in whatever element
LINKS = {"a", "area", "base"}  # their `href` is followed by readers alone
RELATIONS = {"canonical", "alternate", "author", "help", "index", "license", "next", "prev", "search", "top"}
STYLE = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")
OUTSIDE = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.I)


class _Page(HTMLParser):
    """Collects the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.style = tag == "style"
        given = {name: value or "" for name, value in attrs}
        idle = tag in LINKS or (tag == "link" and set(given.get("rel", "").split()) <= RELATIONS)
        for name, value in given.items():
            if name in LOADED:
                self.found += [part.split()[0] for part in value.split(", ") if part.strip()]
            elif name in ("href", "xlink:href") and not idle:
                self.found.append(value)
            elif name == "style":
                self.found += _styles(value)

    def handle_endtag(self, tag: str) -> None:
        self.style = False

    def handle_data(self, data: str) -> None:
        if self.style:
            self.found += _styles(data)


def _styles(text: str) -> list[str]:
    return [a or b for a, b in STYLE.findall(text)]


def requests(text: str, kind: str = ".html") -> list[str]:
    """Return the network addresses that a page or a style sheet loads when it is opened.

    Args:
        text: its source.
        kind: ".html" or ".css".
    """
    if kind == ".css":
        found = _styles(text)
    else:
        page = _Page()
        page.feed(text)
        page.close()
        found = page.found
    return [address for address in found if OUTSIDE.match(address)]


def _check(app: Any, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in (".html", ".css"):
            found = requests(path.read_text(encoding="utf-8"), path.suffix)
            if found:
                raise ExtensionError(f"{path}: expected nothing from the network, got {', '.join(found)}")


def setup(app: Any) -> dict[str, bool]:
    """Scan what was built, at the end of every build."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
