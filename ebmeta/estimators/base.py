"""The base class of both estimators, which remembers one support set."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from ebmeta.estimators.rows import refuse_huge
from ebmeta.foundation.checks import at_least, check
from ebmeta.foundation.guarding import undisturbed
from ebmeta.foundation.whereabouts import ElsewhereError
from ebmeta.model.base import PredictiveModel
from ebmeta.model.posterior import Mixture
from ebmeta.prediction.trees import ask
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import check_names, read_rows

__all__ = ["FewShot", "whole"]

Fit = TypeVar("Fit", bound=Callable[..., Any])


def whole(fit: Fit) -> Fit:
    """Leave an estimator as it was where its `fit` ends in an error: labels of one task go with rows of no other."""

    @functools.wraps(fit)
    def call(self: FewShot, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            self.__dict__ = before
            raise

    return call  # type: ignore[return-value]  # of the same signature


class FewShot(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """The base of both estimators, which remembers the support set of one task."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("_"):
                setattr(cls, name, undisturbed()(method))

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # one that failed inside: its own error
            return object.__getattribute__(self, name)
        raise ElsewhereError(f"{type(self).__name__!r} object has no attribute {name!r}", name)

    def __init__(self, model: PredictiveModel | None = None, num_steps: int | None = None) -> None:
        self.model = model
        self.num_steps = num_steps

    @property
    def model_(self) -> PredictiveModel:
        """The model that is asked, where `model` is none the general one."""
        if self.model is None:
            raise ValueError(
                f"model: expected one for {type(self).__name__}, got none; there is a general one of classes alone "
                "(ebmeta.fit_evidence and ebmeta.fit train one of numbers)"
            )
        if not isinstance(self.model, PredictiveModel):
            raise ValueError(
                f"model: expected an EmpiricalBayes (ebmeta.load reads a saved one), got {type(self.model).__name__}"
            )
        return self.model

    def _check_model(self, categorical: bool) -> None:
        check("num_steps", self.num_steps, int | None, at_least(0))
        if self.model_.likelihood.categorical != categorical:
            wanted = "classifier" if categorical else "regressor"
            raise ValueError(f"model: expected a {wanted}, got a {self.model_.likelihood.name} likelihood")

    def _labelled(self, y: ArrayLike | None) -> ArrayLike:
        if y is None:
            raise ValueError(f"y: {type(self).__name__} requires y to be passed, but the target y is None")
        return y

    def _remember(self, X: ArrayLike, y: NDArray[Any], ways: int, name: str = "X") -> None:
        x, names = read_rows(name, X)
        refuse_huge(name, x)
        head = self.model_.predictor
        if not math.prod(x.shape[1:]) and (head.embedder is not None or head.any_features):
            raise ValueError(
                f"{name}: expected rows, got 0 feature(s) (shape={x.shape}) while a minimum of 1 is required here"
            )
        if len(x) != len(y):
            raise ValueError(f"y: expected {len(x)} labels, one per row of X, got {len(y)}")
        check_names(self.model_.feature_names, names, "when the model was trained")
        if head.any_features and x.ndim != 2:
            raise ValueError(f"{name}: expected a vector of features per row, got shape {tuple(x.shape[1:])}")
        if head.embedder is None and not head.any_features and x.shape[1:] != (head.num_features,):
            raise ValueError(f"{name}: expected {head.num_features} features per row, got shape {tuple(x.shape[1:])}")
        self._columns(x, names, reset=True)
        self.support_X_ = torch.from_numpy(x.astype(np.float64))
        self.support_y_, self.n_ways_ = torch.from_numpy(y), ways

    def _columns(self, x: NDArray[Any], names: list[str] | None, reset: bool) -> None:
        """Remember the columns of the support set, or compare those of queries with them, as scikit-learn does."""
        like = x.reshape(len(x), math.prod(x.shape[1:])) if names is None else pd.DataFrame(columns=names)
        validate_data(self, like, reset=reset, skip_check_array=True)

    def _check_query(self, X: ArrayLike, name: str = "X") -> torch.Tensor:
        """Return rows of the task in 64 bits, shape `(Q, ...)`; refuse others than those of the support set."""
        check_is_fitted(self, "support_X_")
        x, names = read_rows(name, X)
        refuse_huge(name, x)
        if name == "X" or names is not None:
            self._columns(x, names, reset=False)
        check_names(self.model_.feature_names, names, "when the model was trained")
        if x.shape[1:] != self.support_X_.shape[1:]:
            raise ValueError(
                f"{name}: expected rows of shape {tuple(self.support_X_.shape[1:])} as in the support set, "
                f"got {tuple(x.shape[1:])}"
            )
        if not len(x):
            raise ValueError(f"{name}: expected at least one row, got 0 sample(s)")
        return torch.from_numpy(x.astype(np.float64))

    def _answers(
        self,
        asked: Iterable[tuple[TaskBatch, torch.Tensor]],
        question: Callable[[Mixture, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor],
    ) -> NDArray[np.float64]:
        """Return the answers of inference for every row, shape `(..., Q)`.

        Args:
            asked: batches of tasks, and which row each of their queries is, task after task.
            question: from inference of some tasks to its answers, shape `(..., T, Q)`; it also gets a function that
                lays out values of all rows as the queries of these tasks, shape `(T, Q)`.
        """
        rows: list[torch.Tensor] = []

        def batches() -> Iterator[TaskBatch]:
            for batch, own in asked:
                rows.append(own)
                yield batch

        def answer(inferred: Mixture, batch: TaskBatch) -> NDArray[np.float64]:
            def lay(values: torch.Tensor) -> torch.Tensor:
                blank = values.new_zeros(batch.query_mask.shape)
                return blank.masked_scatter(batch.query_mask.cpu(), values[rows[-1]]).to(batch.query_mask.device)

            found: NDArray[np.float64] = question(inferred, lay)[..., batch.query_mask].double().cpu().numpy()
            return found

        answers = ask(self.model_, batches(), answer, self.num_steps)
        out = np.empty((*answers[0].shape[:-1], sum(map(len, rows))))
        for own, values in zip(rows, answers, strict=True):
            out[..., own.numpy()] = values
        return out
