"""Whether training by the evidence has reached its maximum, which a fixed number of iterations may miss."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from ebmeta.foundation.maximum import gain_left, shortfall
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.source import TaskSource
from ebmeta.training.evidence import Evidence
from ebmeta.training.objective import Objective

__all__ = ["still_rising"]

WORTH = 1.0  # nats: steps on a part of the groups end about as far from the maximum of all


def still_rising(model: EmpiricalBayes, tasks: TaskSource, objective: Objective) -> list[str]:
    """Return a note where the evidence of all groups is below its maximum.

    The learning rate falls to 0, so the loss is level at the end in any case. What is left is
    therefore computed for all groups at once (`ebmeta.foundation.maximum.gain_left`).

    Args:
        model: a model after training.
        tasks: what it was trained on; nothing is known of others than groups whose rows are fixed.
        objective: what was minimised.
    """
    known = tasks.has_fixed_rows and model.predictor.embedder is None
    if objective.kind != "evidence" or model.likelihood.categorical or not known:
        return []
    evidence = Evidence(copy.deepcopy(model).cpu().double(), tasks, hyperprior=False, num_draws=objective.num_draws)

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        flat = torch.from_numpy(at)
        return evidence.value(flat), evidence.gradient(flat).numpy()

    left = gain_left(loss, evidence.read().numpy())
    if left < WORTH:
        return []
    return [
        f"the evidence of all {tasks.num_groups} groups is below its maximum ({shortfall(left)}): use "
        "ebmeta.fit_evidence, which goes there, or more iterations or a larger learning_rate"
    ]
