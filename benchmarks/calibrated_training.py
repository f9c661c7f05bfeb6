"""What makes a trained refined posterior calibrated, where inputs depend on the weights: recipes side by side.

The linear-Gaussian family with noisy looks at the weights for inputs. Each recipe trains a model anew; its refined
posterior is held against the exact one, and tested by simulation. `python benchmarks/calibrated_training.py`
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

import ebmeta
from ebmeta.diagnostics import simulation_based_calibration
from ebmeta.parts.gaussian import FullGaussian
from lib.common import read, write
from lib.linear_gaussian import COUPLING, tasks
from lib.recipes import RECIPES, Recipe

NAME = "calibrated_training.json"
REPEATS, NUM_TASKS, TEST_TASKS = 3, 1000, 4000


def check(recipe: Recipe) -> dict[str, Any]:
    """Train by a recipe and return what its refined posterior is worth."""
    started = time.process_time()
    model = recipe.train(COUPLING)
    seconds, new = time.process_time() - started, tasks(COUPLING, seed=9)
    test = new.sample(TEST_TASKS, index=10_000)  # beyond the batches of the simulations
    with torch.no_grad():
        terms, path = ebmeta.Objective().terms(model, test), model.posterior(test)
    exact = new.exact_posterior(test, transductive=True)
    last = FullGaussian(path[-1].loc.double(), path[-1].precision.double())
    nll = (terms.nll[-1].sum() / terms.num_queries.sum()).item()
    found = [
        simulation_based_calibration(model, simulator=new.simulate, num_tasks=NUM_TASKS, seed=seed)
        for seed in range(REPEATS)
    ]
    spreads = [f.table["spread"].isel(quantity=f.pit["kind"].values == "weight").values for f in found]
    return {
        "cpu_seconds": round(seconds, 1),
        "kl_to_exact": last.kl(exact).mean().item(),
        "excess_nll": nll - new.exact_nll(test, transductive=True).mean().item(),
        "coverage_90": float(np.mean([f.coverage(np.array([0.9]))[0] for f in found])),
        "largest_spread": float(np.mean(spreads, axis=0).max()),
        "passed": sum(f.passed for f in found),
        "least_p_value": min(f.p_value for f in found),
        "largest_p_value": max(f.p_value for f in found),
    }


def main() -> None:
    """Run the recipes, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=list(RECIPES), help="recipes to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.only:
        kept = {k: v for k, v in read(NAME).items() if k in RECIPES}
        part = {name: check(RECIPES[name])}
        print(name, part[name], flush=True)
        write(NAME, {"repeats": REPEATS, "num_tasks": NUM_TASKS, "test_tasks": TEST_TASKS} | kept | part)


if __name__ == "__main__":
    main()
