r"""The gradient of the loss of a batch, in one piece or in shares.

$$ \nabla \frac{\sum_t \mathcal L_t}{\sum_t Q_t}
   = \sum_{s=1}^S \nabla \frac{\sum_{t \in T_s} \mathcal L_t}{\sum_t Q_t}, \qquad T_1 \cup \dots \cup T_S = T . $$

A share is computed by itself, and the shares are summed in their order. So the sum is the same to the bit wherever its
shares were computed. One piece is faster on one process, and the same up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmeta.foundation.seeding import Drawing, stream
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.trees import CELLS, SHARED
from ebmeta.tasks.batch import TaskBatch
from ebmeta.training.objective import Objective, Terms
from ebmeta.training.world import World

__all__ = ["BatchGradient"]

WASTE = 2  # rows of a batch over its real rows, beyond which tasks of similar size are computed together


@dataclass(frozen=True, eq=False)
class BatchGradient:
    """The loss of batches, and its gradient.

    Args:
        objective: what is minimised.
        model: the model in training.
        seed: seed of the draws.
        world: the processes that take the shares.
        shares: how many shares a batch has, $S$.
    """

    objective: Objective
    model: EmpiricalBayes
    seed: int
    world: World
    shares: int

    def of(self, batch: TaskBatch, iteration: int) -> dict[str, NDArray[Any]]:
        """Give every parameter its gradient; one that no task used has none.

        Args:
            batch: labelled tasks on the device of the model.
            iteration: $n$; the draws, those of dropout too, depend on no other.

        Returns:
            `loss` and, after each step, `nll`, in nats per query, and `kl` in nats per task.
        """
        noise = self.objective.noise(self.model, batch, stream(self.seed, 0, iteration))
        rows, steps = self.objective.num_rows(batch), []

        def row(number: int) -> Tensor:
            tasks = torch.arange(number, len(batch), self.shares)
            some, drawn = (batch, noise) if self.shares == 1 else (batch[tasks], noise[:, tasks])
            terms = self._terms(some, drawn, iteration)
            loss = self.objective.total(terms) / rows
            self.model.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            steps.append(len(terms.nll))
            values = [loss.view(1), terms.nll.sum(1), terms.kl.sum(1)]
            slopes = [] if self.shares == 1 else [self._slopes()]  # of one share they stay where they are
            return torch.cat([*(value.detach().double() for value in values), *slopes])

        total = self.world.sum(self.shares, row)
        loss, nll, kl, slopes = torch.split(total, [1, steps[0], steps[0], len(total) - 1 - 2 * steps[0]])
        if self.shares > 1:
            self._set(slopes)
        found = {"loss": loss.squeeze(), "nll": nll / rows, "kl": kl / len(batch)}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def _terms(self, batch: TaskBatch, noise: Tensor, iteration: int) -> Terms:
        """Return the terms of tasks, those of similar size together."""
        if self.model.predictor.embedder is not None:
            with Drawing(stream(self.seed, 2, iteration)):  # as one batch, whose statistics it may take
                return self.objective.terms(self.model, batch, noise=noise)
        masks, parts = (batch.support_mask, batch.query_mask), [(torch.arange(len(batch)), batch)]
        if sum(m.numel() for m in masks) > WASTE * sum(int(m.sum()) for m in masks):
            parts = batch.parts(CELLS, max(1, self.model.predictor.num_weights // SHARED))
        return Terms.join([self.objective.terms(self.model, part, noise=noise[:, number]) for number, part in parts])

    def _slopes(self) -> Tensor:
        """Return the gradients of all parameters, and whether each is used."""
        parameters = list(self.model.trainable())
        used = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return torch.cat([*(g.double().flatten() for g in grads), used.double()])

    def _set(self, slopes: Tensor) -> None:
        """Give every parameter its sum of gradients."""
        parameters = list(self.model.trainable())
        *sums, counts = torch.split(slopes, [*(p.numel() for p in parameters), len(parameters)])
        for parameter, own, count in zip(parameters, sums, counts.tolist(), strict=True):
            parameter.grad = own.view_as(parameter).to(parameter.dtype) if count else None
