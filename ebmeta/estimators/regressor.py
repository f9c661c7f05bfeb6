"""A meta-trained regression model for new groups."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from ebmeta.estimators.base import FewShot, whole
from ebmeta.estimators.rows import check_groups, covariates_of, groups_of, sizes_of, targets_of, tell_of_zeros
from ebmeta.foundation.buckets import by_group, split
from ebmeta.foundation.checks import at_least, between, check, checked, real_array
from ebmeta.foundation.seeding import stream
from ebmeta.model.base import PredictiveModel
from ebmeta.model.posterior import Mixture
from ebmeta.prediction.conformal_intervals import ConformalIntervals
from ebmeta.prediction.trees import CELLS
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import read_column
from ebmeta.tasks.row_order import check_order
from ebmeta.tasks.spellings import tell_of_twins

__all__ = ["FewShotRegressor"]

MOMENTS = operator.itemgetter("mean", "std")


class FewShotRegressor(RegressorMixin, FewShot):  # type: ignore[misc]
    """Predict the numbers of one new group, or of many, from a few labelled rows of each, or from none.

    Without `groups` all rows are of one group. A group that `fit` has not seen is predicted from the prior and its
    unlabelled rows.

    Args:
        model: a meta-trained `EmpiricalBayes.regressor`.
        num_steps: refinement steps, $K$; those of training by default.
        conformal: calibrated intervals of the model, which `interval` then gives.

    Examples:
        >>> from ebmeta import EmpiricalBayes
        >>> model = EmpiricalBayes.regressor(num_features=1)
        >>> reg = FewShotRegressor(model).fit([[0.0], [1.0]], [0.0, 1.0])
        >>> mean, std = reg.predict([[0.5]], return_std=True)
        >>> mean.shape, bool(std[0] > 1.0)
        ((1,), True)
        >>> low, high = reg.interval([[0.5]], coverage=0.9)
        >>> bool(low[0] < mean[0] < high[0])
        True
    """

    def __init__(
        self,
        model: PredictiveModel | None = None,
        num_steps: int | None = None,
        conformal: ConformalIntervals | None = None,
    ) -> None:
        super().__init__(model, num_steps)
        self.conformal = conformal

    @whole
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
        group_x: ArrayLike | Mapping[Any, ArrayLike] | None = None,
    ) -> FewShotRegressor:
        """Remember the support set.

        Args:
            X: labelled inputs, shape `(S, ...)`; S may be 0.
            y: their labels, shape `(S,)`.
            groups: group of each row, shape `(S,)`; one group by default.
            size: trials, exposure or readings of each row (see `ebmeta.likelihood.Given`), shape `(S,)`; 1 by default.
            group_x: covariates of the group, shape `(G,)`, or of each group by its label; an index of pandas names it.

        Returns:
            The estimator.

        Raises:
            ValueError: if the model is no regressor, or the arrays are malformed.
        """
        self._check_model(categorical=False)
        check("conformal", self.conformal, ConformalIntervals | None)
        check_order(X, y=y, groups=groups, size=size)
        labels = read_column("y", self._labelled(y)).astype(np.float64)
        self._remember(X, labels, 1)
        self.size_ = sizes_of(size, len(labels))
        self.groups_ = groups_of(groups, len(labels))
        tell_of_twins(dict.fromkeys(self.groups_ or ()), "groups", "groups")
        self.group_x_ = group_x
        self._check_labels(self.support_y_, self.size_)
        if self.model_.likelihood.inflated:
            tell_of_zeros(labels, self.groups_)
        if len(labels):
            next(self._tasks(self.support_X_[:1], None if self.groups_ is None else self.groups_[:1], None))
        return self

    def _check_labels(self, y: torch.Tensor, size: torch.Tensor | None) -> None:
        """Raise `ValueError` where a label is impossible for the likelihood."""
        everything, of_one = torch.ones(1, len(y), dtype=torch.bool), None if size is None else size[None]
        try:
            self.model_.likelihood.check("y", y[None], everything, of_one)
        except ValueError as error:
            raise ValueError(str(error).replace(" at task 0, row ", " at row ")) from None

    def _tasks(
        self, query: torch.Tensor, groups: list[Any] | None, size: torch.Tensor | None, cells: float = math.inf
    ) -> Iterator[tuple[TaskBatch, torch.Tensor]]:
        """Yield one task per group of the queries with the indices of its queries, groups of similar size together.

        Args:
            query: unlabelled inputs.
            groups: group of each.
            size: of each.
            cells: most rows of a batch, padding included; all groups are in one, as queries name them, by default.
        """
        check_groups(groups, self.groups_, len(self.support_y_))
        keys = [None] if groups is None else list(dict.fromkeys(groups))
        rows = by_group(groups, keys, len(query))
        own = by_group(self.groups_, keys, len(self.support_y_))
        task_x = covariates_of(self.group_x_, keys, self.model_)
        sizes: tuple[torch.Tensor | None, torch.Tensor | None] = None, None
        if self.size_ is not None or size is not None:
            known = torch.ones_like(self.support_y_) if self.size_ is None else self.size_
            sizes = known, torch.ones(len(query), dtype=query.dtype) if size is None else size
        parts = [np.arange(len(keys))]
        if math.isfinite(cells):
            lengths = np.array([len(r) + len(s) for r, s in zip(rows, own, strict=True)])
            parts = split(np.maximum(lengths, self.model_.predictor.num_weights), int(cells))
        for part in parts:
            labelled, asked = [own[t] for t in part], [rows[t] for t in part]
            of_support, of_query = sizes
            yield (
                TaskBatch.from_tasks(
                    [self.support_X_[r] for r in labelled],
                    [self.support_y_[r] for r in labelled],
                    [query[r] for r in asked],
                    support_size=None if of_support is None else [of_support[r] for r in labelled],
                    query_size=None if of_query is None else [of_query[r] for r in asked],
                    task_x=None if task_x is None else task_x[part],
                ),
                torch.cat(asked),
            )

    def tasks(self, X: ArrayLike, *, groups: ArrayLike | None = None, size: ArrayLike | None = None) -> TaskBatch:
        """Return one task per group, in the order in which queries name them, for `ebmeta.predict`."""
        return self.placed(X, groups=groups, size=size)[0]

    def placed(
        self, X: ArrayLike, *, groups: ArrayLike | None = None, size: ArrayLike | None = None
    ) -> tuple[TaskBatch, torch.Tensor]:
        """Return `tasks`, and which row each of their queries is, task after task, shape `(Q,)`."""
        return next(self._tasks(*self._placing(X, groups, size)))

    def _ask(
        self,
        X: ArrayLike,
        groups: ArrayLike | None,
        size: ArrayLike | None,
        question: Callable[[Mixture, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor],
    ) -> NDArray[np.float64]:
        """Return the answers of inference for every row of `X`, groups of similar size together."""
        return self._answers(self._tasks(*self._placing(X, groups, size), CELLS), question)

    def _placing(
        self, X: ArrayLike, groups: Any, size: Any
    ) -> tuple[torch.Tensor, list[Any] | None, torch.Tensor | None]:
        check_order(X, groups=groups, size=size)
        query = self._check_query(X)
        return query, groups_of(groups, len(query)), sizes_of(size, len(query))

    @checked()
    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the predictive mean of each row, and its standard deviation where asked, noise included.

        Args:
            X: unlabelled inputs, shape `(Q, ...)`; all rows of a group are used together.
            return_std: also return the standard deviation, in units of the label.
            groups: group of each row, shape `(Q,)`, where `fit` was given groups.
            size: trials, exposure or readings of each row, shape `(Q,)`; 1 by default.

        Raises:
            ValueError: if the rows do not fit the support set, are empty, or are not finite.
        """
        mean, std = self.summaries(X, groups=groups, size=size)
        return (mean, std) if return_std else mean

    @checked()
    def summaries(
        self,
        X: ArrayLike,
        levels: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
        probs: bool = False,
    ) -> NDArray[np.float64]:
        """Return mean, standard deviation, quantiles and probabilities by one inference, shape `(2 + L + C, Q)`.

        Args:
            X: as for `predict`.
            levels: probabilities between 0 and 1 of the quantiles, shape `(L,)`; none by default.
            groups: as for `predict`.
            size: as for `predict`.
            probs: also return the probability of each of $C$ categories.

        Raises:
            ValueError: as for `quantiles`, or with `probs` as for `probabilities`.
        """
        wanted = None if levels is None else torch.from_numpy(real_array("levels", levels, ndim=1))

        def question(inferred: Mixture, _: Any) -> torch.Tensor:
            found = [torch.stack(MOMENTS(inferred.predict(-1)))]
            found += [] if wanted is None else [inferred.quantile(-1, wanted)]
            return torch.cat([*found, inferred.probs(-1).movedim(-1, 0)] if probs else found)

        return self._ask(X, groups, size, question)

    def probabilities(self, X: ArrayLike, *, groups: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the probability of each label 0, 1, ... of each row, shape `(Q, C)`; arguments as for `predict`.

        Raises:
            ValueError: if labels are not those of a Bernoulli or an ordinal likelihood, or as for `predict`.
        """
        return self._ask(X, groups, None, lambda inferred, _: inferred.probs(-1).movedim(-1, 0)).T

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> float:
        """Return the coefficient of determination $R^2$ of the predictive means; arguments as for `predict`."""
        check_order(X, sample_weight=sample_weight)
        mean = self.predict(X, groups=groups, size=size)
        return float(r2_score(targets_of(y, len(mean), X), mean, sample_weight=sample_weight))

    def quantiles(
        self,
        X: ArrayLike,
        levels: ArrayLike = (0.05, 0.25, 0.5, 0.75, 0.95),
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Return predictive quantiles, shape `(Q, L)`; for counts the smallest count that reaches the level.

        Args:
            X: as for `predict`.
            levels: probabilities between 0 and 1, shape `(L,)`.
            groups: as for `predict`.
            size: as for `predict`.

        Raises:
            ValueError: if a level is out of range, the likelihood has no cdf, or as for `predict`.
        """
        wanted = torch.from_numpy(real_array("levels", levels if np.ndim(levels) else [levels], ndim=1))
        return self._ask(X, groups, size, lambda inferred, _: inferred.quantile(-1, wanted)).T

    @checked(coverage=between(0, 1))
    def interval(
        self,
        X: ArrayLike,
        coverage: float = 0.9,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both ends of the interval that holds a new label with this probability, shape `(Q,)`.

        It is the central one of the model, or, with `conformal`, one that holds for new groups whatever the model.
        """
        if self.conformal is not None:
            batch, rows = self.placed(X, groups=groups, size=size)
            found, real = self.conformal.predict(batch, coverage), batch.query_mask.numpy()
            ends = np.empty((2, len(rows)))
            ends[:, rows.numpy()] = found["lower"].values[real], found["upper"].values[real]
            return ends[0], ends[1]
        out = self.quantiles(X, ((1 - coverage) / 2, (1 + coverage) / 2), groups=groups, size=size)
        return out[:, 0], out[:, 1]

    def log_density(
        self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None = None, size: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Return the predictive log density (log probability for counts) of labels in nats, shape `(Q,)`.

        Args:
            X: as for `predict`.
            y: a label for each row, used for the score alone, shape `(Q,)`.
            groups: as for `predict`.
            size: as for `predict`.
        """
        labels = torch.from_numpy(targets_of(y, len(self._check_query(X)), X))
        self._check_labels(labels, sizes_of(size, len(labels)))

        def score(inferred: Mixture, lay: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            return inferred.log_prob(-1, lay(labels), inferred.x.new_zeros(1), predictive=True)

        return self._ask(X, groups, size, score)

    @checked(num_draws=at_least(1))
    def sample(
        self,
        X: ArrayLike,
        num_draws: int = 1000,
        seed: int = 0,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Draw labels of all rows jointly: each draw is one `w` per group and new noise, shape `(num_draws, Q)`.

        Args:
            X: as for `predict`.
            num_draws: number of draws.
            seed: seed of the draws; the global generator is left alone.
            groups: as for `predict`.
            size: as for `predict`.

        Raises:
            ValueError: if `num_draws` is below 1, or as for `predict`.
        """
        source = stream(seed)
        return self._ask(X, groups, size, lambda inferred, _: inferred.draw(-1, num_draws, generator=source)[1])
