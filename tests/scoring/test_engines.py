"""Engines return results in the order of the items and errors as they are; Dask returns all when a worker dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ebmeta.scoring.engines import sharing


def square(n: int) -> int:
    time.sleep(0.2 if n == 0 else 0)  # the first is the last to end
    return n * n


def process(n: int) -> tuple[int, str]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def fails(n: int) -> int:
    raise ValueError(f"rows: expected some, got {n}")


def dies_once(item: tuple[int, str]) -> int:
    """Return the number of an item; the process of item 3 is killed the first time."""
    n, mark = item
    if n == 3 and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def patience(n: int) -> str:
    from dask import config

    return config.get("distributed.comm.timeouts.connect")


def always_dies(n: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return n


def orderly(mapped) -> None:
    assert list(mapped(square, range(12))) == [n * n for n in range(12)]
    with pytest.raises(ValueError, match="^rows: expected some, got 0$"):
        list(mapped(fails, range(3)))


def test_without_an_engine_this_process_works():
    with sharing(None, 2) as mapped:
        orderly(mapped)
        assert {pid for pid, _ in mapped(process, range(4))} == {os.getpid()}


def elsewhere(mapped) -> None:
    """Results come in the order of the items and errors as they are, from other processes of one thread."""
    orderly(mapped)
    found = set(mapped(process, range(24)))
    assert os.getpid() not in {pid for pid, _ in found}
    assert {threads for _, threads in found} == {"1"}


def ended(engine: str) -> None:
    with sharing(engine, 2) as mapped:
        elsewhere(mapped)
        list(mapped(always_dies, [0]))


def test_joblib_works_in_other_processes_and_tells_of_those_that_died():
    with pytest.raises(ChildProcessError, match="^joblib: expected workers that live, got one that died"):
        ended("joblib")


def test_dask_does_the_work_of_a_killed_worker_again_and_no_item_is_lost_or_doubled(tmp_path):
    pytest.importorskip("distributed")  # whose import sets what Dask is told by default
    from dask import config

    mark, before = tmp_path / "killed", dict(config.get("distributed.comm.timeouts"))
    with sharing("dask", 2) as mapped:
        elsewhere(mapped)
        assert set(mapped(patience, range(4))) == {"300s"}
        assert list(mapped(dies_once, [(n, str(mark)) for n in range(10)])) == list(range(10))
        assert mark.exists()
        with pytest.raises(ChildProcessError, match="^dask: expected workers that live, got some that died: "):
            list(mapped(always_dies, [0]))
    assert config.get("distributed.comm.timeouts") == before
