"""How time and memory grow with tasks, queries, ways, shots, features and groups, as exponents of fitted powers.

Jobs are predictions and a step of training of the default classifier, and a fit of a mixed model. One size doubles, the
others stay. Each point is a process of its own, forked after all imports: the processor time on one thread of
a second run, and the peak of resident memory above what was there before. The exponent is the slope of a line
through the logarithms of the largest points. `OMP_NUM_THREADS=1 python benchmarks/growth.py [JOB ...]`
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import ebmeta
from lib.common import read, write

FITTED = 4  # points behind an exponent
USUAL = {"tasks": 64, "ways": 5, "shots": 1, "queries": 75, "features": 64}
AXES = {
    "tasks": [128, 256, 512, 1024, 2048, 4096],
    "queries": [300, 600, 1200, 2400, 4800, 9600],
    "ways": [10, 20, 40, 80, 160, 320],
    "shots": [16, 32, 64, 128, 256, 512],
    "features": [128, 256, 512, 1024, 2048],
}
FIXED = {
    "queries": {"tasks": 16},
    "ways": {"tasks": 8, "queries": 320},
    "shots": {"tasks": 64},
    "features": {"tasks": 16},
}
GROUPS = [8000, 16000, 32000, 64000, 128000, 256000]
#: Why an exponent may be above 1.1.
REASONS = {
    "predict.features": "the metric is a square matrix",
}
MODEL = ebmeta.mixed_model  # imported here, before processes are forked


def batch(sizes: dict[str, int]) -> ebmeta.TaskBatch:
    """Return made-up tasks of these sizes, as many queries of each class as there can be."""
    rng, ways = torch.Generator().manual_seed(0), sizes["ways"]
    center = torch.randn(sizes["tasks"], ways, sizes["features"], generator=rng)
    labels = [torch.arange(n) % ways for n in (ways * sizes["shots"], sizes["queries"])]
    rows = [center[:, y] + torch.randn(sizes["tasks"], len(y), sizes["features"], generator=rng) for y in labels]
    support, query = (y.expand(sizes["tasks"], -1) for y in labels)
    return ebmeta.TaskBatch(rows[0], support, rows[1], query)


def predicting(sizes: dict[str, int]) -> Callable[[], object]:
    """Return a prediction of tasks of these sizes."""
    model, tasks = ebmeta.EmpiricalBayes.classifier(sizes["features"]), batch(sizes)
    return lambda: ebmeta.predict(model, tasks, num_draws=0)


def training(sizes: dict[str, int]) -> Callable[[], object]:
    """Return a step of training on tasks of these sizes: the loss and its gradient."""
    model, tasks, goal = ebmeta.EmpiricalBayes.classifier(sizes["features"]).train(), batch(sizes), ebmeta.Objective()
    return lambda: goal.total(goal.terms(model, tasks)).backward()


def fitting(sizes: dict[str, int]) -> Callable[[], object]:
    """Return a fit of a mixed model with intercepts and slopes of groups of five rows."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(sizes["groups"]), 5)
    x = rng.normal(size=len(group))
    effects = rng.normal(size=(sizes["groups"], 2))[group]
    rows = pd.DataFrame({"x": x, "g": group, "y": effects[:, 0] + x * (1 + effects[:, 1]) + rng.normal(size=len(x))})
    return lambda: MODEL("y ~ x + (x | g)", rows)


JOBS = {
    "predict": (predicting, {axis: [USUAL | FIXED.get(axis, {}) | {axis: n} for n in AXES[axis]] for axis in AXES}),
    "train": (training, {axis: [USUAL | FIXED.get(axis, {}) | {axis: n} for n in AXES[axis][:4]] for axis in AXES}),
    "mixed_model": (fitting, {"groups": [{"groups": n} for n in GROUPS]}),
}


def kilobytes(name: str) -> int:
    """Return a number of the process: its memory now (VmRSS), or its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def point(job: str, sizes: dict[str, int]) -> dict[str, float]:
    """Return seconds and peak megabytes of a job."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run = JOBS[job][0](sizes)
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    run()
    peak, begin = kilobytes("VmHWM") - before, time.process_time()
    run()
    return {"seconds": round(time.process_time() - begin, 5), "megabytes": round(peak / 2**10, 2)}


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return the slope of a line through the logarithms of the largest points."""
    return round(float(np.polyfit(np.log(sizes[-FITTED:]), np.log(values[-FITTED:]), 1)[0]), 3)


def main(jobs: list[str]) -> None:
    """Measure each point in a process of its own, and write points and exponents."""
    result = read("growth.json").get("jobs", {})
    processes = multiprocessing.get_context("fork")
    for job in jobs or list(JOBS):
        result[job] = {}
        for axis, points in JOBS[job][1].items():
            found = []
            for sizes in points:
                with processes.Pool(1) as pool:
                    found.append(pool.apply(point, (job, sizes)))
            each = [sizes[axis] for sizes in points]
            curves = {name: [p[name] for p in found] for name in ("seconds", "megabytes")}
            powers = {name: exponent(each, values) for name, values in curves.items()}
            others = {name: n for name, n in points[0].items() if name != axis}
            result[job][axis] = {"sizes": each, "others": others, **curves, "exponents": powers}
            print(job, axis, json.dumps(result[job][axis]), flush=True)
    above = [
        f"{job}.{axis}"
        for job, axes in result.items()
        for axis, found in axes.items()
        if max(found["exponents"].values()) > 1.1
    ]
    write("growth.json", {"reasons": REASONS, "above": above, "jobs": result})


if __name__ == "__main__":
    main(sys.argv[1:])
