"""Would the tests notice? Each mutant is one wrong line in the package; its module's tests have to fail.

    python benchmarks/mutants.py                 all of them, about 30 minutes
    python benchmarks/mutants.py mixture.py      those of files whose name ends so; the result keeps the others

The table is mutants.toml: for each file its tests, in order, and pairs of a text that stands in the file once and what
takes its place; a third entry says why a mutant is equivalent. Works on a copy of the tree. The test that killed a
mutant in the last run, results/mutants.json, is tried first; at the end all tests that killed have to pass without a
mutant. Packages of others are imported once, and every run of tests is a fork of this process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas  # noqa: F401  imported before the forks, as are those below
import pyro  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch
import xarray  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
FAILED = re.compile(r"(?:FAILED|ERROR) ([^\[ ]*(?:\[.*?\](?= - |$))?)")  # and what follows is the message
CPU_SECONDS = 900  # a mutant that loops for ever is killed by the system, and so by the tests


class Mutant(NamedTuple):
    """One wrong line.

    Args:
        file: the file, from the root.
        old: a text that stands in the file once.
        new: what takes its place.
        tests: files of tests (or of doctests), in order.
        equivalent: why no test can tell, where none can.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equivalent: str = ""

    def apply(self, text: str) -> str:
        """Return the file's text with the wrong line.

        Raises:
            ValueError: if the old text does not stand there once.
        """
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.file}: expected once, got {text.count(self.old)} times: {self.old!r}")
        return text.replace(self.old, self.new)


def read() -> list[Mutant]:
    """Return the table."""
    table: dict[str, dict[str, Any]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return [
        Mutant(file, *row[:2], tuple(entry["tests"]), *row[2:])
        for file, entry in table.items()
        for row in entry["mutants"]
    ]


def copy(folder: Path) -> Path:
    """Copy the tree that git knows of, and return its root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def run(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests up to the first failure; return the exit status and the failed test."""
    assert "ebmeta" not in sys.modules  # a fork imports that of the copy
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            status = 70
            try:
                status = _child(root, tests, output.fileno())
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        lines = output.read().splitlines()
    failed = [match[1] for line in lines if (match := FAILED.match(line))]
    return status, failed[0] if failed else " ".join(lines[-3:])[-200:]


def _child(root: Path, tests: Sequence[str], output: int) -> int:
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    os.environ["PYTHONPATH"] = str(root)
    os.environ.setdefault("EBMETA_DATA", str(ROOT.parent / "shared" / "data"))
    sys.path[0] = str(root)
    os.chdir(root)
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def judge(root: Path, mutant: Mutant, last: str | None, stamp: int) -> tuple[bool, str]:
    """Return whether the tests notice a mutant, and which of them does."""
    path = root / mutant.file
    right = path.read_text(encoding="utf-8")

    def put(text: str, time: int) -> None:
        path.write_text(text, encoding="utf-8")
        os.utime(path, (time, time))  # compiled files are told apart by whole seconds

    put(mutant.apply(right), 2 * stamp)
    status, failed = run(root, [last]) if last else (0, "")
    if status in (0, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        status, failed = run(root, mutant.tests)
    put(right, 2 * stamp + 1)
    return status != 0, failed


def main() -> None:
    """Run the tests on every mutant."""
    torch.set_num_threads(1)  # before a fork: threads do not survive it
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="ends of names of files; all by default")
    parser.add_argument("--results", type=Path, help="file of the result")
    options = parser.parse_args()
    chosen = [m for m in read() if not options.files or m.file.endswith(tuple(options.files))]
    if not chosen:
        parser.error(f"files: expected ends of names in {TABLE.name}, got {' '.join(options.files)}")
    results: Path = options.results or ROOT / "benchmarks" / "results" / "mutants.json"
    each = json.loads(results.read_text())["each"] if results.exists() else {}
    before = [(file, *row) for file, rows in each.items() for row in rows]
    last = {tuple(mutant): by for *mutant, verdict, by in before if verdict == "killed"}
    found: list[tuple[str, ...]] = []  # file, old, new, verdict, and the test that failed or why none can
    with tempfile.TemporaryDirectory() as name:
        root = copy(Path(name))
        for stamp, mutant in enumerate(chosen, 1_000_000):
            killed, failed = judge(root, mutant, last.get(mutant[:3]), stamp)
            verdict = "killed" if killed else "equivalent" if mutant.equivalent else "survived"
            found.append((*mutant[:3], verdict, failed if killed else mutant.equivalent))
            print(f"{verdict}: {mutant.file}: {mutant.old} -> {mutant.new}  {failed if killed else ''}", flush=True)
        status, failed = run(root, sorted({by for *_, verdict, by in found if verdict == "killed"}))
        if status:
            raise SystemExit(f"a test fails without a mutant too: {failed}")
    anew = {mutant[:3] for mutant in found}
    kept = {mutant[:3]: mutant for mutant in (*before, *found)}
    found = [kept[mutant[:3]] for mutant in read() if mutant[:3] in kept]
    print(f"{len(anew)} run, {len(found) - len(anew)} of an earlier run")
    counts = {v: sum(verdict == v for *_, verdict, _ in found) for v in ("killed", "equivalent", "survived")}
    print(counts)
    from lib.common import write  # imports the package

    rows = {file: [row for name, *row in found if name == file] for file, *_ in found}
    write(str(results), {"mutants": len(found), **counts, "each": rows})
    raise SystemExit(counts["survived"] > 0)


if __name__ == "__main__":
    main()
