"""References to the package by any of its names: `ebmeta.load` is documented as `ebmeta.saved.loading.load`.

A name that Sphinx does not find is imported. What is there under another name is linked where that is documented, and
stays plain text where it is not (a type variable, a private class). What is not there remains unfound, which a build
with `-n` tells of.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["documented", "setup"]


def documented(name: str) -> str | None:
    """Return the name under which an object of the package would be documented, or None where there is no such object.

    Args:
        name: from the package on, with dots.

    Examples:
        >>> documented("ebmeta.load")
        'ebmeta.saved.loading.load'
        >>> documented("ebmeta.FewShotClassifier.predict")
        'ebmeta.estimators.classifier.FewShotClassifier.predict'
        >>> documented("ebmeta.lode")
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return None
            found = getattr(found, attribute)
        if not hasattr(found, "__qualname__"):
            return name
        return f"{found.__module__}.{found.__qualname__}"
    return None


def _resolve(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Return a reference to what is documented under another name, plain text for what is not, or None."""
    name = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not name.startswith("ebmeta."):
        return None
    real = documented(name)
    if real is None:
        return None
    place = node.get("refdoc", env.docname)
    return env.domains["py"].resolve_xref(env, place, app.builder, "obj", real, node, text) or text


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
