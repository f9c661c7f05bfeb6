r"""Test quantities of simulation-based calibration of a joint model, whose inputs are simulated too.

The truth are class means $m$ and proportions $\pi$. What may be asked depends on what a posterior was given: of $q_0$,
which is $p(m, \pi \mid d^s)$, questions about the support rows; of refined posteriors also about the queries. The first
query's label is asked of either: $q_0$ predicts it from its own input alone, as $p(y \mid d^s, x)$, which is exact too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from scipy import special
from torch import Tensor

from ebmeta.diagnostics.quantities import among, class_position, randomised_rank, surprise, uniform
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.tasks.batch import TaskBatch

__all__ = ["ClassQuantities"]


class ClassQuantities(NamedTuple):
    """The test quantities of a chunk of tasks under the last posterior of `inferred`.

    Args:
        model: a joint model.
        batch: simulated tasks.
        w: their weights, shape `(T, C, P)`.
        inferred: all that inference says of them.
        of_queries: whether the posterior was given the inputs of the queries.
        num_draws: draws behind each rank.
        generator: source of the draws.
    """

    model: EmpiricalBayes
    batch: TaskBatch
    w: Tensor
    inferred: Inference
    of_queries: bool
    num_draws: int
    generator: torch.Generator

    def quantities(self) -> dict[str, tuple[str, Tensor]]:
        """Return the kind of each quantity and its $u$, shape `(T,)`."""
        q, ways = cast(ClassGaussian, self.inferred.path[-1]), self.batch.way_mask
        if not bool((ways.sum(1) > 1).all()):
            raise ValueError("tasks: expected two classes or more in every task, got a task with fewer")
        truth, out = q.latents(self.w), dict[str, tuple[str, Tensor]]()
        off = (truth["m"] - q.loc) * ways.unsqueeze(-1)
        for d in among(q.loc.shape[-1]):
            out[f"mean {d}"] = "weight", torch.special.ndtr(off[:, 0, d] / q.scale[:, 0, d])
        variance = (ways.unsqueeze(-1) / q.precision).sum((1, 2))
        out["sum of means"] = "weight", torch.special.ndtr(off.sum((1, 2)) / variance.sqrt())
        out["proportion"] = "weight", _beta(truth["pi"][:, 0], q.shares[:, 0], q.shares[:, 1:].sum(1))
        draws = q.draw(self.num_draws, self.generator)
        values = {name: torch.cat([truth[name].unsqueeze(0), drawn]) for name, drawn in draws.items()}
        out["predictor difference"] = "predictor", self._rank(self._contrast(q, values))
        out["log likelihood"] = "likelihood", self._rank(self._fit(q, values))
        distance, size = (q.precision * off.square()).sum((1, 2)), ways.sum(1).double() * q.loc.shape[-1]
        out["region"] = "region", torch.special.gammainc(size / 2, distance / 2)
        probs, y = self.inferred.predict(-1)["probs"], cast(Tensor, self.batch.query_y)
        tasks, first = torch.arange(len(y), device=y.device), self.batch.query_mask.float().argmax(1)
        out["label"] = "label", class_position(probs, y, uniform(y, self.generator))[tasks, first]
        if self.of_queries:
            drawn = self.inferred.likelihood.sample(
                probs.log().expand(self.num_draws, *probs.shape), ways, generator=self.generator
            )
            labels = torch.cat([y.unsqueeze(0), drawn])
            out["surprise"] = "surprise", self._rank(surprise({"probs": probs}, labels, self.batch.query_mask))
        return out

    def _rank(self, values: Tensor) -> Tensor:
        return randomised_rank(values, self.generator)

    def _support(self) -> Tensor:
        """Return features of the support rows, zero for padding, shape `(T, S, P)`."""
        mask = self.batch.support_mask
        return self.model.predictor.features(self.batch.support_x, mask) * mask.unsqueeze(-1)

    def _contrast(self, q: ClassGaussian, values: Mapping[str, Tensor]) -> Tensor:
        """Return the difference of two classes' linear predictors at the first row, or 0, that the posterior knows."""
        rows, mask = (
            (self.inferred.setting.real_x, self.batch.query_mask)
            if self.of_queries
            else (self._support(), self.batch.support_mask)
        )
        x = rows.new_zeros(len(rows), rows.shape[-1])
        if rows.shape[1]:
            x = rows[torch.arange(len(rows), device=rows.device), mask.float().argmax(1)]
        eta = torch.einsum("tp,stcp->stc", x, q.weights(values))
        return eta[..., 0] - eta[..., 1]

    def _fit(self, q: ClassGaussian, values: Mapping[str, Tensor]) -> Tensor:
        """Return the log density of the inputs that the posterior knows in nats, shape `(..., T)`."""
        batch = self.batch
        total: Tensor = q.inputs(values, batch.support_mask, batch.support_y).log_prob(self._support()[..., :-1])
        if self.of_queries:
            total = total + q.inputs(values, batch.query_mask, None).log_prob(self.inferred.setting.real_x[..., :-1])
        return total


def _beta(share: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Return the probability of a smaller share of one class under a Dirichlet distribution, shape `(T,)`."""
    values = (v.double().cpu().numpy() for v in (own, others, share.clamp(0, 1)))
    return torch.from_numpy(special.betainc(*values)).to(share.device)
