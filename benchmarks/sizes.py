"""Is a classifier right about tasks of other sizes than it was trained on? CIFAR-FS, trained on five ways.

The default model, asked about other numbers of classes and of labelled rows: with known balanced queries, and with
unequal shares that nobody tells. Beside it, the same model with a temperature fitted to tasks of its own sizes alone.
Last, piles of 100 queries a class, more than any temperature was fitted to. Test classes, once.
`python benchmarks/sizes.py`
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

import ebmeta
from ebmeta.training.preparation import hardening
from ebmeta.training.temperature import TASKS as FITTED, fit_task_temperature
from lib.classifier import ITERATIONS, classifier, last_probs
from lib.common import write
from lib.kinds import DEFAULT, Kind, draw, labels, mixture
from lib.scoring import rounded, score

TASKS, SEED, BATCH = 300, 41, 16
KEPT = ("accuracy", "nll", "ece")
WAYS, SHOTS, CONCENTRATION = (2, 5, 10, 20), (1, 5, 20), 2.0
PILE, PILES = 100, 96  # queries of a class, and tasks


def of_own_sizes(model: ebmeta.EmpiricalBayes) -> ebmeta.EmpiricalBayes:
    """Return a copy whose temperature is fitted to the kinds of task that training draws, and to no other size."""
    train, val = mixture(DEFAULT, "train", 0), mixture(DEFAULT, "val", 1)
    harder = train.harder(hardening(model, train, val, "auto"))

    def tasks() -> Iterator[ebmeta.TaskBatch]:
        for source in (harder.with_unknown_proportions(), val.with_unknown_proportions()):
            for n in range(ITERATIONS, ITERATIONS + 2 * FITTED // BATCH):
                yield source.sample(BATCH, n)

    other = copy.deepcopy(model)
    fit_task_temperature(other, tasks())
    return other


def scored(model: ebmeta.EmpiricalBayes, batches: list[ebmeta.TaskBatch]) -> dict[str, Any]:
    """Return the scores of a model, and how sure it is on average."""
    probs = torch.cat([last_probs(model, b) for b in batches])
    scores = score(probs, labels(batches))
    return rounded({key: scores[key] for key in KEPT} | {"confidence": float(probs.amax(-1).mean())})


def main() -> None:
    """Score both on the same tasks, and write."""
    torch.set_num_threads(1)
    model = classifier()
    models = {"all": model, "own": of_own_sizes(model)}
    result: dict[str, Any] = {"tasks": TASKS, "ways": list(WAYS), "shots": list(SHOTS), "concentration": CONCENTRATION}
    result["pile_size"] = PILE
    for ways in WAYS:
        for shots in SHOTS:
            for shares, imbalance in (("balanced", None), ("hidden", CONCENTRATION)):
                batches = draw(Kind(ways, shots, imbalance), "test", TASKS, SEED)
                if imbalance is not None:
                    batches = [replace(b, concentration=None) for b in batches]
                for name, one in models.items():
                    found = scored(one, batches)
                    result.setdefault(name, {})[f"{ways}way_{shots}shot_{shares}"] = found
                    of_it = f"accuracy {found['accuracy'][0]:.3f}, confidence {found['confidence']:.3f}"
                    print(f"{ways} ways, {shots} shots, {shares}, {name}: {of_it}", flush=True)
    for shots in (1, 5):
        for shares, imbalance in (("equal", None), ("hidden", CONCENTRATION)):
            batches = draw(Kind(5, shots, imbalance, PILE), "test", PILES, SEED)
            found = scored(model, [replace(b, concentration=None) for b in batches])
            result.setdefault("pile", {})[f"{shots}shot_{shares}"] = found
            print(f"piles, {shots} shots, {shares}: {found}", flush=True)
    write("sizes.json", result)


if __name__ == "__main__":
    main()
