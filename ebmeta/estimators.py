"""scikit-learn faces: a meta-trained model as a classifier or regressor for one new task.

`fit` takes the support set and costs nothing: the model was trained before, on other tasks. Predictions
use all query rows of a call together, because the unlabelled rows refine the posterior.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from ebmeta.model import EmpiricalBayes
from ebmeta.predict import Marginals, marginals
from ebmeta.sampling import class_codes
from ebmeta.seeding import seeded
from ebmeta.tasks import TaskBatch

__all__ = ["FewShotClassifier", "FewShotRegressor"]


def _rows(name: str, X: ArrayLike) -> torch.Tensor:
    array = np.asarray(X)
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected a numeric array of shape (rows, features...), got {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array.reshape(len(array), -1)).all(1)))
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity at row {row}")
    return torch.from_numpy(array.astype(np.float64))


class _FewShot(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
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

    def _infer(self, query_X: ArrayLike) -> Marginals:
        check_is_fitted(self, "support_X_")
        query = _rows("query_X", query_X)
        if query.shape[1:] != self.support_X_.shape[1:]:
            raise ValueError(
                f"query_X: expected rows of shape {tuple(self.support_X_.shape[1:])} as in the support set, "
                f"got {tuple(query.shape[1:])}"
            )
        if not len(query):
            raise ValueError("query_X: expected at least one row, got 0")
        ways = torch.ones(1, self.n_ways_, dtype=torch.bool)
        batch = TaskBatch(self.support_X_[None], self.support_y_[None], query[None], way_mask=ways)
        return marginals(self.model, batch, self.num_steps)[0]


class FewShotClassifier(ClassifierMixin, _FewShot):  # type: ignore[misc]
    """Classify the rows of one new task from a few labelled ones.

    Args:
        model: a meta-trained `EmpiricalBayes.classifier`.
        num_steps: refinement steps, $K$; those of training by default.

    Attributes:
        classes_: the distinct labels of the support set, sorted; columns of `predict_proba`.

    Examples:
        >>> model = EmpiricalBayes.classifier(num_features=2)
        >>> clf = FewShotClassifier(model).fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> clf.predict([[0.9, 0.1], [0.2, 0.8]]).tolist()
        ['cat', 'dog']
    """

    def fit(self, support_X: ArrayLike, support_y: ArrayLike) -> FewShotClassifier:
        """Remember the support set.

        Args:
            support_X: labelled inputs, shape `(S, ...)`.
            support_y: their class labels of any kind, shape `(S,)`.

        Returns:
            The estimator.

        Raises:
            ValueError: if the model is no classifier, or the arrays are malformed.
        """
        self._check_model(categorical=True)
        self.classes_, codes = class_codes(support_y, "support_y")
        self._remember(support_X, codes.astype(np.int64), len(self.classes_))
        return self

    def predict_proba(self, query_X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, shape `(Q, C)`; all rows are used together.

        Args:
            query_X: unlabelled inputs of the task, shape `(Q, ...)`.

        Raises:
            ValueError: if the rows do not fit the support set, are empty, or are not finite.
        """
        probs: NDArray[np.float64] = self._infer(query_X).summaries["probs"][-1, 0].double().cpu().numpy()
        probs /= probs.sum(-1, keepdims=True)
        return probs

    def predict(self, query_X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest label of each row, shape `(Q,)`; all rows are used together."""
        probs = self.predict_proba(query_X)
        labels: NDArray[Any] = self.classes_[probs.argmax(-1)]
        return labels


class FewShotRegressor(RegressorMixin, _FewShot):  # type: ignore[misc]
    """Predict the real labels of one new task (a group) from a few labelled rows, or from none.

    Args:
        model: a meta-trained `EmpiricalBayes.regressor`.
        num_steps: refinement steps, $K$; those of training by default.

    Examples:
        >>> model = EmpiricalBayes.regressor(num_features=1)
        >>> reg = FewShotRegressor(model).fit([[0.0], [1.0]], [0.0, 1.0])
        >>> mean, std = reg.predict([[0.5]], return_std=True)
        >>> mean.shape, bool(std[0] > 1.0)
        ((1,), True)
    """

    def fit(self, support_X: ArrayLike, support_y: ArrayLike) -> FewShotRegressor:
        """Remember the support set.

        Args:
            support_X: labelled inputs, shape `(S, ...)`; S may be 0.
            support_y: their real labels, shape `(S,)`.

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
        return self

    def predict(
        self, query_X: ArrayLike, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the predictive mean of each row, and its standard deviation where asked, noise included.

        Args:
            query_X: unlabelled inputs of the task, shape `(Q, ...)`; all rows are used together.
            return_std: also return the standard deviation, in units of the label.

        Raises:
            ValueError: if the rows do not fit the support set, are empty, or are not finite.
        """
        out = self._infer(query_X).summaries
        mean: NDArray[np.float64] = out["mean"][-1, 0].double().cpu().numpy()
        if not return_std:
            return mean
        return mean, out["std"][-1, 0].double().cpu().numpy()

    def sample(self, query_X: ArrayLike, num_draws: int = 1000, seed: int = 0) -> NDArray[np.float64]:
        """Draw labels of all rows jointly: each draw is one `w` and new noise, shape `(num_draws, Q)`.

        Args:
            query_X: unlabelled inputs of the task, shape `(Q, ...)`.
            num_draws: number of draws.
            seed: seed of the draws; the global generator is left alone.

        Raises:
            ValueError: if `num_draws` is below 1, or as for `predict`.
        """
        if num_draws < 1:
            raise ValueError(f"num_draws: expected at least 1, got {num_draws}")
        result = self._infer(query_X)
        with torch.no_grad(), seeded(seed, result.q.loc.device):
            w = result.q.distribution().sample((num_draws,))
            eta = self.model.predictor(result.query_features, w)
            way_mask = torch.ones(1, 1, dtype=torch.bool, device=eta.device)
            y = self.model.likelihood.distribution(eta, way_mask).sample()
        draws: NDArray[np.float64] = y[:, 0].double().cpu().numpy()
        return draws
