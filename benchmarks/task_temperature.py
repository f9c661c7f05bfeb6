"""Does confidence follow the difficulty of a task? The classifier of labels alone, with and without.

Tasks of train classes as they are and ever harder (`EpisodeSampler.harder`, strengths in units of that of training);
and tasks of the half of the validation classes that spread least, and of the half that spread most. For the halves the
temperature is fitted again: to training tasks alone, and to those and to tasks of the other half.
`python benchmarks/task_temperature.py`
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ebmeta
from ebmeta.training.preparation import EXCESS
from ebmeta.training.temperature import fit_task_temperature, unseen
from lib.classifier import ITERATIONS, KINDS, classifier, last_probs
from lib.common import cifar_fs, write
from lib.kinds import DEFAULT, labels, mixture

TASKS, BATCH, SEED = 512, 64, 33
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)


def gap(probs: Tensor, y: Tensor) -> list[float]:
    """Return accuracy, and accuracy less confidence with its standard error over tasks: below 0 is too bold."""
    confidence, top = probs.max(-1)
    right = (top == y).float()
    each = (right - confidence).mean(1)
    return [float(right.mean()), float(each.mean()), float(each.std() / len(each) ** 0.5)]


def halves(model: ebmeta.EmpiricalBayes) -> dict[str, np.ndarray]:
    """Return the validation classes whose directions spread least, and the others."""
    source = cifar_fs("val")
    u = model.predictor.direction(torch.from_numpy(source.X)).view(16, -1, source.X.shape[1])
    order = (u - u.mean(1, keepdim=True)).square().sum(-1).mean(1).argsort().numpy()
    return {"val_tight": order[:8], "val_wide": order[8:]}


def restricted(source: ebmeta.EpisodeSampler, classes: np.ndarray) -> ebmeta.EpisodeSampler:
    """Return the same tasks of some classes alone."""
    y = np.repeat(np.arange(len(source.classes)), len(source.X) // len(source.classes))
    keep = np.isin(y, classes)
    sizes = source.n_way, source.n_shot, source.n_query
    return ebmeta.EpisodeSampler(source.X[keep], y[keep], *sizes, imbalance=source.imbalance, seed=source.seed)


def refitted(model: ebmeta.EmpiricalBayes, *sources: ebmeta.MixedSampler) -> ebmeta.EmpiricalBayes:
    """Return a copy whose temperature is fitted to tasks of each source, as many as `fit` takes."""
    other = copy.deepcopy(model)
    fit_task_temperature(other, unseen([source.with_unknown_proportions() for source in sources], ITERATIONS, 16))
    return other


def main() -> None:
    """Measure all models on the same tasks, and write."""
    torch.set_num_threads(1)
    fitted = classifier("mixture")
    without = copy.deepcopy(fitted)
    without.refiner.temperature.forget()
    unit = EXCESS * (cifar_fs("val").difficulty / cifar_fs("train").difficulty - 1)
    result: dict[str, Any] = {"tasks": TASKS, "strength": unit}

    def keep(kind: str, source: str, sampler: ebmeta.EpisodeSampler, models: dict[str, ebmeta.EmpiricalBayes]) -> None:
        batches = [sampler.sample(BATCH, i) for i in range(TASKS // BATCH)]
        for key, model in models.items():
            found = gap(torch.cat([last_probs(model, b) for b in batches]), labels(batches))
            accuracy, difference, error = (round(v, 4) for v in found)
            piece = {"accuracy": accuracy, "gap": difference, "standard_error": error}
            result.setdefault(kind, {}).setdefault(source, {})[key] = piece

    for name, kind in KINDS.items():
        for s in STRENGTHS:
            tasks = kind.sampler("train", SEED).harder(s * unit)
            keep(name, f"train_{100 * s:.0f}", tasks, {"without": without, "with": fitted})
    train, val, split = mixture(DEFAULT, "train", 0).harder(unit), mixture(DEFAULT, "val", 1), halves(fitted)
    alone = refitted(fitted, train)
    for half, other in (("val_tight", "val_wide"), ("val_wide", "val_tight")):
        both = refitted(fitted, train, ebmeta.MixedSampler([restricted(s, split[other]) for s in val.samplers]))
        for name, kind in KINDS.items():
            tasks = restricted(kind.sampler("val", SEED), split[half])
            keep(name, half, tasks, {"without": without, "training": alone, "with": both})
    write("task_temperature.json", result)


if __name__ == "__main__":
    main()
