"""The role `result`: a number from a JSON file of benchmark results, so that no page copies one by hand.

    {result}`cifar_fs.json:methods.ebmeta.accuracy:.1f`

names a file in `results_folder`, the path of a value in it (keys, or positions in lists, joined by dots) and,
optionally, a format. The build stops where the file or the value is missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxRole

__all__ = ["lookup", "setup"]

LONGEST = 8  # characters of a number that a page shows as it is in the file


def lookup(folder: Path, reference: str) -> str:
    """Return the formatted value that a reference names.

    Args:
        folder: where the JSON files are.
        reference: `file:path` or `file:path:format`.

    Raises:
        ValueError: if the reference is malformed, the file or the value is missing, or the value is
            neither a number nor text, does not take the format, or has many digits and no format.
    """
    name, _, rest = reference.partition(":")
    path, _, form = rest.partition(":")
    if not name or not path:
        raise ValueError(f"result: expected file:path or file:path:format, got {reference!r}")
    file = folder / name
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"result: expected a JSON file {file}: {error}") from None
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"result: {name} has no value at {path!r} (stopped at {key!r})") from None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"result: expected a number or text at {path!r} of {name}, got {type(value).__name__}")
    if isinstance(value, float) and not form and len(str(value)) > LONGEST:
        raise ValueError(
            f"result: expected a format such as ':.2f' at the end of {reference!r}, got {value} without one"
        )
    try:
        return format(value, form)
    except ValueError as error:
        raise ValueError(f"result: {reference!r}: {error}") from None


class ResultRole(SphinxRole):
    """Inline text with a value of a results file."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the value as a text node, and note the file as a dependency of the page."""
        folder = Path(self.config.results_folder)
        self.env.note_dependency(str(folder / self.text.partition(":")[0]))
        try:
            return [nodes.Text(lookup(folder, self.text))], []
        except ValueError as error:
            raise ExtensionError(f"{self.env.docname}: {error}") from None


def setup(app: Any) -> dict[str, bool]:
    """Register the role and its folder."""
    app.add_config_value("results_folder", "", "env", types=(str,))
    app.add_role("result", ResultRole())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
