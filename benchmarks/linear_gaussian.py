"""The linear-Gaussian oracle: fitted prior, initializer and refinement against exact answers.

Four comparisons, each in nats: the evidence of the fitted prior against the exact maximum over a fixed
set of groups; q_0 against the exact posterior; refined predictions against the exact transductive and
inductive ones where inputs inform the weights; the cost of refinement where they do not.
`python benchmarks/linear_gaussian.py`
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from scipy.optimize import minimize

import ebmeta
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.simulate import conjugate
from ebmeta.tasks.batch import TaskBatch
from lib.common import write
from lib.linear_gaussian import COUPLING, LOC, NOISE, SCALE, tasks

TEST_TASKS = 4000


class Fixed:
    """The same groups in every batch: a finite data set whose exact maximum is known."""

    def __init__(self, batch: TaskBatch) -> None:
        self.batch = batch

    def sample(self, num_tasks: int, index: int = 0) -> TaskBatch:
        """Return all groups."""
        return self.batch


def evidence(model: ebmeta.EmpiricalBayes, batch: TaskBatch) -> torch.Tensor:
    """Return the mean log evidence per group in nats, differentiable in the model's parameters."""
    pooled = batch.pooled()
    x = model.predictor.features(pooled.support_x)
    prior = model.prior(batch.num_tasks, 1)
    return conjugate.log_evidence(prior, x, pooled.support_y, pooled.support_mask, model.likelihood.dispersion()).mean()


def exact_maximum(batch: TaskBatch) -> float:
    """Return the largest mean log evidence per group over prior and noise, by L-BFGS from the truth."""
    model = ebmeta.EmpiricalBayes.regressor(2, standardize=False).double()
    parameters = [model.prior.loc, model.prior.log_scale, model.prior.lower, model.likelihood.log_noise]
    sizes = [p.numel() for p in parameters]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        for p, values in zip(parameters, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
            p.data = torch.from_numpy(values.copy()).reshape(p.shape)
            p.grad = None
        loss = -evidence(model, batch)
        loss.backward()
        return loss.item(), np.concatenate([p.grad.numpy().ravel() for p in parameters])

    start = np.concatenate([LOC, np.log(np.diag(SCALE)), np.zeros(9), [np.log(NOISE)]])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-14})
    return -float(found.fun)


def fitted_prior(num_groups: int = 200, num_iterations: int = 1500) -> dict[str, float]:
    """Fit the prior by the evidence objective and compare its evidence with the exact maximum."""
    batch = tasks(None, seed=5).sample(num_groups).to(torch.float64)
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0, standardize=False).double()
    ebmeta.fit(
        model, Fixed(batch), num_iterations, objective="evidence", learning_rate=2e-2, progress=sys.stderr.isatty()
    )
    with torch.no_grad():
        reached = evidence(model, batch).item()
    best = exact_maximum(batch)
    return {"groups": num_groups, "reached": reached, "maximum": best, "shortfall": best - reached}


def refinement(coupling: np.ndarray | None, num_iterations: int = 2000) -> dict[str, object]:
    """Fit the prior by its evidence, then train all; compare predictions and posteriors with the exact ones."""
    family = tasks(coupling, seed=0)
    model = ebmeta.EmpiricalBayes.regressor(2, beta=0.0, standardize=False)
    ebmeta.fit(model, family, 500, 64, objective="evidence", learning_rate=2e-2, progress=sys.stderr.isatty())
    run = ebmeta.fit(model, family, num_iterations, batch_size=64, learning_rate=5e-3, progress=sys.stderr.isatty())
    test = tasks(coupling, seed=9).sample(TEST_TASKS)
    with torch.no_grad():
        terms = ebmeta.Objective("predictive").terms(model, test)
        path = model.posterior(test)
    nll = (terms.nll.sum(1) / terms.num_queries.sum()).tolist()
    path = [FullGaussian(q.loc.double(), q.precision.double()) for q in path]
    inductive, transductive = (family.exact_posterior(test, transductive=flag) for flag in (False, True))
    return {
        "nll_by_step": nll,
        "exact_inductive_nll": family.exact_nll(test, transductive=False).mean().item(),
        "exact_transductive_nll": family.exact_nll(test, transductive=True).mean().item(),
        "kl_q0_to_exact_inductive": path[0].kl(inductive).mean().item(),
        "kl_qK_to_exact_transductive": path[-1].kl(transductive).mean().item(),
        "kl_q0_to_exact_transductive": path[0].kl(transductive).mean().item(),
        "seconds": round(run.seconds, 1),
    }


def main() -> None:
    """Run the comparisons and write the result."""
    result = {
        "test_tasks": TEST_TASKS,
        "fitted_prior": fitted_prior(),
        "uninformative": refinement(None),
        "informative": refinement(COUPLING),
    }
    for name, part in result.items():
        print(name, part)
    write("linear_gaussian.json", result)


if __name__ == "__main__":
    main()
