"""Writes files whole or not at all, and never replaces what ebmeta did not write unless asked.

Content is made in memory and goes to a temporary file in the folder of its target, and then replaces the target. The
temporary file is locked while its writer lives: one without a lock is what a killed process left, and the next write
to the same target removes it.

A file is replaced where it is empty, where ebmeta wrote it and it is of the same kind (`kind_of`), or where the caller
says so (`overwrite`). A device or a pipe, such as /dev/stdout, is written to as it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import xarray as xr

from ebmeta.foundation.extras import need

__all__ = [
    "Kind",
    "check_files",
    "check_target",
    "kind_of",
    "lock",
    "marked",
    "strict",
    "to_json",
    "write",
    "write_json",
    "write_tree",
]

Kind = Literal["table", "tree", "result", "page", "picture", "model", "checkpoint"]

KINDS: tuple[Kind, ...] = ("table", "tree", "result", "page", "picture", "model", "checkpoint")
MAKE_FOLDERS = ("model", "picture", "checkpoint")  # kinds that make a missing folder
NUMBERS = ["mean", "std", "q05", "q50", "q95"]
#: Last columns of the tables of a mixed model.
ENDS = (
    ["std_error", "z", "lower", "upper"],
    ["z", "df", "lower", "upper"],
    ["estimate", "std_error", "lower", "upper"],
    ["mean", "sd", "lower", "upper"],
    ["conditional_sd", "sd", "lower", "upper"],
    ["lower", "upper", "mean_lower", "mean_upper"],
    ["sd", "lower", "upper", "mode"],
    ["response", "pearson", "pit", "quantile"],
)
BESIDE = ("outlier", "set")  # columns beside the probabilities of classes
HEAD = 1 << 16  # bytes at either end of a file that are looked at


def marked(kind: Kind) -> str:
    """Return the words in the metadata of a file by which ebmeta recognises it as its own."""
    return f"ebmeta {kind}"


def kind_of(path: Path) -> Kind | None:
    """Return the kind of file that ebmeta wrote; None for a file of another origin.

    JSON has a member `ebmeta`, npz a comment of the archive, parquet a key `ebmeta` in its schema, netCDF an attribute
    `source`, a page a generator, a picture its software, tensors a member of their header. CSV has no room for such a
    mark: its columns end in `prediction` and the probabilities `p_...` (`outlier` and `set` beside them), or in mean,
    std, q05, q50 and q95, or in those of the tables of a mixed model.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, size - HEAD))
        tail = file.read(HEAD)
    if head[:1] == b"{":
        return _kind_of_json(path)
    places: dict[bytes, bytes] = {b"PK": tail[-64:], b"PAR1": tail, b"\x89HDF": head, b"\x89PNG": head, b"<!DOC": head}
    for magic, mark in places.items():
        if head.startswith(magic):
            return next((kind for kind in KINDS if marked(kind).encode() in mark), None)
    if head[8:9] == b"{":  # safetensors: the length of a JSON header, and the header
        if b'{\\n  \\"format_version\\": 1\\n}' in head:  # a model of the first format, which has no mark
            return "model"
        return next((kind for kind in KINDS if f'"ebmeta":"{kind}"'.encode() in head), None)
    try:
        names = next(csv.reader(io.StringIO(head.decode("utf-8", "ignore"))), [])
    except csv.Error:
        return None
    at = names.index("prediction") if "prediction" in names else len(names)
    chances = [name for name in names[at + 1 :] if name not in BESIDE]
    return (
        "table"
        if names[-5:] == NUMBERS
        or _without_categories(names)[-4:] in ENDS
        or (chances and all(c.startswith("p_") for c in chances))
        else None
    )


def _without_categories(names: list[str]) -> list[str]:
    """Leave out the probabilities of ordered categories, `p(...)`, which end a table of predictions."""
    return [name for name in names if not (name.startswith("p(") and name.endswith(")"))]


def _kind_of_json(path: Path) -> Kind | None:
    try:
        stored = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if isinstance(stored.get("ebmeta"), str):
        return next((kind for kind in KINDS if kind == stored["ebmeta"]), None)
    # Model folders of the first format have no mark.
    return "model" if {"format_version", "config", "embedder"} <= stored.keys() else None


def check_target(path: Path, kind: Kind, overwrite: bool = False) -> None:
    """Check before the work, not after it, that a file can be written and may be replaced.

    Args:
        path: the file.
        kind: what will be written.
        overwrite: replace whatever is there.

    Raises:
        MissingPackageError: if a package that writes it is not installed.
        OSError: if there is no folder for it, the file is a folder or read-only, or it is not a `kind` that ebmeta
            wrote and `overwrite` is false.
    """
    if path.suffix == ".parquet" and kind == "table":
        need("pyarrow")
    target = Path(os.path.realpath(path))
    try:
        mode, size = (status := os.stat(_existing(path))).st_mode, status.st_size
    except FileNotFoundError:
        folder = target.parent
        while kind in MAKE_FOLDERS and not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{path}: expected an existing folder {path.parent}, found none") from None
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{path}: expected a folder that can be written to, got {folder}") from None
        return
    except NotADirectoryError:
        raise NotADirectoryError(f"{path}: expected a folder {path.parent}, got a file") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path}: expected a file to write to, got a folder")
    if not os.access(_existing(path), os.W_OK):
        raise PermissionError(f"{path}: expected a file that can be written to, got a read-only one")
    if size and not overwrite and _stream(path) is None and (found := kind_of(target)) != kind:
        got = "a file that ebmeta did not write" if found is None else f"a {found}"
        raise FileExistsError(
            f"{path}: expected a new file or a {kind} written by ebmeta, got {got}; choose another name, or say "
            "overwrite (--overwrite) to replace it"
        )


