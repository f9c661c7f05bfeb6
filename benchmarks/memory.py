"""Peak memory: it follows the rows, not the largest group, and not the square of the number of classes.

Each case runs in a process of its own; what is reported is the peak of its resident memory above that after all
imports, in GB. `python benchmarks/memory.py` (a few minutes); with names of cases it does these anew.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings

import numpy as np

import ebmeta
from ebmeta import EmpiricalBayes, FewShotClassifier, FewShotRegressor, GroupSampler
from ebmeta.training.evidence import Evidence
from lib.common import read, write

LIMITS = {"one_large_group": 0.5, "many_ways": 2.0, "large_pile": 2.0, "many_groups": 1.5, "many_groups_of_counts": 1.5}


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


CASES = {case.__name__: case for case in (one_large_group, many_ways, large_pile, many_groups, many_groups_of_counts)}


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
        print(json.dumps({"peak_gb": round(peak() - before, 3), "seconds": round(time.perf_counter() - started, 1)}))
        return
    result = read("memory.json").get("cases", {})
    for name in sys.argv[1:] or CASES:
        run = subprocess.run([sys.executable, __file__, "--here", name], capture_output=True, text=True, check=True)
        result[name] = {"limit_gb": LIMITS[name], **json.loads(run.stdout)}
        print(name, result[name], flush=True)
    write("memory.json", {"cases": {name: result[name] for name in CASES if name in result}})


if __name__ == "__main__":
    main()
