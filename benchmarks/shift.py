"""How well damaged features are told from new classes, and what predictions are worth with them: CIFAR-FS, 5-way.

`ShiftWarning` learns from train classes, is calibrated on validation classes, and is asked about tasks of test classes:
sound ones, which should raise no alarm; with their features damaged, all or one class of the support; and of another
encoder, that of the same features in another order, or of sentences. The default model, trained without validation
classes. `python benchmarks/shift.py`
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ebmeta
from lib.classifier import BLIND, KINDS, classifier
from lib.common import cifar_fs, model_folder, write
from lib.damage import outsiders
from lib.kinds import Kind

TASKS, LEVEL, SPLITS = 600, 0.05, 40


def other_encoders(kind: Kind) -> dict[str, ebmeta.EpisodeSampler]:
    """Return tasks of other features: columns in another order, and sentences by wordllama at the same scale."""
    test = cifar_fs("test", n_way=5)
    order = np.random.default_rng(0).permutation(test.X.shape[1])
    with np.load(model_folder() / "encoded" / "HWU64_wordllama.npz") as file:
        sentences, label = file["features"].astype(np.float32), file["label"]
    scaled = (sentences - sentences.mean()) / sentences.std() * test.X.std() + test.X.mean()
    common = [c for c in np.unique(label) if (label == c).sum() >= kind.n_shot + kind.n_query]
    kept = np.isin(label, common)
    rows = {"other_order": (test.X[:, order], test.class_rows[0].codes), "other_encoder": (scaled[kept], label[kept])}
    return {
        name: ebmeta.EpisodeSampler(X, y, kind.n_way, kind.n_shot, kind.n_query, seed=12)
        for name, (X, y) in rows.items()
    }


def over_classes(model: ebmeta.EmpiricalBayes, kind: Kind) -> dict[str, float]:
    """Return false alarms over splits of the classes that training did not use into calibration and new ones."""
    val, test = (cifar_fs(split, n_way=5) for split in ("val", "test"))
    X, y = np.concatenate([val.X, test.X]), np.repeat(np.arange(36), 600)
    warning, found = ebmeta.ShiftWarning(model).fit(kind.sampler("train", 3)), []
    for split in range(SPLITS):
        known = np.isin(y, np.random.default_rng(split).permutation(36)[:18])
        old, new = (
            ebmeta.EpisodeSampler(X[h], y[h], kind.n_way, kind.n_shot, kind.n_query, seed=split)
            for h in (known, ~known)
        )
        checked = warning.calibrate(old, 200).check(new.sample(200), LEVEL)
        found.append((float(checked["warned"].mean()), float((checked["query_p_value"] <= LEVEL).mean())))
    alarms, rows = np.mean(found, 0)
    return {
        "alarms": round(float(alarms), 4),
        "alarms_sd": round(float(np.std(found, 0)[0]), 4),
        "rows": round(float(rows), 4),
    }


def main() -> None:
    """Score every kind of task and write the result."""
    torch.set_num_threads(1)
    model = classifier(BLIND)
    result: dict[str, Any] = {"tasks": TASKS, "level": LEVEL}
    for kind in KINDS.values():
        warning = ebmeta.ShiftWarning(model).fit(kind.sampler("train", 3)).calibrate(kind.sampler("val", 4), TASKS)
        sound = kind.sampler("test", 5).sample(TASKS)
        usual = warning.check(sound)["score"].values
        for name, tasks in {**outsiders(kind), **other_encoders(kind)}.items():
            found = warning.check(batch := tasks.sample(TASKS), LEVEL)
            area = roc_auc_score(np.repeat([0, 1], TASKS), np.concatenate([usual, found["score"].values]))
            scores = ebmeta.evaluate(model, batch, num_bootstrap=2).isel(step=-1)
            cell = {
                "auroc": area,
                "alarms": found["warned"].mean(),
                "rows": (found["query_p_value"] <= LEVEL).mean(),
                "accuracy": scores["accuracy"],
                "ece": scores["ece"],
            }
            result.setdefault(kind.name, {})[name] = {k: round(float(v), 4) for k, v in cell.items()}
            print(kind.name, name, result[kind.name][name], flush=True)
        result[kind.name]["over_classes"] = over_classes(model, kind)
        print(result[kind.name]["over_classes"], flush=True)
    write("shift.json", result)


if __name__ == "__main__":
    main()
