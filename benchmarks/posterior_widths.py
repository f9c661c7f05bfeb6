"""Widths of class posteriors: how far they move when the query labels become known, against how far they say.

The joint model of CIFAR-FS on balanced tasks of validation and of test classes, beside accuracy, NLL and calibration,
and joint models in worlds of their own, where nothing is wrong with them.
`python benchmarks/posterior_widths.py`
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

import ebmeta
from ebmeta.diagnostics import posterior_updates
from lib.class_worlds import SHOTS, class_world, right_model, uncorrected
from lib.classifier import KINDS, classifier
from lib.common import read, write
from lib.kinds import Kind

NAME = "posterior_widths.json"
TASKS, UPDATES, ITERATIONS = 1000, 300, 300
FEATURES = (4, 16)  # of the worlds
SPLITS = {"validation": "val", "test": "test"}


def updates(model: ebmeta.EmpiricalBayes, tasks: Any) -> dict[str, Any]:
    """Return the spread of every step, in single coordinates and along rows."""
    data = posterior_updates(model, tasks, UPDATES)
    names = [f"spread{end}{half}" for end in ("", "_rows") for half in ("", "_half_width")]
    return {name: data[name].values.round(4).tolist() for name in names}


def predicted(model: ebmeta.EmpiricalBayes, kind: Kind) -> float:
    """Return the spread of the first posterior in coordinates that a power of the likelihood implies by itself.

    Means and rows scatter alike, by between and within of the model, about the weights that posteriors give to rows.
    """
    with torch.no_grad():
        between, within, power = (float(v) for v in (model.prior.between, model.prior.within, model.prior.power))
    few, many = kind.n_shot, kind.n_shot + kind.n_query
    a, b = (power * between * n / (within + power * between * n) for n in (few, many))
    moved = b**2 * (between + within / many) + a**2 * (between + within / few) - 2 * a * b * (between + within / many)
    return round(float(np.sqrt(moved / ((b - a) * between))), 4)


def real(splits: list[str]) -> dict[str, Any]:
    """Return widths and predictions of the model of CIFAR-FS."""
    model, out = classifier(), dict[str, Any]()
    with torch.no_grad():
        out["power"] = round(float(model.prior.power), 4)
    for split in splits:
        for shots, kind in KINDS.items():
            tasks = kind.sampler(SPLITS[split], 2)
            scores = ebmeta.evaluate(model, tasks, TASKS)
            found = {name: scores[name].values.round(5).tolist() for name in ("accuracy", "nll", "ece")}
            out.setdefault(split, {})[shots] = found | updates(model, tasks) | {"predicted": predicted(model, kind)}
            print(split, shots, out[split][shots], flush=True)
    return out


def worlds() -> dict[str, Any]:
    """Return widths of right models, with a network trained in their world and without."""
    out: dict[str, Any] = {}
    for size in FEATURES:
        corrected = right_model(size, ITERATIONS)
        for shots in SHOTS:
            tasks = class_world(size, shots, 9).sample(UPDATES)
            found = {"network": updates(corrected, tasks), "collapsed": updates(uncorrected(corrected), tasks)}
            out[f"features_{size}_shots_{shots}"] = found
            print(size, shots, found, flush=True)
    return out


def main() -> None:
    """Ask the models and write what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=["real", "worlds"], default=["real", "worlds"])
    parser.add_argument("--splits", nargs="*", choices=list(SPLITS), default=list(SPLITS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {name: value for name, value in read(NAME).items() if name in ("real", "worlds", "cpu_seconds")}
    for name in arguments.only:
        started = time.process_time()
        found = worlds() if name == "worlds" else result.get("real", {}) | real(arguments.splits)
        result[name] = found
        result.setdefault("cpu_seconds", {})[name] = round(time.process_time() - started, 1)
        write(NAME, {"tasks": TASKS, "update_tasks": UPDATES, "iterations": ITERATIONS} | result)


if __name__ == "__main__":
    main()
