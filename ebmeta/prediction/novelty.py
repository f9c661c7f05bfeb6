r"""A novelty score that warns of tasks unlike those that the model was trained on.

A task is summed up in a few numbers, from its support set and unlabelled queries. With
$d(x)^2 = (x - \mu)^\top \Sigma^{-1} (x - \mu)$ for the location and covariance of the embedded inputs of
training tasks (before any centring or division by the norm), and $d_W$ the same with the covariance within
classes, the numbers are

=================  =======================================================================================
in code            on paper
=================  =======================================================================================
`distance`         $\log \operatorname{mean}_i d(x_i)^2$ over support and queries: the inputs as such
`furthest`         $\log \max_i d(x_i)^2$: a stray class or row
`task_distance`    $\log d(\operatorname{mean}_i x_i)^2$: a shift that all inputs share
`support_distance` $\log \operatorname{mean}_{i \in q} \min_c d_W(x_i - \bar x^s_c)^2$: queries of no support class
`uncertainty`      mean entropy of the predictions over $\log C$; for real labels, log standard deviation
=================  =======================================================================================

(`support_distance` for classes alone). The score is the squared Mahalanobis distance of these numbers from
those of the training tasks, so that a task may be unusual by being too close as well as by being too far.
Its $p$-value is its rank among held-out tasks, corrected for new classes (see `ebmeta.prediction.ranks`).
The distance is that of Lee, Lee, Lee and Shin 2018, taken between tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import one_hot

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.standardization import standard, summary
from ebmeta.model.base import PredictiveModel
from ebmeta.prediction.ranks import Ranks
from ebmeta.prediction.scores import classes_of, separate_batches, task_batches
from ebmeta.prediction.trees import evaluating, match_model, predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.marks import refuse_known
from ebmeta.tasks.source import TaskSampler

__all__ = ["Novelty"]

TINY = 1e-30  # keeps logarithms finite where a distance is zero


@checked()
class Novelty:
    """Score how unlike the training tasks a new task is.

    Args:
        model: the model; its embedded inputs and its predictions are what is compared.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> X, y = rng.normal(size=(400, 4)), np.repeat(np.arange(20), 20)
        >>> X += 3 * rng.normal(size=(20, 4))[y]
        >>> from ebmeta import EmpiricalBayes, EpisodeSampler
        >>> tasks = EpisodeSampler(X[:200], y[:200], n_way=3, n_query=5)
        >>> held_out = EpisodeSampler(X[200:], y[200:], n_way=3, n_query=5)
        >>> novelty = Novelty(EmpiricalBayes.classifier(4)).fit(tasks, 100).calibrate(held_out, 99)
        >>> far = EpisodeSampler(X + 40, y, n_way=3, n_query=5).sample(3)
        >>> novelty.p_value(far).values  # further out than all 99 held-out tasks
        array([0.01, 0.01, 0.01])
    """

    def __init__(self, model: PredictiveModel) -> None:
        self.model = model
        self._location: Tensor | None = None
        self._center_unit = torch.zeros(()), torch.ones(())
        self._precision: dict[str, Tensor] = {}
        self._center = self._metric = np.zeros(0)
        self._ranks: Ranks | None = None

    @checked(num_tasks=at_least(2))
    def fit(self, tasks: TaskSampler | TaskBatch, num_tasks: int = 300) -> Novelty:
        """Learn location and covariance of the training tasks.

        Args:
            tasks: labelled training tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
            num_tasks: how many tasks to draw from a source.

        Returns:
            This object, not calibrated.

        Raises:
            ValueError: if tasks do not fit the model, classes come without query labels, or there are fewer
                than two tasks.
        """
        batches = task_batches(tasks, num_tasks, self.model)
        for batch in batches:
            self.model.check(batch)
        if sum(map(len, batches)) < 2:
            raise ValueError(f"tasks: expected at least 2 tasks, got {sum(map(len, batches))}")
        if self.model.likelihood.categorical and any(batch.query_y is None for batch in batches):
            raise ValueError("fit: expected query labels, got unlabelled tasks")
        from sklearn.covariance import LedoitWolf  # here, since its import draws from the global generator

        inputs = [self._embed(batch) for batch in batches]
        center, unit = summary(torch.cat([x[mask] for x, mask in inputs]), "feature")
        self._center_unit = center, unit if self.model.predictor.own_units else torch.ones_like(unit)
        inputs = [(standard(x, *self._center_unit), mask) for x, mask in inputs]
        rows = torch.cat([x[mask] for x, mask in inputs]).numpy()
        gaussian = LedoitWolf().fit(rows)
        self._location = torch.from_numpy(gaussian.location_)
        self._precision = {"all": _inverse(gaussian.covariance_)}
        if self.model.likelihood.categorical:
            within = [_within(x, batch.pooled()) for (x, _), batch in zip(inputs, batches, strict=True)]
            covariance = LedoitWolf(assume_centered=True).fit(torch.cat(within).numpy()).covariance_
            self._precision["within"] = _inverse(covariance)
        numbers = self._numbers(batches)
        self._center = numbers.mean(0)
        self._metric = np.linalg.pinv(np.atleast_2d(np.cov(numbers.T)))
        self._ranks = None
        return self

    @checked(num_tasks=at_least(1))
    def calibrate(self, tasks: TaskSampler | TaskBatch, num_tasks: int = 300) -> Novelty:
        """Set the ranks behind $p$-values on held-out tasks, of classes or groups that training did not see.

        Args:
            tasks: tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
            num_tasks: how many tasks to draw from a source of classes; each group of a source of groups is one task.

        Returns:
            This object.

        Raises:
            ValueError: if `fit` was not called, tasks do not fit the model, or it was trained or chosen on their
                classes (see `ebmeta.tasks.marks`).
        """
        refuse_known(self.model.marks, tasks, "tasks")
        batches = separate_batches(tasks, num_tasks, self.model)
        self._ranks = Ranks.of(self._scores(self._numbers(batches)), classes_of(batches))
        return self

    @checked()
    def statistics(self, batch: TaskBatch) -> xr.Dataset:
        """Return the numbers of this module's table, each over `task`; query labels are not used.

        Raises:
            ValueError: if `fit` was not called, or the tasks do not fit the model.
        """
        if self._location is None:
            raise ValueError("Novelty: expected a call of fit first, got none")
        x, mask = self._embed(batch)
        off = standard(x, *self._center_unit) - self._location
        distance = _square(off, self._precision["all"])
        count = mask.sum(1)
        mean = (off * mask.unsqueeze(-1)).sum(1) / count.unsqueeze(-1)
        numbers = {
            "distance": (distance * mask).sum(1) / count,
            "furthest": distance.masked_fill(~mask, 0.0).amax(1),
            "task_distance": _square(mean, self._precision["all"]),
        }
        if "within" in self._precision:
            numbers["support_distance"] = self._support_distance(off, batch)
        out = {name: np.log(values.clamp(min=TINY).numpy()) for name, values in numbers.items()}
        out["uncertainty"] = _uncertainty(self.model, batch)
        coords = {"task": np.arange(len(batch))}
        return xr.Dataset({name: ("task", values) for name, values in out.items()}, coords=coords)

    @checked()
    def score(self, batch: TaskBatch) -> xr.DataArray:
        """Return the score of every task, over `task`: the higher, the more unlike the training tasks.

        Raises:
            ValueError: if `fit` was not called, or the tasks do not fit the model.
        """
        return xr.DataArray(self._scores(self._numbers([batch])), dims="task", coords={"task": np.arange(len(batch))})

    @checked()
    def p_value(self, batch: TaskBatch) -> xr.DataArray:
        r"""Return the share of tasks at least as unlike the training tasks, over `task`.

        For a task exchangeable with the held-out ones, $P(p \le a) \le a$; for one of new classes that holds on
        average over draws of classes, to first order (see `ebmeta.prediction.ranks`).

        Raises:
            ValueError: if `fit` or `calibrate` was not called, or the tasks do not fit the model.
        """
        score = self.score(batch)
        if self._ranks is None:
            raise ValueError("Novelty: expected a call of calibrate first, got none")
        return score.copy(data=self._ranks.p_value(score.values))

    @torch.no_grad()
    def _embed(self, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        """Return embedded inputs, support before queries, and which rows are real."""
        part = match_model(self.model, batch)
        with evaluating(self.model):
            embed = self.model.predictor.embed
            x = torch.cat([embed(part.support_x, part.support_mask), embed(part.query_x, part.query_mask)], 1)
        return x.double().cpu(), torch.cat([batch.support_mask, batch.query_mask], 1).cpu()

    def _support_distance(self, off: Tensor, batch: TaskBatch) -> Tensor:
        """Return the mean distance of queries from the nearest class mean; a class without support is at the centre."""
        support = batch.support_mask.shape[1]
        member = _members(batch.support_y, batch.support_mask, batch)
        count = member.sum(1).unsqueeze(-1)
        mean = member.mT @ off[:, :support] / count.clamp(min=1)  # zero, the centre, without support
        whiten = torch.linalg.cholesky(self._precision["within"])
        distance = torch.cdist(off[:, support:] @ whiten, mean @ whiten).square()
        nearest = distance.masked_fill(~batch.way_mask.cpu().unsqueeze(1), torch.inf).amin(-1)
        mask = batch.query_mask.cpu()
        return (nearest * mask).sum(1) / mask.sum(1)

    def _numbers(self, batches: Sequence[TaskBatch]) -> np.ndarray:
        """Return the statistics of tasks, shape `(T, numbers)`."""
        return np.concatenate([self.statistics(batch).to_array().transpose("task", "variable") for batch in batches])

    def _scores(self, numbers: np.ndarray) -> np.ndarray:
        off = numbers - self._center
        scores: np.ndarray = ((off @ self._metric) * off).sum(1)
        return scores


def _inverse(covariance: np.ndarray) -> Tensor:
    return torch.from_numpy(np.linalg.inv(covariance))


def _square(x: Tensor, precision: Tensor) -> Tensor:
    square: Tensor = ((x @ precision) * x).sum(-1)
    return square


def _members(y: Tensor, mask: Tensor, batch: TaskBatch) -> Tensor:
    """Return 1 where a row is of a class, shape `(T, N, C)`."""
    return one_hot(y.cpu(), batch.way_mask.shape[1]).double() * mask.cpu().unsqueeze(-1)


def _within(x: Tensor, labelled: TaskBatch) -> Tensor:
    """Return real rows minus the mean of their class in their task, shape `(rows, D)`."""
    member = _members(labelled.support_y, labelled.support_mask, labelled)
    mean = member.mT @ x / member.sum(1).clamp(min=1).unsqueeze(-1)
    return (x - member @ mean)[labelled.support_mask.cpu()]


def _uncertainty(model: PredictiveModel, batch: TaskBatch) -> np.ndarray:
    """Return the uncertainty of the predictions of every task, on a scale free of the number of ways."""
    last = predict(model, batch.unlabelled(), num_draws=0)["predictive"].to_dataset().isel(step=-1)
    if "std" in last:
        return np.asarray(np.nanmean(np.log(last["std"].values), 1))
    probs = last["probs"].transpose("task", "query", "way").values.astype(float)
    entropy = -np.nansum(probs * np.log(np.clip(probs, TINY, None)), -1)
    mean = np.nanmean(np.where(np.isnan(probs[..., 0]), np.nan, entropy), 1)
    return np.asarray(mean / np.log(np.maximum(batch.way_mask.sum(1).cpu().numpy(), 2)))
