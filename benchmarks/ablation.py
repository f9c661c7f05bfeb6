"""What each choice of the default recipe is worth: CIFAR-FS, 5-way 1-shot, on *validation* classes.

One training run per variant, each scored on the same 600 validation tasks (not those that stop the
training). The test classes are not touched. `python benchmarks/ablation.py`
"""

from __future__ import annotations

import sys
from typing import Any

from common import by_step, cifar_fs, write

import ebmeta

TASKS = 600
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "gibbs": {"objective": {"kind": "gibbs"}},
    "last_step_only": {"objective": {"anytime": 0.0}},
    "beta_0": {"model": {"beta": 0.0}},
    "beta_1": {"model": {"beta": 1.0}},
}


def main() -> None:
    """Train and score every variant, and write the result."""
    episode = {"n_way": 5, "n_shot": 1, "n_query": 15}
    train, stopping, scoring = (
        cifar_fs(split, seed=seed, **episode) for split, seed in (("train", 0), ("val", 1), ("val", 7))
    )
    result: dict[str, Any] = {"tasks": TASKS, "split": "val"}
    for name, options in VARIANTS.items():
        model = ebmeta.EmpiricalBayes.classifier(256, **options.get("model", {}))
        objective = ebmeta.Objective(**options.get("objective", {}))
        fitted = ebmeta.fit(model, train, validation=stopping, objective=objective, progress=sys.stderr.isatty())
        scores = by_step(ebmeta.evaluate(model, scoring, TASKS))
        result[name] = {"seconds": round(fitted.seconds, 1), "best_iteration": fitted.best_iteration, **scores}
        print(name, *(f"{k} {scores[k]}" for k in ("accuracy", "nll", "ece")), flush=True)
    write("ablation.json", result)


if __name__ == "__main__":
    main()
