"""Does confidence follow the difficulty of a task? The default classifier with and without its temperature.

Tasks of train classes as they are and ever harder (`EpisodeSampler.harder`, strengths in units of that of training),
and tasks of validation classes. `python benchmarks/task_temperature.py`
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from classifier import KINDS, classifier
from common import cifar_fs, write
from few_shot_classification import labels, last_probs
from torch import Tensor

import ebmeta
from ebmeta.preparation import EXCESS

TASKS, BATCH, SEED = 512, 64, 33
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)


def gap(probs: Tensor, y: Tensor) -> list[float]:
    """Return accuracy, and accuracy less confidence with its standard error over tasks: below 0 is too bold."""
    confidence, top = probs.max(-1)
    right = (top == y).float()
    each = (right - confidence).mean(1)
    return [float(right.mean()), float(each.mean()), float(each.std() / len(each) ** 0.5)]


def main() -> None:
    """Measure both models on the same tasks, and write."""
    torch.set_num_threads(1)
    fitted = classifier()
    without = copy.deepcopy(fitted)
    without.refiner.temperature.forget()
    unit = EXCESS * (cifar_fs("val").difficulty / cifar_fs("train").difficulty - 1)
    result: dict[str, Any] = {"tasks": TASKS, "strength": unit}
    for name, kind in KINDS.items():
        train = kind.sampler("train", SEED)
        sources: dict[str, ebmeta.EpisodeSampler] = {f"train_{100 * s:.0f}": train.harder(s * unit) for s in STRENGTHS}
        for source, sampler in (sources | {"val": kind.sampler("val", SEED)}).items():
            batches = [sampler.sample(BATCH, i) for i in range(TASKS // BATCH)]
            for key, model in (("with", fitted), ("without", without)):
                found = gap(torch.cat([last_probs(model, b) for b in batches]), labels(batches))
                accuracy, difference, error = (round(v, 4) for v in found)
                piece = {"accuracy": accuracy, "gap": difference, "standard_error": error}
                result.setdefault(name, {}).setdefault(source, {})[key] = piece
    write("task_temperature.json", result)


if __name__ == "__main__":
    main()
