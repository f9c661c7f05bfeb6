r"""Conformal intervals of numbers, which hold a label of a *new group* with a stated probability.

Rows of a group share its effects, so that groups, and not rows, are exchangeable. Each calibration group is split into
labelled and other rows as new groups will be. A model's own interval with ends $\ell < m < u$ ($m$ its median) is
stretched until it holds the label, by

$$ s = \max\Big\{ \frac{m - y}{m - \ell + h},\ \frac{y - m}{u - m + h} \Big\} , \qquad
   \mathcal C(x) = \big[ m - \hat s\, (m - \ell + h),\ m + \hat s\, (u - m + h) \big] , $$

where $h$ is 0, and one half for labels that are counts. With $T$ calibration groups of equal weight, $\hat s$ is the
quantile of `ebmeta.prediction.conformal.task_quantile`, and a random row of a new group is covered with probability at
least the level. Where calibration groups are few, that takes more than is needed: with `strict=False` the new group is
supposed to be like the others, and what is proved falls to $T / (T + 1)$ of the level.

With `randomized=True` one row of each group calibrates, drawn at random, and $\hat s$ is the $k$-th smallest of $T$
scores. There $k$ is one of the two whole numbers about $(1 - \alpha) (T + 1)$, drawn so that this is its mean. Then the
level itself is the probability, for continuous labels, over draws of groups, rows and $k$.

To use all groups for both, give one model for each fold of groups, trained without it, with the groups of that fold
(jackknife+ where each fold is a group, CV+ elsewhere): the ends are then quantiles over folds of the ends that each
model gives. These cover about as often as asked, and less is proved of them.
Derivation: `theory/conformal.md`. Sources: Lee, Barber and Willett 2023; Barber, Candès, Ramdas and Tibshirani 2021;
Romano, Patterson and Candès 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ebmeta.foundation.checks import at_least, between, checked
from ebmeta.model.base import PredictiveModel
from ebmeta.prediction.conformal import SLACK
from ebmeta.prediction.other_sizes import tell_of_others
from ebmeta.prediction.scores import separate_batches
from ebmeta.prediction.trees import predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.marks import refuse_known
from ebmeta.tasks.source import TaskSampler, as_source

__all__ = ["ConformalIntervals"]

Array = NDArray[np.float64]
LEAST, MOST = 0.5, 0.99  # coverage of the interval of a model that is stretched
HALVINGS = 60  # of where an end may be
HALF = 0.5  # between two counts
ROUNDING = 1e-9  # of an end that is a count


class _Ends(NamedTuple):
    """Median of each query and how far the model's own interval reaches to both sides, shape `(T, Q)` each."""

    middle: Array
    below: Array
    above: Array


class _Fold(NamedTuple):
    """Scores of the rows of calibration groups in rising order, and their weights, in all the number of groups."""

    scores: Array
    weights: Array


