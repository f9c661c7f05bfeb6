"""What each choice of the default recipe is worth: CIFAR-FS, 5-way, on *validation* classes.

One training run per variant, on the mixture of 1-shot and 5-shot, balanced and imbalanced tasks, each
scored on the same validation tasks (not those that stop the training). The test classes are not
touched. Resumable: a variant in the JSON file is not run again. `python benchmarks/ablation.py --only default mixture`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import ebmeta
from lib.common import by_step, cifar_fs, read, write
from lib.kinds import RECIPE

NAME = "ablation.json"
TASKS, ITERATIONS, TRAIN_CLASSES = 400, 600, 64
KINDS = {
    f"{shots}shot_{'balanced' if imbalance is None else 'imbalanced'}": {
        "n_shot": shots,
        "n_query": 15 if imbalance is None else 75,
        "imbalance": imbalance,
    }
    for shots in (1, 5)
    for imbalance in (None, 2.0)
}


@dataclass(frozen=True)
class Variant:
    """A departure from the default.

    Arguments of the model, the objective and the fit; a change after building and one after training; and a power
    of the features, which are not negative.
    """

    model: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    change: Callable[[ebmeta.EmpiricalBayes], None] | None = None
    after: Callable[[ebmeta.EmpiricalBayes], None] | None = None
    power: float = 1.0


def moments(model: ebmeta.EmpiricalBayes) -> None:
    """Keep the likelihood of inputs at the moments of training classes."""
    model.prior.log_power.requires_grad_(False)


def no_network(model: ebmeta.EmpiricalBayes) -> None:
    """Believe what the model says."""
    for part in (model.refiner.synthetic_gradient.readout, model.refiner.confidence):
        part.requires_grad_(False)


def no_volume(model: ebmeta.EmpiricalBayes) -> None:
    """Count every coordinate in the volume of a class."""
    model.prior.volume.requires_grad_(False)


def no_metric(model: ebmeta.EmpiricalBayes) -> None:
    """Look at directions from the centre in the metric of the features as they are."""
    model.predictor.center.copy_(torch.from_numpy(cifar_fs("train").X).double().mean(0))  # what has one is not measured


def no_temperature(model: ebmeta.EmpiricalBayes) -> None:
    """Report what the steps arrive at, without a temperature."""
    model.refiner.temperature.forget()


VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "gibbs": Variant(objective={"kind": "gibbs"}),
    "last_step_only": Variant(objective={"anytime": 0.0}),
    "k_1": Variant({"num_steps": 1}),
    "k_6": Variant({"num_steps": 6}),
    "wide": Variant({"width": 32}),
    "beta_0": Variant({"beta": 0.0}),
    "beta_0_1": Variant({"beta": 0.1}),
    "mixture": Variant({"synthetic_gradient": "mixture"}),
    "residual": Variant({"synthetic_gradient": "residual"}),
    "mlp": Variant({"synthetic_gradient": "mlp", "n_way": 5}),
    "no_network": Variant(change=no_network),
    "moments": Variant(change=moments),
    "no_volume": Variant(change=no_volume),
    "no_profile": Variant({"profile": 0}),
    "groups": Variant({"profile": 32}),
    "no_metric": Variant(change=no_metric),
    "not_harder": Variant(fit={"harder": 0.0}),
    "no_temperature": Variant(after=no_temperature),
    "square_root": Variant(power=0.5),
}


def samplers(split: str, seed: int, power: float) -> ebmeta.MixedSampler:
    """Return the mixture of tasks of one split."""
    sources = [cifar_fs(split, seed=seed, **kind) for kind in KINDS.values()]
    for source in sources:
        source.X = source.X**power
    return ebmeta.MixedSampler(sources)


def run(variant: Variant) -> dict[str, Any]:
    """Train and score one variant."""
    model = ebmeta.EmpiricalBayes.classifier(256, **({"profile": TRAIN_CLASSES} | variant.model))
    if variant.change is not None:
        variant.change(model)
    objective = ebmeta.Objective(**variant.objective)
    fitted = ebmeta.fit(
        model,
        samplers("train", 0, variant.power),
        ITERATIONS,
        validation=samplers("val", 1, variant.power),
        objective=objective,
        progress=sys.stderr.isatty(),
        **variant.fit,
    )
    if variant.after is not None:
        variant.after(model)
    scores = {
        kind: by_step(ebmeta.evaluate(model, sampler, TASKS, num_bootstrap=2))
        for kind, sampler in zip(KINDS, samplers("val", 7, variant.power).samplers, strict=True)
    }
    return {"seconds": round(fitted.seconds, 1), "best_iteration": fitted.best_iteration, **scores}


def main() -> None:
    """Train and score every variant that is not done, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*VARIANTS], choices=[*VARIANTS], help="variants to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def stored() -> dict[str, Any]:  # another process may have added variants of its own
        found = read(NAME)
        same = found.get("recipe") == RECIPE and found.get("iterations") == ITERATIONS
        return found if same else {"tasks": TASKS, "iterations": ITERATIONS, "recipe": RECIPE, "split": "val"}

    for name in arguments.only:
        if name not in stored():
            piece = run(VARIANTS[name])
            write(NAME, stored() | {name: piece})
            for kind in KINDS:
                print(name, kind, {k: piece[kind][k][-1] for k in ("accuracy", "nll", "ece")}, flush=True)


if __name__ == "__main__":
    main()
