"""Validation on the same tasks at every look, which keeps the best parameters and says when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ebmeta.foundation.seeding import stream
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.source import TaskSource
from ebmeta.training.objective import Objective, Terms
from ebmeta.training.world import ALONE, World

__all__ = ["Validation"]

DRAWS = 64  # the predictive score of a few draws is biased
BATCH = 32


@dataclass(kw_only=True)
class Validation:
    """The settings of validation, and its state.

    Args:
        tasks: source of validation tasks; without one nothing is ever validated.
        objective: what training minimises.
        num_tasks: tasks per validation, the same every time.
        every: iterations between validations.
        patience: validations without improvement before stopping, or None to never stop.
        seed: seed of the draws.
        best_loss: lowest loss so far, in nats per query.
        best_iteration: iterations after which it was reached.
        stale: validations since then.
        stopped: whether the run is to end.
        best: the parameters of the lowest loss.
    """

    tasks: TaskSource | None
    objective: Objective
    num_tasks: int
    every: int
    patience: int | None
    seed: int
    best_loss: float = math.inf
    best_iteration: int = 0
    stale: int = 0
    stopped: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)

    def due(self, iteration: int, last: bool) -> bool:
        """Return whether to validate after an iteration."""
        return self.tasks is not None and (last or iteration % self.every == 0)

    def look(self, model: EmpiricalBayes, iteration: int, world: World = ALONE) -> dict[str, Any]:
        """Score a model; keep its parameters where they are the best; return a row of the history.

        Args:
            model: the model.
            iteration: iterations done.
            world: the processes that share the tasks; this one alone by default.
        """
        terms = self.terms(model, world)
        means, queries = terms.means(), terms.num_queries.sum()
        # The predictions after the last step count; for "evidence" the bound itself is the score.
        score = (terms.loss if self.objective.kind == "evidence" else terms.nll)[-1].sum() / queries
        if score.item() < self.best_loss:
            self.best_loss, self.best_iteration, self.stale = score.item(), iteration, 0
            self.best = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        else:
            self.stale += 1
            self.stopped = self.patience is not None and self.stale >= self.patience
        return {
            "validation_iteration": iteration,
            "validation_loss": (self.objective.total(terms) / queries).item(),
            "validation_nll": means["nll"],
            "validation_kl": means["kl"],
        }

    def restore(self, model: EmpiricalBayes) -> None:
        """Give a model the parameters of the lowest loss, where there are any."""
        if self.best:
            model.load_state_dict(self.best)

    @torch.no_grad()
    def terms(self, model: EmpiricalBayes, world: World = ALONE) -> Terms:
        """Return the terms of the validation tasks under a model, and put it back into training mode."""
        assert self.tasks is not None  # for the type checker: `due` has checked
        sharp = Objective(self.objective.kind, max(DRAWS, self.objective.num_draws), self.objective.anytime)
        device = next(model.parameters()).device
        model.eval()
        parts = []
        for index, first in enumerate(range(0, self.num_tasks, BATCH)):
            if index % world.size != world.rank:
                continue
            batch = self.tasks.sample(min(BATCH, self.num_tasks - first), index).to(device)
            parts.append(sharp.terms(model, batch, generator=stream(self.seed, 1, index)).cpu())
        model.train()
        return Terms.join(world.all_of(parts))