@checked(level=between(0, 1))
class ConformalIntervals:
    r"""Intervals of a new label calibrated over groups.

    Args:
        models: a model whose labels are numbers, or one for each fold of the calibration groups, trained without it.
        level: probability that an interval must hold a label of a new group, $1 - \alpha$.
        strict: whether that is at least the level; else about the level, see above.
        randomized: whether it is the level itself, by chance: another seed of `calibrate` gives other intervals.

    Raises:
        ValueError: if an argument is out of range, a model is a classifier or has no quantiles, or a choice by chance
            is asked for beside several models or `strict=False`.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> groups = np.repeat(np.arange(80), 6)
        >>> X, effect = rng.normal(size=(480, 1)), rng.normal(size=80)
        >>> y = X[:, 0] + effect[groups] + rng.standard_t(3, 480)
        >>> from ebmeta import EmpiricalBayes, GroupSampler, fit_evidence
        >>> train, held_out = (GroupSampler(X[s], y[s], groups[s], n_support=1) for s in (groups < 40, groups >= 40))
        >>> model = fit_evidence(EmpiricalBayes.regressor(1, num_steps=0), train).model
        >>> intervals = ConformalIntervals(model, 0.8).calibrate(held_out)
        >>> found = intervals.predict(held_out.sample(3))
        >>> bool((found["lower"] < found["upper"]).all()), found["lower"].dims
        (True, ('task', 'query'))
    """

    def __init__(
        self,
        models: PredictiveModel | Sequence[PredictiveModel],
        level: float = 0.9,
        *,
        strict: bool = True,
        randomized: bool = False,
    ) -> None:
        several = isinstance(models, Sequence)
        self.models = tuple(models) if isinstance(models, Sequence) else (models,)
        if not self.models:
            raise ValueError("models: expected at least one, got none")
        for model in self.models:
            if model.likelihood.categorical or not model.likelihood.has_cdf:
                name = model.likelihood.name
                raise ValueError(
                    f"models: expected labels that are numbers and have quantiles, got a {name} likelihood"
                )
        if randomized and (several or not strict):
            other = f"{len(self.models)} models" if several else "strict=False"
            raise ValueError(f"randomized: expected one model and strict=True beside it, got {other}")
        self.level, self.strict, self.randomized, self._several = level, strict, randomized, several
        self._chance = 0.0  # a uniform number, which rounds the rank of a threshold
        self._folds: list[_Fold] = []
        self._own = level  # coverage of the model's own interval that calibration has stretched
        self._labelled = (0, 0)  # fewest and most labelled rows of a calibration group
        #: Number of calibration groups.
        self.num_groups = 0

    @checked(num_tasks=at_least(1), num_splits=at_least(1), seed=at_least(0))
    def calibrate(
        self,
        tasks: TaskSampler | TaskBatch | Sequence[TaskSampler | TaskBatch],
        num_tasks: int = 600,
        *,
        num_splits: int = 5,
        seed: int = 0,
    ) -> ConformalIntervals:
        """Score groups that training has not used, with as many labelled rows as new groups will have.

        With groups of training intervals would be too short: labels that a model was fitted to lie nearer to it than
        those of new groups.

        Args:
            tasks: labelled groups, or a source of them; for several models one for each.
            num_tasks: tasks to draw from a source that does not know its groups.
            num_splits: splits of each group of a `GroupSampler` into labelled and other rows, if all rows count.
            seed: of the rows and the rank that `randomized` draws.

        Returns:
            This object.

        Raises:
            ValueError: if the tasks are unlabelled, do not fit the model or are those of training (see
                `ebmeta.tasks.marks`), or there are not as many sources as models.
        """
        sources = tasks if isinstance(tasks, Sequence) else [tasks]
        alone = sources is not tasks
        if alone == self._several or len(sources) != len(self.models):
            wanted = f"one for each of {len(self.models)} models" if self._several else "one source, for one model"
            raise ValueError(f"tasks: expected {wanted}, got {'one source' if alone else f'a list of {len(sources)}'}")
        for model, source in zip(self.models, sources, strict=True):
            refuse_known(model.marks, source, "tasks")
        own = min(max(self.level, LEAST), MOST)  # an interval without width has nothing to stretch
        rng = np.random.default_rng(seed) if self.randomized else None
        draws = [
            _draws(model, source, num_tasks, 1 if rng else num_splits)
            for model, source in zip(self.models, sources, strict=True)
        ]
        folds = [_fold(model, draw, own, rng) for model, draw in zip(self.models, draws, strict=True)]
        told = np.concatenate([_told(batch) for draw in draws for batches in draw for batch in batches])
        self._folds, self._own, self._labelled = folds, own, (int(told.min()), int(told.max()))
        self._chance = rng.uniform() if rng else 0.0
        self.num_groups = round(sum(float(fold.weights.sum()) for fold in folds))
        return self

    @checked(level=between(0, 1))
    def predict(self, batch: TaskBatch, level: float | None = None) -> xr.Dataset:
        """Return intervals of the query labels of a batch, which are not used.

        Args:
            batch: tasks, of new groups with as many labelled rows as those of calibration had; a warning names one that
                has fewer or more.
            level: another probability than that of this object.

        Returns:
            `lower` and `upper` over `(task, query)`, in the unit of the label and NaN for padding; infinite where there
            are too few calibration groups for the level.

        Raises:
            ValueError: if there is no calibration, or the tasks do not fit the model.
        """
        if not self._folds:
            raise ValueError("ConformalIntervals: expected a call of calibrate first, got none")
        tell_of_others(_told(batch), self._labelled, "labelled rows")
        wanted = self.level if level is None else level
        total, real = self.num_groups, batch.query_mask.cpu().numpy()
        share = wanted * (total + 1) if self.strict else wanted * total
        if self.randomized:
            share = max(1.0, np.floor(share + self._chance))
        ends = [_ends(model, batch, self._own) for model in self.models]
        lower, upper = np.full(real.shape, np.nan), np.full(real.shape, np.nan)
        lower[real] = -_stretched([(-end.middle[real], end.below[real]) for end in ends], self._folds, share)
        upper[real] = _stretched([(end.middle[real], end.above[real]) for end in ends], self._folds, share)
        if self.models[0].likelihood.discrete:
            lower, upper = np.ceil(lower - ROUNDING).clip(0), np.floor(upper + ROUNDING)
        cells = ("task", "query")
        coords = {name: np.arange(n) for name, n in zip(cells, real.shape, strict=True)}
        return xr.Dataset({"lower": (cells, lower), "upper": (cells, upper)}, coords, {"level": wanted})


