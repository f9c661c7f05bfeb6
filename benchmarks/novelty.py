"""How well the novelty score tells tasks unlike the training tasks: CIFAR-FS features, 5-way.

Fitted on train classes, ranked on validation classes, asked about tasks of test classes: as they are (which should
raise no alarm) and with their features damaged, whole tasks or one class of the support. Needs the default model of
`few_shot_classification.py`. `python benchmarks/novelty.py`
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ebmeta
from ebmeta.training.preparation import hardening
from lib.classifier import KINDS, classifier
from lib.common import write
from lib.kinds import Kind

TASKS, LEVEL = 300, 0.05


def dropped(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lose three dimensions in ten."""
    return x * (rng.uniform(size=x.shape[-1]) > 0.3)


def squared(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply another nonlinearity, at the same size."""
    return x**2 * (x.mean() / (x**2).mean())


def blended(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Average each row with a random other one."""
    return (x + x[rng.permutation(len(x))]) / 2


DAMAGE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "dropped": dropped,
    "squared": squared,
    "blended": blended,
}


def outsiders(kind: Kind) -> dict[str, ebmeta.EpisodeSampler]:
    """Return tasks by kind of damage: of every row, or of the first row, a class of a 1-shot support."""
    plain = kind.sampler("test", 12)
    out = {"none": plain}
    for name, change in DAMAGE.items():
        whole = copy.copy(plain)
        whole.transform = change
        part = copy.copy(plain)
        shots = kind.n_shot

        def one_class(x: np.ndarray, rng: np.random.Generator, change: Any = change, shots: int = shots) -> np.ndarray:
            return np.concatenate([change(x, rng)[:shots], x[shots:]])

        part.transform = one_class
        out |= {name: whole, f"{name}_one_class": part}
    return out


def main() -> None:
    """Score every kind of outsider and write the result."""
    torch.set_num_threads(1)
    model = classifier()
    result: dict[str, Any] = {"tasks": TASKS, "level": LEVEL}
    for kind in KINDS.values():
        train, held_out = kind.sampler("train", 3), kind.sampler("val", 4)
        seen = train.harder(hardening(model, train, held_out, "auto"))
        novelty = ebmeta.Novelty(model).fit(seen, TASKS).calibrate(held_out, TASKS)
        insiders = novelty.score(kind.sampler("val", 5).sample(TASKS)).values
        for name, tasks in outsiders(kind).items():
            batch = tasks.sample(TASKS)
            scores = novelty.score(batch).values
            area = roc_auc_score(np.repeat([0, 1], TASKS), np.concatenate([insiders, scores]))
            alarms = float((novelty.p_value(batch).values <= LEVEL).mean())
            result.setdefault(kind.name, {})[name] = {"auroc": round(float(area), 4), "alarms": round(alarms, 4)}
            print(kind.name, name, result[kind.name][name], flush=True)
    write("novelty.json", result)


if __name__ == "__main__":
    main()
