"""Checks of posteriors, task by task: k-hat, amortization gap, NUTS, and what corrections of beliefs cost.

`python benchmarks/posterior_checks.py` writes results/posterior_checks.json:

- `counts`: yes-or-no and count regressions with few rows per task under the true prior. `q_0` as it comes, and after
  a single step of its initializer, which is wrong by design; negative log likelihood of queries before and after the
  correction, by k-hat, with 95% half widths over tasks.
- `worlds`: joint models of classes in worlds of their own, of 4 and of 16 features, with a network trained there and
  without: k-hat and gap by how sure beliefs are, predictions beside those of NUTS, and what corrections cost.
- `wide`: tasks that the joint model of CIFAR-FS draws itself, in all its features, for its steps without corrections.
- `classes`: the joint model of CIFAR-FS on real tasks: k-hat, and what corrections cost.
- `sampled`: what NUTS predicts of real tasks under the same prior.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
import xarray as xr

import ebmeta
from ebmeta import reference
from ebmeta.diagnostics import belief_cost, check_posteriors, simulate_tasks
from ebmeta.model.features import on_features
from ebmeta.prediction.arviz import held_out
from lib.class_worlds import SHOTS, class_world, right_model, uncorrected
from lib.classifier import KINDS, classifier
from lib.common import read, write
from lib.count_tasks import count_tasks

NAME = "posterior_checks.json"
FEATURES, ITERATIONS = (4, 16), 300  # of the worlds, and of training there
TASKS, WIDE_TASKS, COST_TASKS = 200, 20, 200
NUTS_TASKS = {"world": 25, "real": 20}
NUTS = {"num_warmup": 200, "num_draws": 200, "num_chains": 2}
SURE = {"unsure": (0.0, 0.7), "half": (0.7, 0.9), "sure": (0.9, 1.01)}  # mean probability of the likeliest class
BINS = {"good": (-np.inf, 0.5), "usable": (0.5, 0.7), "poor": (0.7, np.inf)}


def interval(values: np.ndarray) -> list[float]:
    """Return mean and 95% half width."""
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return [round(float(np.mean(values)), 5), round(float(half), 5)]


def quantiles(values: xr.DataArray) -> list[float]:
    """Return 5th, 50th and 95th percentile over tasks."""
    return [round(float(v), 3) for v in np.quantile(values.values, [0.05, 0.5, 0.95])]


def by_khat(checks: xr.Dataset) -> dict[str, Any]:
    """Return negative log likelihoods by k-hat, after the last step."""
    row, out = checks.isel(step=-1), {}
    for name, (low, high) in BINS.items():
        inside = ((row["khat"] >= low) & (row["khat"] < high)).values
        out[name] = {"tasks": int(inside.sum())}
        if inside.sum() > 1:
            before, after = row["nll"].values[inside], row["nll_corrected"].values[inside]
            out[name] |= {"before": interval(before), "after": interval(after), "gain": interval(before - after)}
            out[name]["gap"] = interval(row["gap"].values[inside])
    return out


def counts(num_tasks: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for likelihood in ("bernoulli", "poisson"):
        model, batch = count_tasks(likelihood, num_tasks, 7)
        for name, steps in (("default", None), ("one_step", 1)):
            if steps is not None:
                model.initializer.num_steps = steps
            checks = check_posteriors(model, batch, num_draws=1000)
            result.setdefault(likelihood, {})[name] = {
                "khat": quantiles(checks["khat"][-1]),
                "usable": round(float((checks["khat"][-1] < 0.7).mean()), 4),
                "effective": round(float(checks["effective_size"][-1].mean() / 1000), 4),
                "gap": interval(checks["gap"].values[-1]),
                "nll": by_khat(checks),
            }
            print(likelihood, name, json.dumps(result[likelihood][name]), flush=True)
    return result


def khats(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch) -> dict[str, Any]:
    """Return k-hat and gap of the first and the last posterior, and of the last by how sure beliefs are."""
    checks = check_posteriors(model, batch, num_draws=400)
    with torch.no_grad():
        sure = model.infer(batch.unlabelled()).predict(-1)["probs"].amax(-1).mean(1).numpy()
    out: dict[str, Any] = {"tasks": len(batch)}
    for name, k in (("q0", 0), ("qK", -1)):
        row = checks.isel(step=k)
        out[name] = {"khat": quantiles(row["khat"]), "gap": quantiles(row["gap"])}
        out[name]["usable"] = round(float((row["khat"] < 0.7).mean()), 4)
    for name, (low, high) in SURE.items():
        inside = (sure >= low) & (sure < high)
        usable = int((checks["khat"].values[-1, inside] < 0.7).sum())
        out[name] = {"tasks": int(inside.sum()), "usable": usable, "share": f"{usable} of {inside.sum()}"}
    return out


def costs(model: ebmeta.EmpiricalBayes, tasks: Any) -> dict[str, Any]:
    """Return what corrections cost and buy, after every step; 0 for the beliefs of the first, which has none."""
    data = belief_cost(model, tasks, COST_TASKS)
    out = {str(name): np.round(np.nan_to_num(v.values), 4).tolist() for name, v in data.items()}
    return out | {"gain": round(float(data["own_nll"] - data["nll"][-1]), 4)}


def scores(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch) -> np.ndarray:
    """Return the negative log likelihood of the query labels after the last step, a mean for each task."""
    with torch.no_grad():
        inferred = model.infer(batch)
        log_prob = inferred.log_prob(-1, batch.query_y, inferred.x.new_zeros(1), predictive=True)
    return -log_prob.mean(1).double().numpy()


def beside_nuts(models: dict[str, ebmeta.EmpiricalBayes], batch: ebmeta.TaskBatch) -> dict[str, Any]:
    """Return scores of NUTS and of models that share the prior, and how much worse than NUTS each predicts."""
    tree = reference.nuts(models["collapsed"], batch, **NUTS)
    exact = -held_out(tree).transpose("task", "query").values.mean(1)
    halves = [-held_out(tree.isel(chain=[i])).transpose("task", "query").values.mean(1) for i in (0, 1)]
    out = {"tasks": len(batch), "nuts": interval(exact), "between_chains": interval(np.abs(halves[0] - halves[1]))}
    for name, model in models.items():
        each = scores(model, batch)
        out[name] = {"nll": interval(each), "above_nuts": interval(each - exact)}
    return out


def worlds() -> dict[str, Any]:
    """Return all checks of right models, with a network trained in their world and without."""
    out: dict[str, Any] = {}
    for size in FEATURES:
        corrected = right_model(size, ITERATIONS)
        models = {"collapsed": uncorrected(corrected), "network": corrected}
        for shots in SHOTS:
            batch = class_world(size, shots, 9).sample(TASKS)
            found: dict[str, Any] = {"nuts": beside_nuts(models, batch[: NUTS_TASKS["world"]])}
            for name, model in models.items():
                found[name] = {"khat": khats(model, batch), "cost": costs(model, batch)}
            out[f"features_{size}_shots_{shots}"] = found
            print(size, shots, json.dumps(found), flush=True)
    return out


def wide() -> dict[str, Any]:
    """Return k-hat in all features of the model of CIFAR-FS, for tasks that it draws itself."""
    model, out = classifier(), {}
    for name, kind in KINDS.items():
        drawn, _ = simulate_tasks(model, kind.sampler("val", 12).sample(WIDE_TASKS), seed=3)
        out[name] = khats(on_features(uncorrected(model)), drawn)
        print("wide", name, json.dumps(out[name]), flush=True)
    return out


def classes(split: str) -> dict[str, Any]:
    """Return costs and k-hat of the model of CIFAR-FS on real tasks."""
    model, out = classifier(), {}
    for name, kind in KINDS.items():
        tasks = kind.sampler(split, 12)
        out[name] = {"cost": costs(model, tasks), "khat": khats(model, tasks.sample(WIDE_TASKS))}
        print(split, name, json.dumps(out[name]), flush=True)
    return out


def sampled(split: str) -> dict[str, Any]:
    """Return what NUTS predicts of real tasks, beside the model of CIFAR-FS."""
    model, out = classifier(), {}
    models = {"collapsed": uncorrected(model), "network": model}
    for name, kind in KINDS.items():
        out[name] = beside_nuts(models, kind.sampler(split, 12).sample(NUTS_TASKS["real"]))
        print(split, name, json.dumps(out[name]), flush=True)
    return out


def main() -> None:
    """Run the checks and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["counts", "worlds", "wide", "classes", "sampled"]
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    parser.add_argument("--split", default="test", help="classes of the real tasks; of others nothing is written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {name: value for name, value in read(NAME).items() if name in (*parts, "cpu_seconds")}
    settings = {"class_draws": 400, "count_draws": 1000, "cost_tasks": COST_TASKS, "iterations": ITERATIONS}
    for name in arguments.only:
        started = time.process_time()
        found = {
            "counts": lambda: counts(400),
            "worlds": worlds,
            "wide": wide,
            "classes": lambda: classes(arguments.split),
            "sampled": lambda: sampled(arguments.split),
        }[name]()
        if name in ("classes", "sampled") and arguments.split != "test":
            continue
        result[name] = found
        result.setdefault("cpu_seconds", {})[name] = round(time.process_time() - started, 1)
        write(NAME, {"settings": settings} | result)


if __name__ == "__main__":
    main()