def _existing(path: Path) -> Path:
    """Return a path by which the system finds the file that `write` would replace, if there is one.

    It writes to the end of all links, where `absent/../file` is `file`; a stream is found by its own name alone.
    """
    return path if path.exists() else Path(os.path.realpath(path))


def check_files(targets: Iterable[tuple[str, Path, Kind]], inputs: Mapping[str, Path], overwrite: bool = False) -> None:
    """Check before a command starts that no file that it will write is an input or is written twice.

    Args:
        targets: what names each file (a flag), the file, and what will be written.
        inputs: files that the command reads, by what names them; a folder stands for the files in it.
        overwrite: replace files of another origin; never inputs.

    Raises:
        ValueError: if a file is an input, by whatever path or link, lies in the folder of a model that it is no
            part of, or is written twice.
        OSError: as for `check_target`.
    """
    read: list[tuple[str, Path]] = []
    for name, path in inputs.items():
        read += [(name, path)] if not path.is_dir() else [(name, p) for p in path.iterdir() if p.is_file()]
    targets = list(targets)
    models = {Path(os.path.realpath(path)).parent for _, path, kind in targets if kind == "model"}
    taken: dict[str, str] = {}
    for flag, path, kind in targets:
        for name, other in read:
            place = _existing(path)
            if place.exists() and other.exists() and os.path.samefile(place, other) and place.is_file():
                raise ValueError(f"{flag}: expected a file that is no input, got {path}, which is {name}")
        check_target(path, kind, overwrite)
        target = os.path.realpath(path)
        folder = Path(target).parent
        if kind != "model" and _stream(path) is None and (folder in models or _is_model(folder)):
            raise ValueError(f"{flag}: expected a file outside the folder of a model, got {path}")
        if target in taken and _stream(path) is None:
            raise ValueError(f"{flag}: expected a file of its own, got {path}, which {taken[target]} writes too")
        taken[target] = flag


def _is_model(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and kind_of(config) == "model"


def _stream(path: Path) -> Path | int | None:
    """Return a file that takes content in order: a device, a pipe, or a redirected standard output."""
    try:
        status = os.stat(path)
        ours = [fd for fd in (1, 2) if os.path.samestat(status, os.fstat(fd))]
    except OSError:
        return None
    return ours[0] if ours else None if stat.S_ISREG(status.st_mode) else path


def write(path: str | os.PathLike[str], content: bytes | memoryview, kind: Kind, overwrite: bool = False) -> None:
    """Write a file, whole or not at all.

    Args:
        path: the file; where it is a link, the file that it points to.
        content: all its bytes, with the mark of `kind`.
        kind: what they are.
        overwrite: replace whatever is there.

    Raises:
        OSError: as for `check_target`, or if the file cannot be written; what was there before is still there.
    """
    path = Path(path)
    check_target(path, kind, overwrite)
    try:
        if (stream := _stream(path)) is not None:
            sys.stdout.flush()
            with open(stream, "wb", closefd=not isinstance(stream, int)) as file:
                file.write(content)
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise OSError(error.errno, f"{path}: expected to write {len(content)} bytes, got: {error.strerror}") from None


def lock(descriptor: int, wait: bool = True) -> None:
    """Lock an open file or folder against other writers of ebmeta until it is closed or the process ends.

    Args:
        descriptor: of the open file.
        wait: wait for the present holder.

    Raises:
        OSError: if somebody holds it and `wait` is false.
    """
    if sys.platform != "win32":  # where an open file cannot be removed or replaced anyway
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _replace(target: Path, content: bytes | memoryview) -> None:
    start = f".{hashlib.sha256(target.name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}."
    for orphan in target.parent.glob(f"{start}*.tmp"):
        _clear(orphan)
    temporary, file = _temporary(target.with_name(start))
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            if sys.platform == "win32":  # where an open file cannot be moved
                file.close()
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sys.platform != "win32":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _temporary(start: Path) -> tuple[Path, BinaryIO]:
    """Open a new file under a name of its own, locked."""
    while True:
        path = start.with_name(f"{start.name}{secrets.token_hex(8)}.tmp")
        file = open(path, "xb")  # noqa: SIM115
        lock(file.fileno())
        if path.exists():
            return path, file
        file.close()  # another writer took it for an orphan before it was locked


def _clear(orphan: Path) -> None:
    """Remove a temporary file whose writer is gone."""
    try:
        with open(orphan, "rb") as file:
            lock(file.fileno(), wait=False)
            orphan.unlink()
    except OSError:  # its writer lives, or has just finished
        return


def to_json(value: Any) -> str:
    """Return strict JSON; NumPy numbers become plain ones."""
    return json.dumps(value, indent=2, default=lambda number: number.item(), allow_nan=False)


def strict(value: Any) -> Any:
    """Turn numbers that JSON does not know (an interval of one task) into null, and tuples into lists.

    Examples:
        >>> strict({"half_width": [float("inf"), 1.0]})
        {'half_width': [None, 1.0]}
    """
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, result: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write a machine-readable result.

    Raises:
        OSError: as for `write`.
    """
    text = to_json({"ebmeta": "result", **strict(dict(result))}) + "\n"
    write(path, text.encode("utf-8", "backslashreplace"), "result", overwrite)


def write_tree(path: Path, tree: xr.DataTree, overwrite: bool = False) -> None:
    """Write a tree of labelled arrays as netCDF.

    Raises:
        OSError: as for `write`.
    """
    copy = tree.copy()
    copy.attrs = {**tree.attrs, "source": marked("tree")}
    # In memory first: on a full disk HDF5 ends the process.
    with copy.to_netcdf(engine="h5netcdf") as whole:
        write(path, whole, "tree", overwrite)
