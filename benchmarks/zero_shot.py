"""Tasks without a single label: refinement from the prior towards the exact posterior, in nats per query.

Three kinds of task, a model trained on each: inputs along a line that tells the weights; the same with two
labelled rows; and lines that tell nothing. `python benchmarks/zero_shot.py`
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import torch

import ebmeta
from ebmeta.plots.axes import save_figure
from ebmeta.plots.posteriors import posterior_path
from ebmeta.simulate.spinning_lines import RingPosterior, SpinningLines
from ebmeta.tasks.batch import TaskBatch
from lib.common import ROOT, write

FAMILY = SpinningLines()
KINDS = {
    "no_labels": FAMILY,
    "two_labels": replace(FAMILY, n_support=2),
    "uninformative": replace(FAMILY, coupled=False),
}
TEST_TASKS = 2000
PICTURE = ROOT.parent / "docs" / "_static" / "zero_shot" / "path.png"


def gaussian_nll(posterior: RingPosterior, batch: TaskBatch) -> torch.Tensor:
    """Return the negative log likelihood of every query under the Gaussian of the posterior's moments."""
    batch = batch.to(torch.float64)
    loc, var = posterior.gaussian().marginal(batch.query_x)
    total = var.squeeze(-1) + posterior.noise**2
    return ((batch.query_y - loc.squeeze(-1)).square() / total + torch.log(2 * math.pi * total)) / 2


def exact(family: SpinningLines, batch: TaskBatch) -> dict[str, float]:
    """Return what the exact answers and the best Gaussians score, with and without what inputs tell."""
    out = {}
    for name, told in (("exact", True), ("prior", False)):
        posterior = family.exact_posterior(batch, transductive=told)
        out[f"{name}_nll"] = family.exact_nll(batch, transductive=told).mean().item()
        out[f"{name}_best_gaussian_nll"] = gaussian_nll(posterior, batch).mean().item()
    return out


def train(family: SpinningLines, num_iterations: int) -> tuple[ebmeta.EmpiricalBayes, float]:
    """Fit the prior by its evidence, then all parts by the predictive objective; also return the seconds."""
    show = sys.stderr.isatty()
    model = ebmeta.EmpiricalBayes.regressor(2, beta=0.0)
    first = ebmeta.fit(model, family, 500, 64, objective="evidence", learning_rate=2e-2, progress=show)
    second = ebmeta.fit(model, family, num_iterations, 64, learning_rate=5e-3, progress=show)
    return model, first.seconds + second.seconds


def compare(
    family: SpinningLines, num_iterations: int = 2000, test_tasks: int = TEST_TASKS
) -> tuple[ebmeta.EmpiricalBayes, dict[str, Any]]:
    """Train on one kind of task and compare with the exact answers on new tasks of that kind."""
    model, seconds = train(family, num_iterations)
    test = replace(family, seed=family.seed + 9).sample(test_tasks)
    with torch.no_grad():
        nll = ebmeta.Objective().terms(model, test).nll / test.num_queries
    known = exact(family, test)
    mean, gap = nll.mean(1).tolist(), nll[-1] - nll[0]
    return model, known | {
        "nll_by_step": mean,
        "excess_over_exact": mean[-1] - known["exact_nll"],
        "change_by_refinement": mean[-1] - mean[0],
        "change_half_width": (1.96 * gap.std() / len(gap) ** 0.5).item(),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run the comparisons, write the result and draw one task's path."""
    result: dict[str, Any] = {"test_tasks": TEST_TASKS, "queries": FAMILY.n_query}
    for name, family in KINDS.items():
        model, result[name] = compare(family)
        print(name, result[name], flush=True)
        if name == "no_labels":
            batch = replace(family, seed=family.seed + 10).sample(1)
            posterior = family.exact_posterior(batch, transductive=True)
            with torch.no_grad():
                save_figure(posterior_path(model.posterior(batch), posterior.log_density), PICTURE, overwrite=True)
    write("zero_shot.json", result)


if __name__ == "__main__":
    main()
