"""Would the tests notice? Each mutant is one wrong line in the package; its module's tests have to fail.

    python benchmarks/mutants.py                 all of them, about 20 minutes
    python benchmarks/mutants.py mixture.py      those of files whose name ends so

The table is mutants.toml: for each file its tests, in order, and pairs of a text that stands in the file once and what
takes its place; a third entry says why a mutant is equivalent. Works on a copy of the tree, where the tests have to pass
first, and writes results/mutants.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from common import write

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
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


def run(root: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """Run tests up to the first failure; return the exit status and the failed test."""
    data = os.environ.get("EBMETA_DATA", str(ROOT.parent / "shared" / "data"))
    settings = {"PYTHONPATH": str(root), "EBMETA_DATA": data, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS)),
    )
    lines = [line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, lines[0] if lines else done.stdout[-300:]


def main() -> None:
    """Run the tests on every mutant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="ends of names of files; all by default")
    parser.add_argument("--results", type=Path, help="file of the result")
    options = parser.parse_args()
    chosen = [m for m in read() if not options.files or m.file.endswith(tuple(options.files))]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        root = copy(Path(name))
        status, failed = run(root, tuple(sorted({test for m in chosen for test in m.tests})))
        if status:
            raise SystemExit(f"the tests fail without a mutant: {failed}")
        for mutant in chosen:
            path = root / mutant.file
            right = path.read_text(encoding="utf-8")
            path.write_text(mutant.apply(right), encoding="utf-8")
            status, failed = run(root, mutant.tests)
            path.write_text(right, encoding="utf-8")
            verdict = "killed" if status else "equivalent" if mutant.equivalent else "survived"
            found.append({"file": mutant.file, "old": mutant.old, "new": mutant.new, "verdict": verdict})
            found[-1] |= {"by": failed} if status else {"why": mutant.equivalent} if mutant.equivalent else {}
            print(f"{verdict}: {mutant.file}: {mutant.old} -> {mutant.new}", flush=True)
    counts = {v: sum(m["verdict"] == v for m in found) for v in ("killed", "equivalent", "survived")}
    print(counts)
    if options.results or not options.files:
        write(str((options.results or Path("mutants.json"))), {"mutants": len(found), **counts, "each": found})
    raise SystemExit(counts["survived"] > 0)


if __name__ == "__main__":
    main()
