r"""Test quantities of simulation-based calibration, and where the truth lies among them.

Of each quantity $f$ the number $u = P(f(w') < f(w))$ is taken, with $w'$ from the posterior and $w$ the truth, ties
broken at random. It is exact for weights, linear predictors and regions of highest density, because posteriors are
Gaussian or mixtures of Gaussians; for the others it is the randomised rank of the true value among draws (theory:
"Simulation-based calibration").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebmeta.likelihood import Given
from ebmeta.model.conditional import repeat
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.tasks.batch import TaskBatch

__all__ = ["MOST_WEIGHTS", "Quantities", "among", "class_position", "randomised_rank", "surprise"]

MOST_WEIGHTS = 8  # single weights that are test quantities


def among(number: int) -> np.ndarray:
    """Return up to eight of so many numbers, evenly spread.

    Examples:
        >>> among(3).tolist(), among(22).tolist()
        ([0, 1, 2], [0, 3, 6, 9, 12, 15, 18, 21])
    """
    chosen: np.ndarray = np.unique(np.linspace(0, number - 1, min(number, MOST_WEIGHTS)).round().astype(int))
    return chosen


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return uniform numbers of the shape of a tensor, in 64 bits."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def randomised_rank(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rank of the first of `values`, shape `(1 + draws, T)`, among the others, in (0, 1), ties broken."""
    below, ties = (values[1:] < values[0]).sum(0), (values[1:] == values[0]).sum(0)
    return (below + uniform(below, generator) * (ties + 1)) / len(values)


def class_position(probs: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Return the probability of a class below the true one, with a share `v` of its own, shape `(T, Q)`."""
    below = probs.cumsum(-1) - probs
    low, own = (p.gather(-1, y.unsqueeze(-1)).squeeze(-1) for p in (below, probs))
    return (low + v * own).clamp(0, 1)


class Quantities(NamedTuple):
    """The test quantities of a chunk of tasks under the last Gaussian (or mixture over levels) of `inferred`."""

    model: EmpiricalBayes
    batch: TaskBatch
    w: Tensor
    inferred: Inference
    num_draws: int
    generator: torch.Generator

    def quantities(self) -> dict[str, tuple[str, Tensor]]:
        """Return the kind of each quantity and its $u$, shape `(T,)`."""
        batch, w, q = self.batch, self.w, self.inferred.path[-1]
        categorical = self.model.likelihood.categorical
        if categorical and not bool((batch.way_mask.sum(1) > 1).all()):
            raise ValueError("tasks: expected two classes or more in every task, got a task with fewer")
        out: dict[str, tuple[str, Tensor]] = {}
        scale = q.scale
        named = dict(enumerate(self.model.weight_columns or ()))
        for p in (self.model.prior.varying[i] for i in among(len(self.model.prior.varying))):
            called = f"weight of {named[p]}" if p in named else f"weight {p}"
            out[called] = "weight", self._normal(w[:, 0, p], q.loc[:, 0, p], scale[:, 0, p])
        real = self.inferred.setting.way_mask.unsqueeze(-1).to(w.dtype).expand_as(q.loc)
        variance = (real * q.solve(real)).sum((1, 2))
        total = (w * batch.way_mask.unsqueeze(-1)).sum((1, 2))
        out["sum of weights"] = "weight", self._normal(total, (q.loc * real).sum((1, 2)), variance.sqrt())
        first = batch.query_mask.float().argmax(1)
        tasks = torch.arange(len(batch), device=w.device)
        x = self.inferred.x[tasks, first].unsqueeze(1)
        eta = self.model.predictor(x, w)[:, 0]
        loc, var = (v[:, 0] for v in q.marginal(repeat(x, self.inferred.num_levels)))
        out["predictor"] = "predictor", self._normal(eta[:, 0], loc[:, 0], var[:, 0].sqrt())
        if categorical:
            contrast = self._normal(eta[:, 0] - eta[:, 1], loc[:, 0] - loc[:, 1], (var[:, 0] + var[:, 1]).sqrt())
            out["predictor difference"] = "predictor", contrast
        draws, labels, _ = self.inferred.draw(-1, self.num_draws, generator=self.generator)
        out["log likelihood"] = "likelihood", self._rank(self._fit(torch.cat([w.unsqueeze(0), draws])))
        out["region"] = "region", self._region(draws)
        assert batch.query_y is not None  # for the type checker: simulated tasks are labelled
        summary = self.inferred.predict(-1)
        out["label"] = "label", self._label(summary, batch.query_y)[tasks, first]
        labels = torch.cat([batch.query_y.unsqueeze(0).to(labels), labels])
        out["surprise"] = "surprise", self._rank(surprise(summary, labels, batch.query_mask))
        return out

    def _normal(self, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Return the probability of less than `value` `(T,)` under normals `(T * J,)` mixed over levels."""
        loc, scale = self.inferred.by_level(loc), self.inferred.by_level(scale)
        return self.inferred.average(torch.special.ndtr((value - loc) / scale))

    def _rank(self, values: Tensor) -> Tensor:
        return randomised_rank(values, self.generator)

    def _fit(self, w: Tensor) -> Tensor:
        """Return the log likelihood of the support labels in nats (at the mean noise level), shape `(..., T)`."""
        batch = self.batch
        if not batch.support_x.shape[1]:
            return w.new_zeros(w.shape[:2])
        eta = self.model.predictor(self.model.predictor.features(batch.support_x, batch.support_mask), w)
        each = self.model.likelihood.log_prob(batch.support_y, eta, batch.way_mask, Given(batch.support_size))
        return torch.where(batch.support_mask, each, 0.0).sum(-1)

    def _region(self, draws: Tensor) -> Tensor:
        """Return the mass of the region of highest density that just holds the truth."""
        q, levels = self.inferred.path[-1], self.inferred.num_levels
        if levels == 1:
            off = self.w - q.loc
            distance = (off * q.times(off)).sum(-1)
            ways = self.batch.way_mask
            dimension = ways.sum(1).double() * len(self.model.prior.varying)
            out: Tensor = torch.special.gammainc(dimension / 2, (distance * ways).sum(1) / 2)
            return out
        w = torch.cat([self.w.unsqueeze(0), draws]).repeat_interleave(levels, 1)
        log_q = q.log_prob(q.latents(w)).view(len(w), *self.inferred.log_weight.shape)
        return self._rank(-torch.logsumexp(log_q + self.inferred.log_weight, -1))

    def _label(self, summary: dict[str, Tensor], y: Tensor) -> Tensor:
        """Return the predictive probability of less than the label, randomised over ties, shape `(T, Q)`."""
        v = uniform(y, self.generator)
        likelihood = self.model.likelihood
        if likelihood.categorical:
            return class_position(summary["probs"], y, v)
        cdf = self.inferred.cdf(-1, y)
        if likelihood.discrete:
            low = torch.where(y > 0, self.inferred.cdf(-1, y - 1), 0.0)
            return low + v * (cdf - low)
        return cdf


def surprise(summary: dict[str, Tensor], labels: Tensor, mask: Tensor) -> Tensor:
    """Return how unlikely query labels `(..., T, Q)` are together, shape `(..., T)`.

    For classes minus the sum of their log probabilities; for numbers the sum of squares of their distances from the
    predictive means, in predictive standard deviations.
    """
    if "probs" in summary:
        log_p = summary["probs"].clamp(min=torch.finfo(torch.float64).tiny).log().expand(*labels.shape, -1)
        each = -log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    else:
        each = ((labels - summary["mean"]) / summary["std"]).square()
    return torch.where(mask, each, 0.0).sum(-1)
