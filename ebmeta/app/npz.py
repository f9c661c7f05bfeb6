"""Arrays from npz files of any origin, whose stated size is compared with their content before memory is taken."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

__all__ = ["read_npz"]

MOST = 1100  # bytes that one compressed byte can become; more is several members over the same bytes


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file.

    Args:
        path: the file.

    Returns:
        Arrays by name; of Python objects there are none, so nothing in the file is ever run.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no archive, damaged, encrypted, states more than it holds, or holds Python objects.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
                _check_sizes(members, os.fstat(file.fileno()).st_size)
                return {m.filename.removesuffix(".npy"): _array(archive, m) for m in members}
        except Exception as error:  # a damaged archive fails in as many ways as there are methods of compression
            text = str(error).strip().split("\n")[0][:200]
            raise ValueError(f"{path}: expected a complete npz file, got: {text or type(error).__name__}") from None


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    if len({m.filename for m in members}) < len(members):
        raise ValueError("two arrays of one name")
    stated = sum(m.file_size for m in members)
    if stated > MOST * size:
        raise ValueError("more bytes than its size can hold")
    if sys.platform != "win32" and stated > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise ValueError(f"{stated} bytes, more than the memory of this machine")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename.removesuffix(".npy")
    if member.flag_bits & 1:
        raise ValueError(f"{name!r} is encrypted")
    with archive.open(member) as file:
        dtype, shape, start = _form(file)
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds Python objects (save plain numbers or texts, '' where there is no label)")
    wanted, there = math.prod(shape) * dtype.itemsize, member.file_size - start
    if min(shape, default=0) < 0 or wanted != there:
        raise ValueError(f"{name!r} of shape {shape} and {dtype} takes {wanted} bytes, and there are {there}")
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _form(file: IO[bytes]) -> tuple[np.dtype, tuple[int, ...], int]:
    """Return type and shape that an array states, and the bytes that this takes."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"arrays of format {version}")
    shape, _, dtype = read(file)
    return dtype, shape, file.tell()
