"""The package as it was at a revision, and processes of one thread that run a script with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CLONE", "checkout", "printed"]

CLONE = Path(__file__).resolve().parents[2]


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Yield a folder with the package as it was at a revision."""
    with tempfile.TemporaryDirectory() as folder:
        files = subprocess.run(["git", "-C", CLONE, "archive", revision, "ebmeta"], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], check=True, input=files.stdout)
        yield Path(folder)


def printed(script: str, package: Path, *arguments: str) -> dict[str, Any]:
    """Return the JSON that a script prints last, run with `--here` in a new process with the package of a folder."""
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, "--here", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(run.stdout.splitlines()[-1]))