def _told(batch: TaskBatch) -> NDArray[np.int64]:
    """Return the number of labelled rows of each task."""
    out: NDArray[np.int64] = batch.support_mask.sum(1).cpu().numpy()
    return out


def _draws(
    model: PredictiveModel, tasks: TaskSampler | TaskBatch, num_tasks: int, num_splits: int
) -> list[list[TaskBatch]]:
    """Return lists of batches, each of which has every group once."""
    draws = num_splits if as_source(tasks).groups is not None else 1
    return [separate_batches(tasks, num_tasks, model, split) for split in range(draws)]


def _ends(model: PredictiveModel, batch: TaskBatch, level: float) -> _Ends:
    tree = predict(model, batch.unlabelled(), num_draws=0, quantiles=((1 - level) / 2, 0.5, (1 + level) / 2))
    low, middle, high = tree["predictive/quantile"].transpose("level", "task", "query").values.astype(float)
    more = HALF if model.likelihood.discrete else 0.0
    return _Ends(middle, middle - low + more, high - middle + more)


def _fold(model: PredictiveModel, draws: list[list[TaskBatch]], level: float, rng: np.random.Generator | None) -> _Fold:
    """Return scores of the rows of some groups, or of one row each; all draws have the same groups in one order."""
    scores, weights = [], []
    for batches in draws:
        for batch in batches:
            if batch.query_y is None:
                raise ValueError("calibrate: expected query labels, got unlabelled tasks")
            end, y, real = _ends(model, batch, level), batch.query_y.cpu().numpy(), batch.query_mask.cpu().numpy()
            with np.errstate(divide="ignore", invalid="ignore"):
                off = np.maximum((end.middle - y) / end.below, (y - end.middle) / end.above)
            scores.append(np.where(y == end.middle, 0.0, off)[real])
            counts = real if rng is None else _one_of_each(real, rng)
            weights.append((counts / (counts.sum(1, keepdims=True) * len(draws)))[real])
    flat = np.concatenate(scores)
    order = np.argsort(flat, kind="stable")
    return _Fold(flat[order], np.concatenate(weights)[order])


def _one_of_each(real: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which row of each task is drawn, shape `(T, Q)`."""
    number = np.where(real, rng.uniform(size=real.shape), -1.0)
    drawn: NDArray[np.bool_] = real & (number == number.max(1, keepdims=True))
    return drawn


def _stretched(ends: list[tuple[Array, Array]], folds: list[_Fold], share: float) -> Array:
    """Return the weighted quantile of `middle + score * reach` over the scores of all folds, for each row."""
    if len(folds) == 1:
        (middle, reach), fold = ends[0], folds[0]
        first = int(np.searchsorted(np.cumsum(fold.weights), share - SLACK * share))
        score = fold.scores[first] if first < len(fold.scores) else np.inf
        return middle + reach * score if np.isfinite(score) else np.full(len(middle), np.inf)  # also of no reach
    held = [np.concatenate([[0.0], np.cumsum(fold.weights)]) for fold in folds]
    low = np.min([middle for middle, _ in ends], 0)
    high = np.max([m + r * fold.scores[-1] for (m, r), fold in zip(ends, folds, strict=True)], 0)
    enough = sum(of[-1] for of in held) >= share - SLACK * share
    for _ in range(HALVINGS):
        between, reached = (low + high) / 2, np.zeros(len(low))
        for (middle, reach), fold, of in zip(ends, folds, held, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                score = np.nan_to_num((between - middle) / reach, nan=0.0)  # where the end is the middle of a point
            reached += of[np.searchsorted(fold.scores, score, side="right")]
        found = reached >= share - SLACK * share
        low, high = np.where(found, low, between), np.where(found, between, high)
    return high if enough else np.full(len(low), np.inf)
