"""How well the novelty score tells tasks unlike the training tasks: CIFAR-FS features, 5-way.

Fitted on train classes, ranked on validation classes, asked about tasks of test classes: as they are (which should
raise no alarm) and with their features damaged, whole tasks or one class of the support. The default model,
trained without validation classes: ranks need classes that training has not used. `python benchmarks/novelty.py`
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ebmeta
from ebmeta.training.preparation import hardening
from lib.classifier import BLIND, KINDS, classifier
from lib.common import write
from lib.damage import outsiders

TASKS, LEVEL = 300, 0.05


def main() -> None:
    """Score every kind of outsider and write the result."""
    torch.set_num_threads(1)
    model = classifier(BLIND)
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
