"""Time and memory of the main jobs: beside an earlier revision in the same run, and on a GPU beside the CPU.

Each round runs every job in a new process of one thread, for one side after the other, so that other work on the
machine falls on both. Reported are the least time of each side, its peak memory, and their ratio.
`python benchmarks/speed.py REVISION [ROUNDS]` compares with a git revision (about a minute a round);
`python benchmarks/speed.py cuda` compares devices.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ENOUGH = 1.0  # seconds of a job: a short one is run as often as that takes


def classes(n_query: int = 15) -> object:
    """Return tasks of five classes, one labelled row each, 64 features."""
    import ebmeta

    rng, y = np.random.default_rng(0), np.repeat(np.arange(40), 40)
    X = rng.normal(size=(40, 64))[y] + rng.normal(size=(len(y), 64))
    return ebmeta.EpisodeSampler(X, y, n_way=5, n_shot=1, n_query=n_query, seed=0)


def groups(number: int, rows: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, counts and groups."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(number), rows)
    x = rng.normal(size=(len(group), 2))
    return x, rng.poisson(np.exp(1 + rng.normal(size=number)[group] / 2 - 0.4 * x[:, 0])), group


def train_classes(device: str) -> Callable[[], object]:
    """Train a classifier for 40 iterations of 16 tasks."""
    import ebmeta

    model, tasks = ebmeta.EmpiricalBayes.classifier(64), classes()
    return lambda: ebmeta.fit(model, tasks, 40, 16, seed=0, device=device, progress=False)


def predict_classes(device: str) -> Callable[[], object]:
    """Predict 512 tasks of five classes, 75 queries each, after four steps of refinement."""
    import ebmeta

    model, batch = ebmeta.EmpiricalBayes.classifier(64).to(device), classes().sample(512)  # type: ignore[attr-defined]
    return lambda: ebmeta.predict(model, batch, num_draws=0)


def predict_many_ways(device: str) -> Callable[[], object]:
    """Classify 400 queries of 200 classes."""
    import ebmeta

    rng = np.random.default_rng(0)
    centers = rng.normal(size=(200, 64))
    model = ebmeta.FewShotClassifier(ebmeta.EmpiricalBayes.classifier(64).to(device))
    model.fit(centers + 0.3 * rng.normal(size=centers.shape), np.arange(200))
    rows = np.tile(centers, (2, 1)) + 0.3 * rng.normal(size=(400, 64))
    return lambda: model.predict_proba(rows)


def classify_rows(device: str) -> Callable[[], object]:
    """Classify 2,000 rows of 512 features by five labelled rows, with the general classifier."""
    import ebmeta

    rng, y = np.random.default_rng(0), np.arange(2000) % 5
    X = (rng.normal(size=(5, 512))[y] + rng.normal(size=(len(y), 512))).astype(np.float32)
    model = ebmeta.FewShotClassifier(ebmeta.general_classifier().to(device)).fit(X[:5], y[:5])
    return lambda: model.predict_proba(X[5:])


def train_counts(device: str) -> Callable[[], object]:
    """Train a model of counts for 40 iterations of 16 groups."""
    import ebmeta

    x, y, group = groups(200)
    model = ebmeta.EmpiricalBayes.regressor(2, "poisson")
    tasks = ebmeta.GroupSampler(x, y, group, n_support=3, seed=0)
    return lambda: ebmeta.fit(model, tasks, 40, 16, seed=0, device=device, progress=False)


def predict_counts(device: str) -> Callable[[], object]:
    """Predict 2,000 groups of counts."""
    import ebmeta

    x, y, group = groups(2000)
    model = ebmeta.EmpiricalBayes.regressor(2, "poisson").to(device)
    batch = ebmeta.GroupSampler(x, y, group, n_support=3, seed=0).everything()
    return lambda: ebmeta.predict(model, batch, num_draws=0)


def evidence_of_numbers(device: str) -> Callable[[], object]:
    """Fit the prior of 5,000 groups of real numbers to its maximum."""
    import ebmeta

    x, y, group = groups(5000)
    tasks = ebmeta.GroupSampler(x, np.log1p(y), group, n_support=3, seed=0)
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0).to(device)
    return lambda: ebmeta.fit_evidence(model, tasks, boundary=False)


JOBS = (
    train_classes,
    predict_classes,
    predict_many_ways,
    classify_rows,
    train_counts,
    predict_counts,
    evidence_of_numbers,
)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def here(device: str) -> None:
    """Run every job, the first time to warm up; print its least seconds, and the peak of resident memory in GB."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {}
    for job in JOBS:
        run = job(device)
        run()
        times: list[float] = []
        while not times or sum(times) < ENOUGH:
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            times.append(time.perf_counter() - start)
        found[job.__name__] = min(times)
    found["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found))


def compare(sides: dict[str, tuple[Path, str]], rounds: int) -> dict[str, object]:
    """Return the least seconds and memory of each side, and the ratio of the second to the first."""
    from lib.revisions import printed

    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (package, device) in sides.items():
            found[name].append(printed(__file__, package, device))
    least = {name: {key: min(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    first, second = least.values()
    ratio = {key: round(second[key] / first[key], 3) for key in first}
    rounded = {name: {key: round(value, 4) for key, value in values.items()} for name, values in least.items()}
    return {"rounds": rounds, **rounded, "ratio": ratio}


def main(revision: str, rounds: int) -> None:
    """Compare, and write the result."""
    from lib.common import read, write
    from lib.revisions import CLONE, checkout

    result = read("speed.json")
    if revision == "cuda":
        facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cores": os.cpu_count()}
        result["devices"] = {**facts, **compare({"cpu": (CLONE, "cpu"), "cuda": (CLONE, "cuda")}, rounds)}
    else:
        with checkout(revision) as before:
            found = compare({"before": (before, "cpu"), "after": (CLONE, "cpu")}, rounds)
        result["revisions"] = {"before_is": revision, **found}
    write("speed.json", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        here(sys.argv[2])
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
