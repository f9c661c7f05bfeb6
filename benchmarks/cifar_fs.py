"""CIFAR-FS, 5-way 1-shot and 5-shot, on Conv-4-64 features: the default recipe and what it is compared with.

Meta-trains on the train classes, stops on the validation classes, reports the test classes once:
2,000 tasks, 15 queries per class, mean and 95% interval over tasks. `python benchmarks/cifar_fs.py`
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from common import by_step, cifar_fs, write

import ebmeta

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "published_xi": {"synthetic_gradient": "mlp", "n_way": 5},
}


def run(variant: str, shots: int, test_tasks: int, seed: int = 0, **options: int) -> dict[str, Any]:
    """Train one variant and score it on the test classes."""
    episode = {"n_way": 5, "n_shot": shots, "n_query": 15}
    train, validation, test = (cifar_fs(s, seed=seed + i, **episode) for i, s in enumerate(("train", "val", "test")))
    model = ebmeta.EmpiricalBayes.classifier(256, seed=seed, **VARIANTS[variant])
    started = time.process_time()
    fitted = ebmeta.fit(model, train, validation=validation, seed=seed, progress=sys.stderr.isatty(), **options)
    result: dict[str, Any] = {
        "seconds": round(fitted.seconds, 1),
        "cpu_seconds": round(time.process_time() - started, 1),
        "iterations": fitted.history.sizes["iteration"],
        "best_iteration": fitted.best_iteration,
    }
    return result | {"test": by_step(ebmeta.evaluate(model, test, test_tasks))}


def main() -> None:
    """Run every variant at both shots and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test-tasks", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"test_tasks": arguments.test_tasks, "seed": arguments.seed}
    for shots in (1, 5):
        for name in VARIANTS:
            entry = run(name, shots, arguments.test_tasks, arguments.seed)
            result[f"{name}_{shots}shot"] = entry
            accuracy, nll, ece = (entry["test"][k] for k in ("accuracy", "nll", "ece"))
            print(
                f"{name}, {shots}-shot: accuracy {100 * accuracy[0]:.2f} -> {100 * accuracy[-1]:.2f}, "
                f"NLL {nll[0]:.3f} -> {nll[-1]:.3f}, ECE {ece[-1]:.3f}, {entry['seconds']} s"
            )
    write("cifar_fs.json", result)


if __name__ == "__main__":
    main()
