"""A meta-trained regression model for new groups."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin

from ebmeta.estimators.base import FewShot
from ebmeta.inference import Inference, MixtureInference
from ebmeta.predict import evaluating
from ebmeta.seeding import seeded
from ebmeta.tasks import TaskBatch

__all__ = ["FewShotRegressor"]


class FewShotRegressor(RegressorMixin, FewShot):  # type: ignore[misc]
    """Predict the numbers of one new group, or of many, from a few labelled rows of each, or from none.

    Without `groups` all rows are of one group. A group that `fit` has not seen is predicted from the prior and its
    unlabelled rows.

    Args:
        model: a meta-trained `EmpiricalBayes.regressor`.
        num_steps: refinement steps, $K$; those of training by default.

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

    def fit(
        self,
        support_X: ArrayLike,
        support_y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
        group_x: ArrayLike | Mapping[Any, ArrayLike] | None = None,
    ) -> FewShotRegressor:
        """Remember the support set.

        Args:
            support_X: labelled inputs, shape `(S, ...)`; S may be 0.
            support_y: their labels, shape `(S,)`.
            groups: group of each row, shape `(S,)`; one group by default.
            size: trials, exposure or readings of each row (see `ebmeta.likelihood.Given`), shape `(S,)`; 1 by default.
            group_x: covariates of the group, shape `(G,)`, or those of each group by its label.

        Returns:
            The estimator.

        Raises:
            ValueError: if the model is no regressor, or the arrays are malformed.
        """
        self._check_model(categorical=False)
        y = np.asarray(support_y)
        if y.ndim != 1 or y.dtype.kind not in "fiub" or not np.isfinite(y).all():
            raise ValueError(f"support_y: expected one column of finite numbers, got shape {y.shape} of {y.dtype}")
        self._remember(support_X, y.astype(np.float64), 1)
        self.size_ = _column("size", size, len(y))
        self.groups_ = _labels("groups", groups, len(y))
        self.group_x_ = group_x
        everything, of_one = torch.ones(1, len(y), dtype=torch.bool), None if self.size_ is None else self.size_[None]
        self.model.likelihood.check("support_y", self.support_y_[None], everything, of_one)
        self._tasks(self.support_X_[:1], None if self.groups_ is None else self.groups_[:1], None) if len(y) else None
        return self

    def _tasks(
        self, query: torch.Tensor, groups: NDArray[Any] | None, size: torch.Tensor | None
    ) -> tuple[TaskBatch, NDArray[np.int64]]:
        """Return one task per group of the queries, and each query's position among the rows of all tasks."""
        if groups is not None and self.groups_ is None and len(self.support_y_):
            raise ValueError("groups: expected none, because fit was given none, got some")
        if groups is None and self.groups_ is not None:
            raise ValueError("groups: expected the group of each row, because fit was given groups, got none")
        keys = [None] if groups is None else list(dict.fromkeys(groups.tolist()))
        rows = _by_group(groups, keys, len(query))
        own = _by_group(self.groups_, keys, len(self.support_y_))
        sized = self.size_ is not None or size is not None
        parts: dict[str, Any] = {}
        if sized:
            of_support = torch.ones_like(self.support_y_) if self.size_ is None else self.size_
            of_query = torch.ones(len(query), dtype=query.dtype) if size is None else size
            parts = {"support_size": [of_support[r] for r in own], "query_size": [of_query[r] for r in rows]}
        batch = TaskBatch.from_tasks(
            [self.support_X_[r] for r in own],
            [self.support_y_[r] for r in own],
            [query[r] for r in rows],
            task_x=self._covariates(keys),
            **parts,
        )
        position = np.zeros(len(query), dtype=np.int64)
        for t, r in enumerate(rows):
            position[r.numpy()] = t * batch.query_x.shape[1] + np.arange(len(r))
        return batch, position

    def _covariates(self, keys: list[Any]) -> torch.Tensor | None:
        wanted = self.model.prior.num_covariates
        given = self.group_x_
        if given is None:
            if wanted:
                raise ValueError(f"group_x: expected {wanted} covariates of each group, got none")
            return None
        if isinstance(given, Mapping):
            missing = [k for k in keys if k not in given]
            if missing:
                raise ValueError(f"group_x: expected covariates of every group, got none of {missing[0]!r}")
            rows = [given[k] for k in keys]
        else:
            rows = [given] * len(keys)
        values = np.asarray(rows, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != wanted or not np.isfinite(values).all():
            raise ValueError(f"group_x: expected {wanted} finite covariates per group, got shape {values.shape[1:]}")
        return torch.from_numpy(values)

    def tasks(self, query_X: ArrayLike, *, groups: ArrayLike | None = None, size: ArrayLike | None = None) -> TaskBatch:
        """Return one task per group, in the order in which queries name them, for `ebmeta.predict`."""
        query = self._check_query(query_X)
        return self._tasks(query, _labels("groups", groups, len(query)), _column("size", size, len(query)))[0]

    def _query(
        self, query_X: ArrayLike, groups: ArrayLike | None, size: ArrayLike | None
    ) -> tuple[Inference | MixtureInference, NDArray[np.int64], TaskBatch]:
        query = self._check_query(query_X)
        batch, position = self._tasks(query, _labels("groups", groups, len(query)), _column("size", size, len(query)))
        parameter = next(self.model.parameters())
        batch = batch.to(parameter.device).to(parameter.dtype)
        with torch.no_grad(), evaluating(self.model):
            return self.model.infer(batch, self.num_steps), position, batch

    def predict(
        self,
        query_X: ArrayLike,
        return_std: bool = False,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the predictive mean of each row, and its standard deviation where asked, noise included.

        Args:
            query_X: unlabelled inputs, shape `(Q, ...)`; all rows of a group are used together.
            return_std: also return the standard deviation, in units of the label.
            groups: group of each row, shape `(Q,)`, where `fit` was given groups.
            size: trials, exposure or readings of each row, shape `(Q,)`; 1 by default.

        Raises:
            ValueError: if the rows do not fit the support set, are empty, or are not finite.
        """
        inferred, position, _ = self._query(query_X, groups, size)
        with torch.no_grad():
            out = inferred.predict(-1)
        mean = _flat(out["mean"], position)
        return (mean, _flat(out["std"], position)) if return_std else mean

    def quantiles(
        self,
        query_X: ArrayLike,
        levels: ArrayLike = (0.05, 0.25, 0.5, 0.75, 0.95),
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Return predictive quantiles, shape `(Q, L)`; for counts the smallest count that reaches the level.

        Args:
            query_X: as for `predict`.
            levels: probabilities between 0 and 1, shape `(L,)`.
            groups: as for `predict`.
            size: as for `predict`.

        Raises:
            ValueError: if a level is out of range, the likelihood has no cdf, or as for `predict`.
        """
        inferred, position, _ = self._query(query_X, groups, size)
        with torch.no_grad():
            out = inferred.quantile(-1, torch.as_tensor(np.atleast_1d(levels), dtype=inferred.x.dtype))
        return np.stack([_flat(level, position) for level in out], 1)

    def interval(
        self,
        query_X: ArrayLike,
        coverage: float = 0.9,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both ends of the central interval that holds a new label with this probability, shape `(Q,)`."""
        if not 0 < coverage < 1:
            raise ValueError(f"coverage: expected a probability between 0 and 1, got {coverage}")
        out = self.quantiles(query_X, ((1 - coverage) / 2, (1 + coverage) / 2), groups=groups, size=size)
        return out[:, 0], out[:, 1]

    def log_density(
        self,
        query_X: ArrayLike,
        query_y: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Return the predictive log density (log probability for counts) of labels in nats, shape `(Q,)`.

        Args:
            query_X: as for `predict`.
            query_y: a label for each row, used for the score alone, shape `(Q,)`.
            groups: as for `predict`.
            size: as for `predict`.
        """
        inferred, position, batch = self._query(query_X, groups, size)
        y = _column("query_y", query_y, len(position))
        table = torch.zeros(batch.query_mask.numel(), dtype=inferred.x.dtype)
        assert y is not None  # for the type checker: a column was given
        table[torch.from_numpy(position)] = y.to(inferred.x.dtype)
        labels = table.view(batch.query_mask.shape).to(inferred.x.device)
        self.model.likelihood.check("query_y", labels, batch.query_mask, batch.query_size)
        with torch.no_grad():
            out = inferred.log_prob(-1, labels, inferred.x.new_zeros(1), predictive=True)
        return _flat(out, position)

    def sample(
        self,
        query_X: ArrayLike,
        num_draws: int = 1000,
        seed: int = 0,
        *,
        groups: ArrayLike | None = None,
        size: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Draw labels of all rows jointly: each draw is one `w` per group and new noise, shape `(num_draws, Q)`.

        Args:
            query_X: as for `predict`.
            num_draws: number of draws.
            seed: seed of the draws; the global generator is left alone.
            groups: as for `predict`.
            size: as for `predict`.

        Raises:
            ValueError: if `num_draws` is below 1, or as for `predict`.
        """
        if num_draws < 1:
            raise ValueError(f"num_draws: expected at least 1, got {num_draws}")
        inferred, position, _ = self._query(query_X, groups, size)
        with torch.no_grad(), seeded(seed, inferred.x.device):
            _, y, _ = inferred.draw(-1, num_draws)
        draws: NDArray[np.float64] = y.flatten(1).double().cpu().numpy()[:, position]
        return draws


def _flat(value: torch.Tensor, position: NDArray[np.int64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = value.detach().flatten().double().cpu().numpy()[position]
    return out


def _column(name: str, values: ArrayLike | None, length: int) -> torch.Tensor | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (length,) or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected {length} finite numbers, got shape {array.shape} of {array.dtype}")
    return torch.from_numpy(array.astype(np.float64))


def _labels(name: str, values: ArrayLike | None, length: int) -> NDArray[Any] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (length,):
        raise ValueError(f"{name}: expected one label for each of {length} rows, got shape {array.shape}")
    if (missing := pd.isna(array)).any():
        raise ValueError(f"{name}: expected a label in every row, got none in row {int(np.argmax(missing))}")
    return array


def _by_group(labels: NDArray[Any] | None, keys: list[Any], length: int) -> list[torch.Tensor]:
    """Return the rows of each group, in order; those of a single group without labels are all."""
    if labels is None:
        return [torch.arange(length) for _ in keys]
    number = {k: i for i, k in enumerate(keys)}
    codes = np.array([number.get(g, -1) for g in labels.tolist()], dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(keys) + 1))
    return [torch.from_numpy(order[i:j]) for i, j in pairwise(ends)]
