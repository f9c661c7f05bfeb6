"""Rows of arrays and of files are the same rows, and large files do not stay resident."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ebmeta.foundation import memory_maps
from ebmeta.foundation.memory_maps import take

ROWS = np.array([7, 0, 7, 4095])
WANTED = np.arange(4096.0 * 64).reshape(4096, 64)


def resident(path: Path) -> int:
    """Return how many KB of a file the process has mapped."""
    text = Path("/proc/self/smaps").read_text().split(str(path))
    return sum(int(re.search(r"Rss: +(\d+) kB", part)[1]) for part in text[1:])


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_maps, "LARGE", 1 << 20)
    WANTED.tofile(tmp_path / "rows")
    return tmp_path / "rows"


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_rows_of_a_file_are_those_of_the_array(path, mode, monkeypatch):
    monkeypatch.setattr(memory_maps, "AT_ONCE", 3)
    mapped = np.memmap(path, WANTED.dtype, mode, shape=WANTED.shape)
    for array, wanted in ((mapped, WANTED), (mapped[1:], WANTED[1:]), (np.asarray(mapped), WANTED)):
        rows = ROWS - 1 if array is not mapped and len(array) < 4096 else ROWS
        rows = rows.clip(0)
        np.testing.assert_array_equal(take(array, rows), wanted[rows])
        assert not isinstance(take(array, rows), np.memmap)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_large_files_do_not_stay_resident_and_small_ones_may(path, monkeypatch):
    mapped = np.memmap(path, WANTED.dtype, "r", shape=WANTED.shape)
    take(mapped, np.arange(4096))
    assert resident(path) == 0
    monkeypatch.setattr(memory_maps, "LARGE", 1 << 30)
    take(mapped, np.arange(4096))
    assert resident(path) >= WANTED.nbytes // 1024


def test_changes_that_no_file_has_are_kept(path):
    mapped = np.memmap(path, WANTED.dtype, "c", shape=WANTED.shape)
    mapped[3] = -1.0
    assert take(mapped, np.array([3, 4]))[:, 0].tolist() == [-1.0, WANTED[4, 0]]
    assert mapped[3, 0] == -1.0
    writable = np.memmap(path, WANTED.dtype, "r+", shape=WANTED.shape)
    writable[3] = -2.0
    assert take(writable, np.array([3, 3]))[:, 0].tolist() == [-2.0, -2.0]
    assert writable[3, 0] == -2.0
