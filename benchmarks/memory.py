"""Peak memory: it follows the rows, not the largest group, and not the square of the number of classes.

Each case runs in a process of its own; what is reported is the peak of its resident memory above that after all
imports, in GB. Files of 20 GB are trained on, evaluated and predicted with less than 1 GB resident, imports and
pages of files included: a memory map whose holes take no disk, and parquet of few different numbers.
`python benchmarks/memory.py` (ten minutes); with names of cases it does these anew.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import parquet

import ebmeta
from ebmeta import EmpiricalBayes, EpisodeSampler, FewShotClassifier, FewShotRegressor, GroupSampler, TaskBatch
from ebmeta.training.evidence import Evidence
from lib.common import read, write

FILES = Path(tempfile.gettempdir()) / "ebmeta_larger_than_memory"
CLASSES, ROWS, WIDTH = 200, 40_000, 640  # a memory map of 20.5 GB
WRITTEN = 400  # rows of each class that are not a hole of the file
FRAMES, GROUPS, LENGTH, COLUMNS = 240, 20, 5000, 105  # parquet of 20.3 GB
USED = ["group", "x0", "x1", "x2", "x3", "x4"]  # columns of it: a file is wider than a model
LIMITS = {"one_large_group": 0.5, "many_ways": 2.0, "large_pile": 2.0, "many_groups": 1.5, "many_groups_of_counts": 1.5}
LIMITS |= {"larger_map": 0.7, "larger_parquet": 0.7}


def counts(sizes: np.ndarray, likelihood: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and groups of made-up rows."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(group), 2))
    eta = 0.5 + 0.5 * rng.normal(size=len(sizes))[group] + 0.3 * x[:, 0]
    y = rng.poisson(np.exp(eta)) if likelihood == "poisson" else eta + rng.normal(size=len(group))
    return x, y, group


def one_large_group() -> None:
    """Fit, propagate and predict counts of 300 groups of 3 rows and one of 3,000."""
    x, y, group = counts(np.r_[np.full(300, 3), 3000], "poisson")
    tasks, model = GroupSampler(x, y, group, n_support=(0, 2)), EmpiricalBayes.regressor(2, "poisson", num_steps=1)
    ebmeta.fit_evidence(model, tasks, boundary=False, max_iterations=5)
    reg = FewShotRegressor(model).fit(x[::2], y[::2], groups=group[::2])
    reg.interval(x[1::2], groups=group[1::2])
    reg.sample(x[1::2], 200, groups=group[1::2])
    ebmeta.evaluate(model, tasks, 301)
    ebmeta.predict(model, tasks.everything(), num_draws=0, quantiles=[0.1, 0.9])  # draws would be padded, as trees are
    unsure = FewShotRegressor(ebmeta.propagate(model, tasks, num_draws=8)).fit(x[::2], y[::2], groups=group[::2])
    unsure.predict(x[1::2], return_std=True, groups=group[1::2])


def many_ways() -> None:
    """Classify 1,000 queries of 1,000 classes, one labelled row of each, 64 features."""
    rng, ways = np.random.default_rng(0), np.arange(1000)
    centers = rng.normal(size=(len(ways), 64))
    X, queries = (centers + 0.3 * rng.normal(size=centers.shape) for _ in range(2))
    FewShotClassifier(EmpiricalBayes.classifier(64)).fit(X, ways).predict_proba(queries)


def large_pile() -> None:
    """Classify 20,000 rows of 50 classes by the general classifier, two labelled rows of each, 1,280 features."""
    rng, y = np.random.default_rng(0), np.arange(20_000) % 50
    X = rng.standard_normal((len(y), 1280), dtype=np.float32)
    X += rng.standard_normal((50, 1280), dtype=np.float32)[y] / 2
    FewShotClassifier().fit(X[:100], y[:100]).predict_proba(X)


def many_groups() -> None:
    """Fit and predict 200,000 groups of 5 rows."""
    x, y, group = counts(np.full(200_000, 5), "normal")
    model = EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(model, GroupSampler(x, y, group, n_support=2), boundary=False, max_iterations=3)
    FewShotRegressor(model).fit(x[::2], y[::2], groups=group[::2]).predict(x[1::2], groups=group[1::2])


def many_groups_of_counts() -> None:
    """Take one gradient of the evidence of counts of 200,000 groups of 5 rows."""
    x, y, group = counts(np.full(200_000, 5), "poisson")
    model = EmpiricalBayes.regressor(2, "poisson", num_steps=0).double()
    evidence = Evidence(model, GroupSampler(x, y, group, n_support=2), hyperprior=False)
    evidence.gradient(evidence.read())


def larger_map() -> None:
    """Train, evaluate and predict classes whose features are a memory map of 20 GB."""
    size, half = CLASSES * ROWS, CLASSES * ROWS // 2
    X, y = np.memmap(map_file(), np.float32, "r", shape=(size, WIDTH)), np.arange(CLASSES, dtype=np.int16).repeat(ROWS)
    tasks, new = (EpisodeSampler(X[rows], y[rows], n_way=5) for rows in (slice(half), slice(half, size)))
    model, place = EmpiricalBayes.classifier(WIDTH), FILES / "run.safetensors"
    place.unlink(missing_ok=True)
    ebmeta.fit(model, tasks, 40, validation=new, validation_tasks=64, checkpoint=place, progress=False)
    ebmeta.evaluate(model, new, 128)
    few = FewShotClassifier(model).fit(X[half::ROWS], y[half::ROWS])
    for start in range(0, size, size // 50):  # pieces from the first row to the last
        few.predict_proba(X[start : start + 500])


def map_file() -> Path:
    """Return a file of features of classes, most rows of which are a hole: zeros that take no disk."""
    path, rng = FILES / "features", np.random.default_rng(0)
    if not path.exists():
        FILES.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(CLASSES * ROWS * WIDTH * 4)
            for start in range(0, CLASSES * ROWS, ROWS):
                center = rng.normal(size=WIDTH)
                file.seek((start + int(rng.integers(ROWS - WRITTEN))) * WIDTH * 4)
                file.write((center + rng.normal(size=(WRITTEN, WIDTH))).astype(np.float32).tobytes())
    return path


def larger_parquet() -> None:
    """Train, evaluate and predict groups of a parquet file of 20 GB by some of its columns."""
    file = parquet.ParquetFile(parquet_file())

    class Rows:
        """Tasks from one row group of the file at a time: any object with this method is a source of tasks."""

        def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
            number = int(np.random.default_rng(index).integers(FRAMES))
            frame = file.read_row_group(number, columns=USED).to_pandas()
            some = frame.groupby("group").head(200)  # rows of a task
            return GroupSampler.from_frame(some, y="x0", groups="group", n_support=100).sample(num_tasks, index)

    model = EmpiricalBayes.regressor(len(USED) - 2, num_steps=1)
    ebmeta.fit(model, Rows(), 20, 8, validation=Rows(), validation_tasks=32, progress=False)
    ebmeta.evaluate(model, Rows(), 64)
    ebmeta.save(model, FILES / "model", overwrite=True)

    def frames() -> Iterator[pd.DataFrame]:
        for number in range(FRAMES):
            frame = file.read_row_group(number, columns=USED).to_pandas().rename(columns={"x0": "y"})
            some = frame.groupby("group").head(100)
            yield some.assign(y=some["y"].where(np.arange(len(some)) % 100 < 50))

    rows = sum(map(len, ebmeta.score_batches(FILES / "model", frames(), groups="group")))
    assert rows == FRAMES * GROUPS * 50


def parquet_file() -> Path:
    """Return a file of groups whose columns are numbers of eight values, so that it takes little disk."""
    path, names, rng = FILES / "rows.parquet", [f"x{i}" for i in range(COLUMNS)], np.random.default_rng(0)
    if not path.exists():
        FILES.mkdir(exist_ok=True)
        frame = pd.DataFrame(rng.integers(8, size=(GROUPS * LENGTH, COLUMNS)) / 4.0, columns=names)
        frame["group"] = np.repeat(np.arange(GROUPS), LENGTH)
        with parquet.ParquetWriter(path, pyarrow.Table.from_pandas(frame).schema) as writer:
            for number in range(FRAMES):
                writer.write_table(pyarrow.Table.from_pandas(frame.assign(group=frame["group"] + number * GROUPS)))
    return path


CASES = {
    case.__name__: case
    for case in (one_large_group, many_ways, large_pile, many_groups, many_groups_of_counts, larger_map, larger_parquet)
}


def peak() -> float:
    """Return the peak of resident memory so far in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run every case by itself and write the result, or run one case here where it is named after `--here`."""
    if "--here" in sys.argv:
        before, started = peak(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fits that are stopped early say so
            CASES[sys.argv[-1]]()
        found = {"peak_gb": round(peak() - before, 3), "resident_gb": round(peak(), 3)}
        print(json.dumps(found | {"seconds": round(time.perf_counter() - started, 1)}))
        return
    result = read("memory.json").get("cases", {})
    map_file(), parquet_file()
    for name in sys.argv[1:] or CASES:
        run = subprocess.run([sys.executable, __file__, "--here", name], capture_output=True, text=True, check=True)
        result[name] = {"limit_gb": LIMITS[name], **json.loads(run.stdout)}
        print(name, result[name], flush=True)
    sizes = {path.name: round(path.stat().st_size / 2**30, 1) for path in (map_file(), parquet_file())}
    print(sizes)
    write("memory.json", {"cases": {name: result[name] for name in CASES if name in result}})


if __name__ == "__main__":
    main()
