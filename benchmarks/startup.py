"""What ebmeta costs before it does anything: seconds to start, and megabytes to download beside torch.

Processor seconds of whole processes, medians of 7 in turns after one that nobody counts, and their ratios to
`import torch`. Sizes are those of the wheels that `pip download` takes for the core and for every extra, less those
that torch takes. `python benchmarks/startup.py` (about 4 minutes; the sizes need an index of packages);
with the name of a part, `times` or `sizes`, it does that one anew.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from lib.common import ROOT, read, write

REPEATS = 7
#: What is timed, by its name; the first is what the others are compared with.
CALLS = {
    "torch": "import torch",
    "ebmeta": "import ebmeta",
    "help": "from ebmeta.app.cli import main; main(['--help'])",
    "help_of_a_command": "from ebmeta.app.cli import main; main(['train', '--help'])",
    "fit": "import ebmeta; ebmeta.fit",
    "classifier": "import ebmeta; ebmeta.FewShotClassifier",
    "requirements": "import torch, sklearn.base, pandas",
}
EXTRAS = ("numpyro", "parquet", "distributed", "all")


def seconds(code: str) -> float:
    """Return the processor seconds of a process that runs a line of Python."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, cwd=ROOT.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def times() -> dict[str, dict[str, float]]:
    """Return the median of every call, and its ratio to the first."""
    each: dict[str, list[float]] = {name: [] for name in CALLS}
    for _ in range(1 + REPEATS):
        for name, code in CALLS.items():
            each[name].append(seconds(code))
    medians = {name: median(values[1:]) for name, values in each.items()}
    unit = medians["torch"]
    return {name: {"cpu": round(value, 3), "ratio": round(value / unit, 3)} for name, value in medians.items()}


def wheels(*requirements: str) -> dict[str, int]:
    """Return the bytes of the wheels that requirements bring, by the name of the package."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "-q"]
        fetch = [*pip, "download", "-c", "constraints.txt", "-d", folder, *requirements]
        subprocess.run(fetch, check=True, cwd=ROOT.parent, stderr=subprocess.DEVNULL)
        if "torch" not in requirements:
            subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, "."], check=True, cwd=ROOT.parent)
        return {path.name.partition("-")[0].lower(): path.stat().st_size for path in Path(folder).iterdir()}


def sizes() -> dict[str, object]:
    """Return megabytes of the core and of each extra beside torch, and of the largest packages of the core."""
    torch, core = wheels("torch"), wheels(".")
    beside = {name: size for name, size in core.items() if name not in torch}
    more = {}
    for extra in EXTRAS:
        own = wheels(f".[{extra}]")
        more[extra] = round(sum(size for name, size in own.items() if name not in core) / 1e6, 1)
    largest = sorted(beside, key=lambda name: -beside[name])[:10]
    return {
        "torch_mb": round(sum(torch.values()) / 1e6, 1),
        "core_mb": round(sum(beside.values()) / 1e6, 1),
        "own_mb": round(beside["ebmeta_bayes"] / 1e6, 2),
        "extras_mb": more,
        "largest_mb": {name: round(beside[name] / 1e6, 1) for name in largest},
    }


PARTS = {"times": times, "sizes": sizes}


def main() -> None:
    """Measure and write the result."""
    result = read("startup.json")
    for part in sys.argv[1:] or PARTS:
        result[part] = PARTS[part]()
        print(part, result[part], flush=True)
        write("startup.json", {"repeats": REPEATS, **result})


if __name__ == "__main__":
    main()
