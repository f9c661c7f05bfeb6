"""Checks of posteriors, task by task: k-hat, amortization gap, and predictions corrected by importance weights.

`python benchmarks/posterior_checks.py` writes results/posterior_checks.json:

- `counts`: yes-or-no and count regressions with few rows per task under the true prior. `q_0` as it comes, and after
  a single step of its initializer, which is wrong by design; negative log likelihood of queries before and after the
  correction, by k-hat, with 95% half widths over tasks.
- `classes`: a trained classifier on the test classes of CIFAR-FS: k-hat and gap of every step against the conditional
  posterior given the support set, and given the query labels too; distance from NUTS, and what NUTS predicts.
- `width`: the same classifier with the variance of $q_K$ multiplied by a factor: the best factor on validation classes,
  and what it does on test classes.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
import xarray as xr

import ebmeta
from ebmeta import reference
from ebmeta.diagnostics import against_reference, check_posteriors
from ebmeta.prediction.arviz import held_out
from ebmeta.prediction.calibration import calibration_error
from ebmeta.prediction.trees import marginals
from lib.classifier import KINDS, classifier
from lib.common import read, write
from lib.count_tasks import count_tasks
from lib.kinds import Kind

NAME = "posterior_checks.json"
WIDTH_TASKS, BOTH_TASKS, NUTS_TASKS = 500, 64, 64
FACTORS = [0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0]
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


def by_target(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch, observe: Any) -> dict[str, Any]:
    checks = check_posteriors(model, batch, observe=observe, num_draws=400)
    last = checks.sizes["step"] - 1
    return {
        f"q{k}": {name: quantiles(checks[name][k]) for name in ("khat", "khat_rows", "gap", "gap_unseen")}
        | {"usable": float((checks["khat"][k] < 0.7).mean())}
        for k in (0, last)
    } | {"tasks": len(batch), "log_evidence": quantiles(checks["log_evidence"])}


def classes(model: ebmeta.EmpiricalBayes, kind: Kind, split: str, num_tasks: int, num_nuts: int) -> dict[str, Any]:
    batch = kind.sampler(split, 12).sample(num_tasks)
    out: dict[str, Any] = {
        "support": by_target(model, batch, "support"),
        "both": by_target(model, batch[:BOTH_TASKS], "both"),
    }
    some = batch[:num_nuts]
    tree = reference.nuts(model, some, num_warmup=200, num_draws=250, num_chains=2)
    near = against_reference(model, some, tree)
    probs = ebmeta.predict(model, some, num_draws=0)["predictive/probs"]
    nll = -np.log(np.take_along_axis(probs.values, some.query_y.numpy()[None, ..., None], -1)[..., 0])
    exact = -held_out(tree).transpose("task", "query").values
    out["nuts"] = {"tasks": len(some), "nll_nuts": interval(exact.mean(1))} | {
        f"q{k}": {name: quantiles(near[name][k]) for name in near} | {"nll": interval(nll[k].mean(1))}
        for k in (0, len(nll) - 1)
    }
    print(split, kind.n_shot, json.dumps(out), flush=True)
    return out


@torch.no_grad()
def widths(model: ebmeta.EmpiricalBayes, kind: Kind, num_tasks: int) -> dict[str, Any]:
    """Score predictions with the variance of the last posterior multiplied by each factor."""

    def scores(split: str, seed: int, factors: list[float]) -> dict[str, Any]:
        batch = kind.sampler(split, seed).sample(num_tasks)
        rows: dict[float, list[torch.Tensor]] = {f: [] for f in factors}
        for chunk in marginals(model, batch):
            loc, var = chunk.inferred.marginal(-1)
            for f in factors:
                rows[f].append(model.likelihood.predict(loc, f * var, chunk.batch.way_mask)["probs"])
        out = {}
        for f, parts in rows.items():
            p = torch.cat(parts)
            of_truth = p.gather(-1, batch.query_y.unsqueeze(-1)).squeeze(-1)
            top = p.max(-1)
            ece = calibration_error(top.values.numpy(), (top.indices == batch.query_y).numpy().astype(float))
            out[f] = {"nll": interval(-of_truth.clamp(min=1e-30).log().mean(1).numpy()), "ece": round(float(ece), 4)}
        return out

    val = scores("val", 11, FACTORS)
    best = min(FACTORS, key=lambda f: val[f]["nll"][0])
    test = scores("test", 12, sorted({1.0, best}))
    return {
        "best_factor": best,
        "validation": {f"{f:g}": v for f, v in val.items()},
        "test": test[1.0],
        "test_best": test[best],
    }


def main() -> None:
    """Run the checks and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=["counts", "classes", "width"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--tasks", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = read(NAME)
    result |= {"settings": {"class_draws": 400, "count_draws": 1000, "width_tasks": WIDTH_TASKS}}
    wanted = arguments.only or ["counts", "classes", "width"]
    if "counts" in wanted:
        result["counts"] = counts(400)
        keep(arguments.split, result)
    if "classes" in wanted or "width" in wanted:
        model = classifier()
    for name, kind in KINDS.items():
        if "width" in wanted:
            result.setdefault("width", {})[name] = widths(model, kind, WIDTH_TASKS)
            print("width", name, json.dumps(result["width"][name]), flush=True)
            keep(arguments.split, result)
    for name, kind in KINDS.items():
        if "classes" in wanted:
            found = classes(model, kind, arguments.split, arguments.tasks, NUTS_TASKS)
            result.setdefault("classes", {})[name] = found
            keep(arguments.split, result)


def keep(split: str, result: dict[str, Any]) -> None:
    """Write what is there; nothing of validation classes alone."""
    if split == "test":
        write(NAME, result)


if __name__ == "__main__":
    main()
