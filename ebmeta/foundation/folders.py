"""Folders of a model with tensors in safetensors and everything else in JSON, each replaced as one.

The new `config.json` tells of the old tensors too (`previous`) until the new ones are in place. So a reader at any
moment, also after the writer was killed, finds one whole model, old or new. Writers wait for one another.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmeta.foundation.tensor_files import TensorFile, checksum, read_tensors, write_tensors
from ebmeta.foundation.writing import Kind, check_target, lock, to_json, write

__all__ = ["checksum_of", "kind_in", "model_files", "read_folder", "write_folder"]

FORMAT_VERSION = 2
ATTEMPTS = 1000  # of reading a folder that writers replace all the while

Explain = Callable[[Path, Mapping[str, Any], Mapping[str, Tensor]], str | None]


def model_files(folder: Path) -> dict[Path, Kind]:
    """Return the files of a model folder and what they are."""
    return {folder / "config.json": "model", folder / "model.safetensors": "model"}


def write_folder(folder: Path, entry: Mapping[str, Any], tensors: Mapping[str, Tensor], overwrite: bool) -> None:
    """Write a model as a whole or not at all; it replaces a model that is there.

    Args:
        folder: where to; made where it does not exist.
        entry: what `config.json` says, with a member `config` of the arguments.
        tensors: all finite.
        overwrite: replace also files that ebmeta did not write.

    Raises:
        OSError: if the folder cannot be written, or holds files of these names that are not of ebmeta.
        ValueError: if a number is not finite.
    """
    _check_finite(tensors, "save")
    header = {"format_version": FORMAT_VERSION}
    entry = {"format_version": FORMAT_VERSION, **entry, "tensors": checksum(tensors, header)}
    entry["checksum"] = checksum_of(entry)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for path, kind in model_files(folder).items():
            check_target(path, kind, overwrite)
        if old := _present(folder):
            _write_config(folder, entry | {"previous": old}, overwrite)
        else:
            _write_config(folder, entry, overwrite)
        write_tensors(folder / "model.safetensors", tensors, header, "model", overwrite)
        if old:
            _write_config(folder, entry, overwrite)


def _write_config(folder: Path, stored: Mapping[str, Any], overwrite: bool) -> None:
    text = to_json({"ebmeta": "model", **stored}) + "\n"
    write(folder / "config.json", text.encode(), "model", overwrite)


def checksum_of(entry: Mapping[str, Any]) -> str:
    """Return the checksum of what `config.json` says, without the parts that are about the writing itself."""
    content = {k: v for k, v in entry.items() if k not in ("ebmeta", "checksum", "previous")}
    text = json.dumps(content, sort_keys=True, default=lambda number: number.item())
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other writers of a folder waiting."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _present(folder: Path) -> dict[str, Any] | None:
    """Return what `config.json` says of the tensors in its folder; None where there is no whole model."""
    try:
        _, stored = _read_config(folder)
        return _entry(stored, read_tensors(folder / "model.safetensors", "model"))
    except (OSError, ValueError):
        return None


def _entry(stored: dict[str, Any], file: TensorFile) -> dict[str, Any] | None:
    """Return the part of `config.json` that is about a file of tensors; None where there is none."""
    for part in (stored, stored.get("previous")):
        if isinstance(part, dict) and part.get("format_version") == file.header.get("format_version"):
            if part["format_version"] == 1 and file.checksum is None:  # the first format has no checksums
                return {k: v for k, v in part.items() if k != "previous"}
            if file.checksum is not None and part.get("tensors") == file.checksum:
                return {k: v for k, v in part.items() if k != "previous"}
    return None


def _read_config(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: expected a model folder with config.json, found none")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version, _ = stored["format_version"], dict(stored["config"] or {})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the JSON of an ebmeta model, got: {error!r:.200}") from None
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: expected a format_version of 1 or more, got {version!r:.40}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format version {FORMAT_VERSION} or older, got {version}; a newer ebmeta wrote it"
        )
    return path, stored


def kind_in(folder: Path) -> str:
    """Return the kind of model that a folder says it holds.

    Raises:
        OSError: if the folder or its `config.json` does not exist.
        ValueError: if that is none, or was written by a newer version.
    """
    _, stored = _read_config(folder)
    return str(dict(stored["config"] or {}).get("kind"))


def read_folder(
    folder: Path, explain: Explain, check: Callable[[Path, Mapping[str, Any]], None]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read one whole model, also while others write to the folder.

    Args:
        folder: what `write_folder` wrote.
        explain: says how the tensors of a file differ from those that `config.json` asks for; None where they do not.
        check: raises `ValueError` where the arguments are not those of a model.

    Returns:
        What `config.json` says, and the tensors.

    Raises:
        OSError: if the folder or one of its files does not exist.
        ValueError: if a file is truncated, changed, of another model, or written by a newer version.
    """
    files = list(model_files(folder))
    for _ in range(ATTEMPTS):
        before = [_identity(path) for path in files]
        path, stored = _read_config(folder)
        file = read_tensors(folder / "model.safetensors", "model")
        entry = _entry(stored, file)
        if entry is not None:
            break
        if before == [_identity(path) for path in files]:
            difference = explain(path, stored, file.tensors)
            wanted = difference or "expected the tensors that config.json was written with, got others"
            raise ValueError(f"{folder}: {wanted}: another model")
    else:
        raise ValueError(f"{folder}: expected a folder that is left alone for a moment, got one written all the time")
    check(path, dict(entry["config"] or {}))
    if entry["format_version"] > 1 and entry.get("checksum") != checksum_of(entry):
        raise ValueError(f"{path}: expected what was written, got a file that was changed or damaged")
    _check_finite(file.tensors, str(folder / "model.safetensors"))
    return entry, file.tensors


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = value[~torch.isfinite(value)].flatten()[0].item()
            raise ValueError(f"{source}: expected finite numbers in {name}, got {bad}")
