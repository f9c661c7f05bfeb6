"""What training does after its last step: fits the temperature of tasks (`ebmeta.refine.temperature`)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.trees import evaluating
from ebmeta.refine.base import QueryState
from ebmeta.refine.mixture import MixtureRefiner
from ebmeta.tasks.batch import TaskBatch

__all__ = ["fit_task_temperature"]

LEAST_PROBABILITY = 1e-9  # of a label


@torch.no_grad()
def fit_task_temperature(model: EmpiricalBayes, batches: Iterable[TaskBatch]) -> None:
    r"""Fit the temperature of every task to labelled tasks that training has not drawn; nothing else changes.

    $$ \min_{a_k, b_k} \sum_{t, i} -\log p\big(y_{ti} \mid \eta_{ti} \sim
       \mathcal N(t_k\, m_k^\top x_{ti},\; x_{ti}^\top \Lambda_k^{-1} x_{ti})\big), \qquad k = 1, \dots, K, $$

    the classes' probabilities by `Categorical.moments`. Models without such a temperature are left as they are.

    Args:
        model: a trained model.
        batches: labelled tasks.

    Source: theory "Refinement as a mixture model".
    """
    refiner, likelihood = model.refiner, model.likelihood
    if not isinstance(refiner, MixtureRefiner):
        return
    refiner.temperature.forget()
    kept = []
    with evaluating(model):
        for batch in batches:
            inferred = model.infer(batch)
            states = [QueryState(inferred.setting, iterate.q) for iterate in inferred.iterates[1:]]
            kept.append((batch, [(*s.marginal, s.once(refiner.synthetic_gradient.read).by_task) for s in states]))
    for k in range(refiner.num_steps):

        def nll(factor: torch.Tensor, k: int = k) -> torch.Tensor:
            lost = []
            parts = torch.split(factor, [len(batch) for batch, _ in kept])
            for (batch, steps), t in zip(kept, parts, strict=True):
                loc, var, _ = steps[k]
                p, _ = likelihood.moments(t[:, None, None] * loc, var, batch.way_mask)
                assert batch.query_y is not None  # for the type checker
                of_label = p.gather(-1, batch.query_y.unsqueeze(-1)).squeeze(-1)
                lost.append(-of_label.clamp(min=LEAST_PROBABILITY).log()[batch.query_mask])
            return torch.cat(lost).mean()

        refiner.temperature.fit(k, torch.cat([steps[k][2] for _, steps in kept]), nll)
