"""Files of the command line other than data, namely its configuration, its result and what it may write."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts.config import Toml

from ebmeta.app.errors import as_line

if TYPE_CHECKING:
    from ebmeta.foundation.writing import Kind

__all__ = ["Targets", "check", "configuration", "finish", "remove_old"]

Targets = list[tuple[str, Path, "Kind"]]


def check(
    targets: Targets, json: Path | None, overwrite: bool, configurations: Sequence[Any], **inputs: Path | None
) -> None:
    """Check before the work, not after it, that a result may be written.

    Args:
        targets: flag, path and kind of each file that a command writes.
        json: file of the machine-readable result, or None.
        overwrite: replace files that ebmeta did not write.
        configurations: those of the application.
        inputs: files that the command reads, by the names of its arguments.

    Raises:
        ValueError: if a file is an input, or is written twice.
        OSError: if a file cannot be written, or may not be replaced.
    """
    from ebmeta.foundation.writing import check_files

    read = {name: path for name, path in inputs.items() if path is not None}
    for source in configurations:
        read |= {"--config": Path(source.path)} if isinstance(source, Toml) else {}
    files: Targets = [] if json is None else [("--json", json, "result")]
    check_files([*targets, *files], read, overwrite)


def remove_old(targets: Targets, written: Iterable[Path]) -> None:
    """Remove what an earlier run wrote to files that this run leaves out, so that a folder holds one run alone.

    Args:
        targets: all files that the command may write.
        written: those of this run. A file that ebmeta did not write stays.

    Raises:
        OSError: if a file cannot be removed.
    """
    from ebmeta.foundation.writing import kind_of

    kept = set(written)
    for _, path, kind in targets:
        if path not in kept and path.is_file() and kind_of(path) == kind:
            path.unlink()


def finish(result: dict[str, Any], json: Path | None, overwrite: bool) -> None:
    """Write the machine-readable result, where it is wanted.

    Raises:
        OSError: if it cannot be written.
    """
    from ebmeta.foundation.writing import write_json

    if json is not None:
        write_json(json, result, overwrite)


def configuration(path: Path, commands: Sequence[str]) -> Toml:
    """Read a TOML file with a table per command.

    Raises:
        OSError: if there is none.
        ValueError: if it is not TOML, or has other tables.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a TOML file, found none")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected TOML, got: {as_line(error)}") from None
    if unknown := sorted(set(tables) - set(commands)):
        raise ValueError(f"{path}: expected tables among {', '.join(commands)}, got {', '.join(unknown)}")
    if odd := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise ValueError(f"{path}: expected a table [{odd[0]}], got {tables[odd[0]]!r:.60}")
    return Toml(path, search_parents=False)
