"""What the faces share: one support set, remembered."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ebmeta.model import EmpiricalBayes
from ebmeta.predict import Marginals, marginals
from ebmeta.tasks import TaskBatch

__all__ = ["FewShot"]


def _rows(name: str, X: ArrayLike) -> torch.Tensor:
    array = np.asarray(X)
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected a numeric array of shape (rows, features...), got {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array.reshape(len(array), -1)).all(1)))
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity at row {row}")
    return torch.from_numpy(array.astype(np.float64))


class FewShot(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """What both faces share: one task, remembered as its support set."""

    def __init__(self, model: EmpiricalBayes, num_steps: int | None = None) -> None:
        self.model = model
        self.num_steps = num_steps

    def _check_model(self, categorical: bool) -> None:
        if not isinstance(self.model, EmpiricalBayes):
            raise ValueError(
                f"model: expected an EmpiricalBayes (ebmeta.load reads a saved one), got {type(self.model).__name__}"
            )
        if self.model.likelihood.categorical != categorical:
            wanted = "classifier" if categorical else "regressor"
            raise ValueError(f"model: expected a {wanted}, got a {self.model.likelihood.name} likelihood")

    def _remember(self, support_X: ArrayLike, y: NDArray[Any], ways: int) -> None:
        x = _rows("support_X", support_X)
        if len(x) != len(y):
            raise ValueError(f"support_y: expected {len(x)} labels, one per row of support_X, got {len(y)}")
        features = self.model.predictor.num_features
        if self.model.predictor.embedder is None and x.shape[1:] != (features,):
            raise ValueError(f"support_X: expected {features} features per row, got shape {tuple(x.shape[1:])}")
        self.support_X_, self.support_y_, self.n_ways_ = x, torch.from_numpy(y), ways
        self.n_features_in_ = int(np.prod(x.shape[1:]))

    def _check_query(self, query_X: ArrayLike) -> torch.Tensor:
        check_is_fitted(self, "support_X_")
        query = _rows("query_X", query_X)
        if query.shape[1:] != self.support_X_.shape[1:]:
            raise ValueError(
                f"query_X: expected rows of shape {tuple(self.support_X_.shape[1:])} as in the support set, "
                f"got {tuple(query.shape[1:])}"
            )
        if not len(query):
            raise ValueError("query_X: expected at least one row, got 0")
        return query

    def _infer(self, query_X: ArrayLike, concentration: float | None = None) -> Marginals:
        query = self._check_query(query_X)
        known = None if concentration is None else torch.full((1,), float(concentration))
        ways = torch.ones(1, self.n_ways_, dtype=torch.bool)
        batch = TaskBatch(self.support_X_[None], self.support_y_[None], query[None], way_mask=ways, concentration=known)
        return marginals(self.model, batch, self.num_steps)[0]
