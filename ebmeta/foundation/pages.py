"""Pages of commands, each one self-contained file, from templates that share their head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["render"]


def render(template: Path, page: Any, **more: Any) -> str:
    """Return a page, which needs no other file or address.

    Args:
        template: a file that fills the blocks of `base.html`, which stands beside this module.
        page: what it shows, with a `headline` and `sentences`.
        more: other names that the template uses.
    """
    import jinja2

    folders = [template.parent, Path(__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template.name).render(page=page, **more)
