"""Pages of commands, each one self-contained file, from templates that share their head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["render"]


def render(template: str, page: Any) -> str:
    """Return a page, which needs no other file or address.

    Args:
        template: name of a file beside this one, which fills the blocks of `base.html`.
        page: what it shows, with a `headline`.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(page=page)
