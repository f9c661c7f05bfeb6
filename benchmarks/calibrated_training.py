"""What makes a trained refined posterior calibrated, where inputs depend on the weights: recipes side by side.

The linear-Gaussian family with noisy looks at the weights for inputs. Each recipe trains a model anew; its refined
posterior is held against the exact one, and tested by simulation. `python benchmarks/calibrated_training.py`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import RESULTS, write
from linear_gaussian import COUPLING, tasks

import ebmeta
from ebmeta.conjugate import log_evidence
from ebmeta.diagnostics import simulation_based_calibration
from ebmeta.gaussian import FullGaussian
from ebmeta.objective import Terms

NAME = "calibrated_training.json"
REPEATS, NUM_TASKS, TEST_TASKS = 3, 1000, 4000


class JointScore(ebmeta.Objective):
    r"""The log score of all query labels of a task together, $-\log \mathbb E_q \prod_i p(y_i \mid x_i, w)$.

    The sum of the scores of single labels depends on the posterior through one variance per query, which the noise
    level may stand in for; the joint score depends on how errors go together, which it may not.
    """

    def terms(
        self,
        model: ebmeta.EmpiricalBayes,
        batch: ebmeta.TaskBatch,
        num_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Terms:
        """Return the terms in closed form; for normal labels."""
        inferred, noise = model.infer(batch, num_steps), model.likelihood.dispersion()
        nll = [-log_evidence(q, inferred.x, batch.query_y, batch.query_mask, noise) for q in inferred.path]
        return Terms(torch.stack(nll), inferred.kl(), batch.num_queries, model.beta)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, after its prior has been fitted by the evidence."""

    num_iterations: int = 2000
    num_steps: int = 3
    anytime: float = 0.5
    joint: bool = False
    batch_size: int = 64

    def train(self, coupling: np.ndarray | None) -> ebmeta.EmpiricalBayes:
        """Train a model on the family."""
        family, show = tasks(coupling, seed=0), sys.stderr.isatty()
        model = ebmeta.EmpiricalBayes.regressor(2, beta=0.0, num_steps=self.num_steps, standardize=False)
        ebmeta.fit(model, family, 500, 64, objective="evidence", learning_rate=2e-2, progress=show)
        goal = (JointScore if self.joint else ebmeta.Objective)(anytime=self.anytime)
        ebmeta.fit(
            model, family, self.num_iterations, self.batch_size, objective=goal, learning_rate=5e-3, progress=show
        )
        return model


RECIPES = {
    "short": Recipe(),
    "long": Recipe(6000),
    "joint": Recipe(joint=True),
    "last_step": Recipe(anytime=0.0),
    "six_steps": Recipe(num_steps=6),
    "large_batch": Recipe(batch_size=256),
    "joint_long": Recipe(6000, joint=True),
    "long_large_batch": Recipe(6000, batch_size=256),
}
CHOSEN = RECIPES["long"]


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
    path = RESULTS / NAME
    for name in arguments.only:
        before = json.loads(path.read_text()) if path.is_file() else {}
        kept = {k: v for k, v in before.items() if k in RECIPES}
        part = {name: check(RECIPES[name])}
        print(name, part[name], flush=True)
        write(NAME, {"repeats": REPEATS, "num_tasks": NUM_TASKS, "test_tasks": TEST_TASKS} | kept | part)


if __name__ == "__main__":
    main()
