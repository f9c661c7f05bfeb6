"""Classifiers of CIFAR-FS features, each trained once and kept in a folder."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ebmeta
from lib.common import model_folder
from lib.kinds import DEFAULT, FEW, FIVE, MANY, RECIPE, WAYS, Kind, mixture

TRAIN_CLASSES = 64
ITERATIONS = 2000
#: Tasks that it is asked about: balanced, and told to be so.
KINDS = {f"{shots}shot": Kind(5, shots) for shots in (1, 5)}
UNTOLD = "untold"  # the default model, where tasks do not state their class proportions
PLAIN, PLAIN_UNTOLD = "plain", "plain_untold"  # `fit` on plain tasks, and nothing else
MIXTURE, MIXTURE_UNTOLD = "mixture", "mixture_untold"  # a model of labels alone, trained as the default model is
BLIND = "blind"  # the default model, of the training classes alone: validation classes have no say in it
#: The model that another name asks again.
SAME = {UNTOLD: "default", PLAIN_UNTOLD: PLAIN, MIXTURE_UNTOLD: MIXTURE}
#: Models: the kinds of task that each is meta-trained on, and those that it is tested on.
MODELS: dict[str, tuple[list[Kind], list[Kind]]] = {
    "default": (DEFAULT, [*FIVE, *FEW]),
    UNTOLD: (DEFAULT, FIVE),
    PLAIN: ([Kind(5, 1)], FIVE),
    PLAIN_UNTOLD: ([Kind(5, 1)], FIVE),
    MIXTURE: (DEFAULT, [*FIVE, *FEW]),
    MIXTURE_UNTOLD: (DEFAULT, FIVE),
    "ways": (WAYS, MANY),
    BLIND: (DEFAULT, []),
}


def train(
    name: str, iterations: int, checkpoint: Path | None = None, **options: Any
) -> tuple[ebmeta.EmpiricalBayes, dict[str, Any]]:
    """Train a model, with options of its own where given; return it and the facts of the run."""
    kinds, _ = MODELS[name]
    if name == MIXTURE:
        options = {"synthetic_gradient": "mixture", **options}
    started, show = time.process_time(), sys.stderr.isatty()
    if name == PLAIN:
        model = ebmeta.EmpiricalBayes.classifier(256, **options)
        run = ebmeta.fit(model, kinds[0].sampler("train", 0), iterations, checkpoint=checkpoint, progress=show)
    else:
        model = ebmeta.EmpiricalBayes.classifier(256, profile=TRAIN_CLASSES, **options)
        tasks, others = mixture(kinds, "train", 0), None if name == BLIND else mixture(kinds, "val", 1)
        run = ebmeta.fit(model, tasks, iterations, validation=others, checkpoint=checkpoint, progress=show)
    facts = {
        "seconds": round(run.seconds, 1),
        "cpu_seconds": round(time.process_time() - started, 1),
        "iterations": run.history.sizes["iteration"],
        "best_iteration": run.best_iteration,
    }
    return model, facts


def kept(name: str, iterations: int, cache: Path) -> bool:
    """Return whether a model was trained before."""
    return (cache / f"{SAME.get(name, name)}_{iterations}_recipe{RECIPE}" / "run.json").is_file()


def trained(
    name: str, iterations: int, cache: Path, widths: str = "trained"
) -> tuple[ebmeta.EmpiricalBayes, dict[str, Any]]:
    """Train a model, or load it where it was trained before."""
    name = SAME.get(name, name)
    kind = name if widths == "trained" else f"{name}_{widths}"
    folder = cache / f"{kind}_{iterations}_recipe{RECIPE}"
    if not (folder / "run.json").is_file():
        options = {} if widths == "trained" else {"widths": widths}
        model, facts = train(name, iterations, folder.with_suffix(".checkpoint"), **options)
        ebmeta.save(model, folder)
        (folder / "run.json").write_text(json.dumps(facts))
    return ebmeta.load(folder), json.loads((folder / "run.json").read_text())


def classifier(name: str = "default", widths: str = "trained") -> ebmeta.EmpiricalBayes:
    """Return a model, from the folder `EBMETA_CACHE` (by default `cache`, here) where it is there.

    Args:
        name: of `MODELS`.
        widths: how its posteriors' widths are found, see `EmpiricalBayes.classifier`.
    """
    model, _ = trained(name, ITERATIONS, model_folder(), widths=widths)
    return model.eval()


@torch.no_grad()
def last_probs(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch) -> Tensor:
    """Return class probabilities after the last step."""
    return model.infer(batch).predict(-1)["probs"]
