"""Ways to train a model on the linear-Gaussian family, one of them chosen."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch

import ebmeta
from ebmeta.simulate.conjugate import log_evidence
from ebmeta.training.objective import Terms
from lib.linear_gaussian import tasks


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
