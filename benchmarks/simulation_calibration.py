"""Simulation-based calibration: its false alarms, its power, and what it says of trained models.

The linear-Gaussian family: how often the exact posterior is refused, and posteriors that are wrong on
purpose; then trained models, with inputs given and with inputs simulated. Likelihoods that are not normal, whose
posterior is not Gaussian. Five-way CIFAR-FS tasks with the model of `few_shot_classification.py`.
`python benchmarks/simulation_calibration.py`; with `--figures` the two figures of the page as well.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ebmeta
from ebmeta.diagnostics import (
    SimulationCalibration,
    ecdf_difference,
    expected_coverage,
    simulation_based_calibration,
)
from ebmeta.model.features import on_features
from ebmeta.parts.gaussian import Gaussian
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.tasks.batch import TaskBatch
from lib.class_worlds import SHOTS, class_world, right_model, uncorrected
from lib.classifier import KINDS, classifier
from lib.common import ROOT, read, write
from lib.linear_gaussian import COUPLING, LOC, NOISE, SCALE, tasks
from lib.recipes import CHOSEN

NAME = "simulation_calibration.json"
SIZES = (50, 100, 300, 1000)
EXACT_REPEATS, WRONG_REPEATS = 2000, 200  # a rate of 5% is known within 1%
NUM_TASKS = 1000
FEATURES, ITERATIONS = (4, 16), 300  # of worlds of classes, and of training there
CLASS_TASKS, APART, FACTORS, POWER_REPEATS = 500, 400.0, (1.0, 0.95, 0.9, 0.8), 20
MASSES = np.array([0.5, 0.9])
FIGURES = ROOT.parent / "docs" / "_static" / "simulation_calibration"


def truth() -> ebmeta.EmpiricalBayes:
    """Return a model whose prior and noise are those of the family."""
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0, standardize=False).double()
    diagonal = torch.from_numpy(SCALE).diagonal()
    model.prior.loc.data = torch.from_numpy(LOC)
    model.prior.log_scale.data = diagonal.log()
    model.prior.lower.data = torch.from_numpy(SCALE) / diagonal[:, None]
    model.likelihood.log_noise.data.fill_(np.log(NOISE))
    return model


def posteriors(family: LinearGaussianTasks) -> dict[str, Callable[[TaskBatch], Gaussian]]:
    """Return the exact posterior, and four that are wrong on purpose."""

    def exact(batch: TaskBatch) -> Gaussian:
        return family.exact_posterior(batch, transductive=family.coupling is not None)

    def narrow(batch: TaskBatch) -> Gaussian:
        return exact(batch).with_(exact(batch).loc, exact(batch).precision / 0.8**2)

    def shifted(batch: TaskBatch) -> Gaussian:
        q = exact(batch)
        return q.with_(q.loc + 0.3 * q.scale, q.precision)

    def peeking(batch: TaskBatch) -> Gaussian:
        return family.exact_posterior(batch.pooled(), transductive=False)

    def prior(batch: TaskBatch) -> Gaussian:
        return truth().prior_of(batch)

    return {"exact": exact, "narrow": narrow, "shifted": shifted, "peeking": peeking, "prior": prior}


def power(family: LinearGaussianTasks) -> dict[str, Any]:
    """Return how often each posterior is refused, and which verdict it most often gets, by number of tasks."""
    model, result = truth(), {}
    for name, q in posteriors(family).items():
        result[name] = {}
        repeats = EXACT_REPEATS if name == "exact" else WRONG_REPEATS
        for size in SIZES:
            found = [
                simulation_based_calibration(model, simulator=family.simulate, posterior=q, num_tasks=size, seed=seed)
                for seed in range(repeats)
            ]
            rate = float(np.mean([not f.passed for f in found]))
            verdicts = Counter(f.verdict for f in found if not f.passed).most_common(1)
            word, times = verdicts[0] if verdicts else ("none", 0)
            result[name][str(size)] = {
                "repeats": repeats,
                "refused": rate,
                "standard_error": float(np.sqrt(rate * (1 - rate) / repeats)),
                "verdict": word,
                "share_of_verdict": times / max(1, round(rate * repeats)),
            }
        print(name, result[name], flush=True)
    return result


def facts(found: SimulationCalibration) -> dict[str, Any]:
    """Return the numbers of one run for the JSON file."""
    table, held = found.table, found.coverage(MASSES).values
    weights = table.isel(quantity=np.flatnonzero(table["kind"].values == "weight"))
    rows = {
        str(name): {k: round(float(table[k].sel(quantity=name)), 4) for k in ("p_value", "shift", "spread")}
        for name in table["quantity"].values
    }
    return {
        "verdict": found.verdict,
        "words": found.words,
        "p_value": found.p_value,
        "coverage_50": float(held[0]),
        "coverage_90": float(held[1]),
        "median_spread_of_weights": float(weights["spread"].median()),
        "largest_shift": float(abs(table["shift"]).max()),
        "quantities": rows,
    }


def trained(coupling: np.ndarray | None, num_tasks: int = NUM_TASKS) -> dict[str, Any]:
    """Train, and check q_0 and q_K where inputs are simulated and where they are given.

    The tasks are others than those by which `calibrated_training.py` chose the recipe.
    """
    model, new, exact, result = CHOSEN.train(coupling), tasks(coupling, seed=19), truth(), {}
    for world, source in (("simulated", {"simulator": new.simulate}), ("given", {"tasks": new})):
        for name, step in (("q0", 0), ("qK", -1)):
            result[f"{name}_{world}"] = facts(
                simulation_based_calibration(model, **source, step=step, num_tasks=num_tasks)
            )
        for name, flag in (("inductive", False), ("transductive", True)):
            found = simulation_based_calibration(
                exact,
                **source,
                posterior=lambda b, f=flag: new.exact_posterior(b, transductive=f),
                num_tasks=num_tasks,
            )
            result[f"{name}_{world}"] = facts(found)
    for name, part in result.items():
        print("coupled" if coupling is not None else "uncoupled", name, part["words"], flush=True)
    return result


def likelihoods(num_tasks: int = NUM_TASKS) -> dict[str, Any]:
    """Return calibration of q_0 for every likelihood of numbers; four labelled rows, a standard normal prior."""
    given, result = LinearGaussianTasks(LOC, SCALE, n_support=4, seed=3).sample(num_tasks), {}
    zeros = {"support_y": torch.zeros_like(given.support_y), "query_y": torch.zeros_like(given.query_y)}
    sizes = {f"{side}_size": torch.full_like(zeros[f"{side}_y"], 3.0) for side in ("support", "query")}
    for name in ("normal", "normal_per_task", "student_t", "bernoulli", "binomial", "poisson", "negative_binomial"):
        model = ebmeta.EmpiricalBayes.regressor(2, name, num_steps=0, standardize=False)
        own = sizes if name in ("binomial", "poisson", "negative_binomial") else {}
        batch = TaskBatch(given.support_x, zeros["support_y"], given.query_x, zeros["query_y"], **own)
        result[name] = facts(simulation_based_calibration(model, batch, num_tasks=num_tasks))
        print(name, result[name]["words"], flush=True)
    return result


def narrower(model: ebmeta.EmpiricalBayes, factor: float) -> Callable[[TaskBatch], Gaussian]:
    """Return the last posterior of a joint model, with standard deviations of class means times a factor."""

    def posterior(batch: TaskBatch) -> Gaussian:
        q = on_features(model).infer(batch).path[-1]
        return q.with_(q.loc, q.precision / factor**2)

    return posterior


def worlds(num_tasks: int = CLASS_TASKS) -> dict[str, Any]:
    """Return calibration of joint models in worlds of their own, and the power of the test there.

    Each has a network trained in its world. Where classes lie far apart the last posterior is exact, so that a narrower
    one shows what the test can see.
    """
    out: dict[str, Any] = {}
    for size in FEATURES:
        model = right_model(size, ITERATIONS)
        plain = uncorrected(model)
        for shots in SHOTS:
            source, part = class_world(size, shots, 11), {}
            for name, (asked, step) in {"q0": (model, 0), "qK": (model, -1), "collapsed": (plain, -1)}.items():
                part[name] = facts(
                    simulation_based_calibration(asked, simulator=source.simulate, step=step, num_tasks=num_tasks)
                )
                print(size, shots, name, part[name]["words"], flush=True)
            out[f"features_{size}_shots_{shots}"] = part
    apart = replace(class_world(FEATURES[0], 1, 12), between=APART)
    exact = uncorrected(right_model(FEATURES[0], 0)).double()
    exact.prior.log_between.fill_(float(np.log(APART)))
    out["power"] = {}
    for factor in FACTORS:
        found = [
            simulation_based_calibration(
                exact, simulator=apart.simulate, posterior=narrower(exact, factor), num_tasks=num_tasks, seed=seed
            )
            for seed in range(POWER_REPEATS)
        ]
        out["power"][f"narrower_by_{round(100 - 100 * factor)}"] = float(np.mean([not f.passed for f in found]))
        print(out["power"], flush=True)
    return out | {"num_tasks": num_tasks, "repeats": POWER_REPEATS}


def cifar_fs(num_tasks: int = CLASS_TASKS // 2) -> dict[str, Any]:
    """Return calibration of the first posterior of CIFAR-FS's joint model on tasks that it draws."""
    model, result = classifier(), dict[str, Any]()
    result |= {"num_tasks": num_tasks, "means_per_task": 5 * (model.predictor.num_weights - 1)}
    for kind in KINDS.values():
        found = simulation_based_calibration(model, kind.sampler("val", 21), step=0, num_tasks=num_tasks)
        result[f"{kind.n_shot}_shot"] = {"q0": facts(found)}
        print(kind.name, found.words, flush=True)
    return result


