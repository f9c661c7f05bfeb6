r"""A warning of rows and of tasks whose features are not made as those of training were.

`ebmeta.Novelty` compares tasks with those of training, and a new class may well be new. What no class should be is
damaged: another encoder, other units, lost columns, two rows in one. Such rows break what all classes share, which
four numbers of a row show. With $\mu$ and $\Sigma = V \operatorname{diag}(\omega) V^\top$ of the embedded rows of
training, $z = \operatorname{diag}(\omega)^{-1/2} V^\top (x - \mu)$, and $F$ the half of the directions with the smaller
variances,

$$ \log \lVert x - \mu \rVert^2, \qquad \log \lVert x - \mu \rVert_1, \qquad
\log \operatorname{mean}_{f \in F} z_f^2, \qquad \operatorname{mean}_d x_d , $$

the score of a row is the squared Mahalanobis distance of these numbers from those of training rows. Its $p$-value is
the share of rows of calibration classes with a score at least as large, each class weighing the same. A row of a new
class of the same kind falls below $\alpha$ with a probability of about $\alpha$, and of at most
$(\alpha n + 1) / (n + 1)$ with $n$ classes. A task has the largest mean score of the support rows of a class and the
mean score of its queries, each in units of what 19 in 20 training tasks stay below, and of both the larger. Its
$p$-value is its rank among calibration tasks, corrected for new classes (see `ebmeta.prediction.ranks`). Rates of false
alarms are over draws of classes: of few classes, one that is odd by nature is warned of wherever it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from ebmeta.foundation.checks import at_least, between, checked
from ebmeta.foundation.standardization import standard, summary
from ebmeta.model.base import PredictiveModel
from ebmeta.prediction.ranks import Ranks
from ebmeta.prediction.scores import classes_of, separate_batches, task_batches
from ebmeta.prediction.trees import evaluating, match_model
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.marks import refuse_known
from ebmeta.tasks.source import TaskSampler

__all__ = ["ShiftWarning"]

Array = NDArray[np.float64]
TINY = 1e-30  # keeps logarithms finite where a row is the mean
USUAL = 0.95  # of training tasks stay below the unit of a part of the score


class _Rows(NamedTuple):
    """What is typical of rows: unit of columns, location, whitening, and mean and precision of four numbers."""

    unit: tuple[torch.Tensor, torch.Tensor]
    location: Array
    whiten: Array
    center: Array
    metric: Array


@checked()
class ShiftWarning:
    """Warn of rows and tasks whose features are made otherwise than those of training.

    Args:
        model: the model, whose embedded rows are looked at.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat(np.arange(60), 20)
        >>> X = (rng.normal(size=(60, 6))[y] + rng.normal(size=(1200, 6))) @ rng.normal(size=(6, 6))
        >>> from ebmeta import EmpiricalBayes, EpisodeSampler
        >>> train, held_out, new = (EpisodeSampler(X[y % 3 == s], y[y % 3 == s], 3, 1, 5) for s in range(3))
        >>> warning = ShiftWarning(EmpiricalBayes.classifier(6)).fit(train, 100).calibrate(held_out, 99)
        >>> found = warning.check(new.sample(100))
        >>> bool(found["warned"].mean() < 0.15), bool((found["query_p_value"] <= 0.05).mean() < 0.1)
        (True, True)
        >>> batch = new.sample(100)
        >>> other = batch.with_rows(batch.support.map(lambda v: v.flip(-1) if v.dim() == 3 else v))  # columns swapped
        >>> bool(warning.check(other)["warned"].mean() > 0.5)
        True
    """

    def __init__(self, model: PredictiveModel) -> None:
        self.model = model
        self._rows: _Rows | None = None
        self._units = np.ones(2)
        self._known: list[Array] = []  # sorted scores of the rows of each calibration class
        self._tasks: Ranks | None = None

    @checked(num_tasks=at_least(2))
    def fit(self, tasks: TaskSampler | TaskBatch, num_tasks: int = 300) -> ShiftWarning:
        """Learn what is typical of rows of training tasks.

        Args:
            tasks: training tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
            num_tasks: how many tasks to draw from a source.

        Returns:
            This object, not calibrated.

        Raises:
            ValueError: if tasks do not fit the model.
        """
        from sklearn.covariance import LedoitWolf  # here, since its import draws from the global generator

        batches = task_batches(tasks, num_tasks, self.model)
        x = torch.cat([part[mask] for batch in batches for part, mask in self._embedded(batch)])
        center, unit = summary(x, "feature")
        columns = center, unit if self.model.predictor.own_units else torch.ones_like(unit)
        rows = standard(x, *columns).numpy()
        gaussian = LedoitWolf().fit(rows)
        values, vectors = np.linalg.eigh(gaussian.covariance_)  # from small variances to large ones
        whiten = vectors[:, : (len(values) + 1) // 2] / np.sqrt(np.maximum(values[: (len(values) + 1) // 2], TINY))
        found = _Rows(columns, gaussian.location_, whiten, np.zeros(0), np.zeros((0, 0)))
        numbers = _numbers(rows, found)
        metric = np.asarray(np.linalg.pinv(np.cov(numbers.T)), dtype=np.float64)
        self._rows, self._units = found._replace(center=numbers.mean(0), metric=metric), np.ones(2)
        parts = np.concatenate([self._parts(batch) for batch in batches])
        self._units, self._known, self._tasks = np.maximum(np.quantile(parts, USUAL, 0), TINY), [], None
        return self

    @checked(num_tasks=at_least(1))
    def calibrate(self, tasks: TaskSampler | TaskBatch, num_tasks: int = 300) -> ShiftWarning:
        """Set the ranks behind p-values on tasks of classes or groups that training did not see, with sound features.

        Args:
            tasks: tasks of the kind that will be asked about, or a source of them. Where they do not name their
                classes, each task counts as a class.
            num_tasks: how many tasks to draw from a source of classes; each group of a source of groups is one task.

        Returns:
            This object.

        Raises:
            ValueError: if `fit` was not called, the tasks are unlabelled or do not fit the model, or it was trained or
                chosen on their classes (see `ebmeta.tasks.marks`).
        """
        batches = separate_batches(tasks, num_tasks, self.model)
        refuse_known(self.model.marks, tasks, "tasks")
        rows: dict[tuple[int, int], list[Array]] = {}
        for number, batch in enumerate(batches):
            for (scores, mask), y in zip(self._scores(batch), (batch.support_y, batch.query_y), strict=True):
                if y is None:
                    raise ValueError("calibrate: expected query labels, got unlabelled tasks")
                unit = np.broadcast_to(np.arange(len(batch))[:, None], mask.shape)
                if batch.way_class is not None:
                    unit = batch.way_class.cpu().gather(1, y.cpu().long().clamp(min=0)).numpy()
                for own in np.unique(unit[mask]):
                    key = (0 if batch.way_class is not None else number, int(own))
                    rows.setdefault(key, []).append(scores[mask & (unit == own)])
        self._known = [np.sort(np.concatenate(own)) for own in rows.values()]
        self._tasks = Ranks.of(np.concatenate([self._task_score(batch) for batch in batches]), classes_of(batches))
        return self

    @checked(level=between(0, 1))
    def check(self, batch: TaskBatch, level: float = 0.05) -> xr.Dataset:
        """Return p-values of rows and of tasks, and a warning; query labels are not used.

        Args:
            batch: tasks.
            level: share of sound tasks that are warned of.

        Returns:
            `support_p_value` over `(task, support)` and `query_p_value` over `(task, query)`, NaN for padding;
            `score`, `p_value` and `warned` over `task`. Small values are of rows unlike those of calibration classes.
            Attribute `most` is what no share of sound rows of new classes below the level exceeds on average.

        Raises:
            ValueError: if `fit` or `calibrate` was not called, or the tasks do not fit the model.
        """
        scores = self._scores(batch)
        if self._tasks is None:
            raise ValueError("ShiftWarning: expected a call of calibrate first, got none")
        sides = {}
        for side, (score, mask) in zip(("support", "query"), scores, strict=True):
            above = [1 - np.searchsorted(own, score, side="left") / len(own) for own in self._known]
            sides[f"{side}_p_value"] = (("task", side), np.where(mask, np.mean(above, 0), np.nan))
        score = self._task_score(batch)
        p_value = self._tasks.p_value(score)
        known = len(self._known)
        most = (level * known + 1) / (known + 1)
        data = {**sides, "score": ("task", score), "p_value": ("task", p_value), "warned": ("task", p_value <= level)}
        found = xr.Dataset(data, attrs={"level": level, "num_classes": known, "most": most})
        return found.assign_coords({str(dim): np.arange(n) for dim, n in found.sizes.items()})

    @torch.no_grad()
    def _embedded(self, batch: TaskBatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return embedded rows of support and queries in 64 bits, and which of them are real."""
        part = match_model(self.model, batch)
        with evaluating(self.model):
            embed = self.model.predictor.embed
            sides = [(embed(rows.x, rows.mask), rows.mask) for rows in (part.support, part.query)]
        return [(x.double().cpu(), mask.cpu()) for x, mask in sides]

    def _scores(self, batch: TaskBatch) -> list[tuple[Array, NDArray[np.bool_]]]:
        """Return the score of every row of support and queries, and which of them are real."""
        if self._rows is None:
            raise ValueError("ShiftWarning: expected a call of fit first, got none")
        out = []
        for x, mask in self._embedded(batch):
            rows = standard(x, *self._rows.unit).numpy()
            off = _numbers(rows.reshape(-1, rows.shape[-1]), self._rows) - self._rows.center
            out.append((((off @ self._rows.metric) * off).sum(1).reshape(mask.shape), mask.numpy()))
        return out

    def _parts(self, batch: TaskBatch) -> Array:
        """Return the largest mean score of the support rows of a class, and that of the queries, shape `(T, 2)`."""
        (support, of_support), (query, of_query) = self._scores(batch)
        labels = batch.support_y.cpu().numpy() if batch.way_mask.shape[1] > 1 else np.zeros(of_support.shape)
        ways = np.arange(batch.way_mask.shape[1])
        member = (labels[..., None] == ways) & of_support[..., None]
        count = member.sum(1)
        means = (support[..., None] * member).sum(1) / np.maximum(count, 1)
        return np.stack([means.max(1), (query * of_query).sum(1) / of_query.sum(1)], 1)

    def _task_score(self, batch: TaskBatch) -> Array:
        score: Array = (self._parts(batch) / self._units).max(1)
        return score


def _numbers(rows: Array, known: _Rows) -> Array:
    """Return the four numbers of each row, shape `(N, 4)`."""
    off = rows - known.location
    fine = np.square(off @ known.whiten).mean(1)
    sizes = np.square(off).sum(1), np.abs(off).sum(1), fine
    return np.stack([*(np.log(size + TINY) for size in sizes), rows.mean(1)], 1)