def figures(folder: Path = FIGURES) -> None:
    """Draw the shapes of the faults, and expected coverage."""
    import seaborn as sns
    from matplotlib.figure import Figure

    family, model = tasks(None, seed=2), truth()
    names = {"exact": "exact", "narrow": "20% too narrow", "shifted": "shifted by 0.3", "peeking": "sees the labels"}
    every = posteriors(family)
    found = {k: simulation_based_calibration(model, simulator=family.simulate, posterior=every[k]) for k in names}
    with sns.axes_style("ticks"):
        figure = Figure(figsize=(8.8, 5.4), layout="constrained")
        for (key, title), ax in zip(names.items(), figure.subplots(2, 2, sharex=True, sharey=True).flat, strict=True):
            ecdf_difference(found[key], ax=ax).set(title=title, xlabel="", ylabel="")
            ax.get_legend().remove()
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
        figure.supxlabel("posterior probability below the truth")
        figure.supylabel("share of tasks − expected")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "faults.png", dpi=110)
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        for key, ax in zip(("exact", "narrow"), figure.subplots(1, 2, sharey=True), strict=True):
            expected_coverage(found[key], ax=ax).set_title(names[key])
        figure.savefig(folder / "coverage.png", dpi=110)
    print(f"wrote {folder}")


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "coupled": lambda: trained(COUPLING),
    "power": lambda: power(tasks(None, seed=2)),
    "uncoupled": lambda: trained(None),
    "likelihoods": likelihoods,
    "worlds": worlds,
    "cifar_fs": cifar_fs,
}


def main() -> None:
    """Run the parts, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--figures", action="store_true", help="draw the figures, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.figures:
        figures()
        return
    for name in arguments.only:
        part = {name: PARTS[name]()}
        # Another process may have added parts of its own.
        kept = {k: v for k, v in read(NAME).items() if k in PARTS}
        write(NAME, {"num_draws": 100, "alpha": 0.05, "num_tasks": NUM_TASKS} | kept | part)


if __name__ == "__main__":
    main()
