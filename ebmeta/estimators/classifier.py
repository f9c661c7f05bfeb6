"""A meta-trained classifier for one new task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin

from ebmeta.estimators.base import FewShot
from ebmeta.foundation.checks import above, check
from ebmeta.model.base import PredictiveModel
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.classes import class_codes

__all__ = ["FewShotClassifier"]

LARGEST = 1e30  # of a concentration: balanced queries


class FewShotClassifier(ClassifierMixin, FewShot):  # type: ignore[misc]
    """Classify the rows of one new task from a few labelled ones.

    Args:
        model: a meta-trained `EmpiricalBayes.classifier`.
        num_steps: refinement steps, $K$; those of training by default.
        concentration: what is known of the class proportions of the queries: that they come from a Dirichlet
            distribution of this concentration, infinity for as many queries of every class; nothing by default.

    Attributes:
        classes_: the distinct labels of the support set, sorted; columns of `predict_proba`.

    Examples:
        >>> from ebmeta import EmpiricalBayes
        >>> model = EmpiricalBayes.classifier(num_features=2)
        >>> clf = FewShotClassifier(model).fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> clf.predict([[0.9, 0.1], [0.2, 0.8]]).tolist()
        ['cat', 'dog']
    """

    def __init__(
        self, model: PredictiveModel, num_steps: int | None = None, concentration: float | None = None
    ) -> None:
        super().__init__(model, num_steps)
        self.concentration = concentration

    def fit(self, X: ArrayLike, y: ArrayLike) -> FewShotClassifier:
        """Remember the support set.

        Args:
            X: labelled inputs, shape `(S, ...)`.
            y: their class labels of any kind, shape `(S,)`.

        Returns:
            The estimator.

        Raises:
            ValueError: if the model is no classifier, the concentration is not above 0, or the arrays are malformed.
        """
        self._check_model(categorical=True)
        check("concentration", self.concentration, float | None, above(0, finite=False))
        self.classes_, codes = class_codes(self._labelled(y), "y")
        self._remember(X, codes.astype(np.int64), len(self.classes_))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, shape `(Q, C)`; all rows are used together.

        Args:
            X: unlabelled inputs of the task, shape `(Q, ...)`.

        Raises:
            ValueError: if the rows do not fit the support set, are empty, or are not finite.
        """
        batch = self.tasks(X)
        asked = [(batch, torch.arange(batch.query_mask.shape[1]))]
        probs = self._answers(asked, lambda inferred, _: inferred.predict(-1)["probs"].movedim(-1, 0)).T
        probs /= probs.sum(-1, keepdims=True)
        return probs

    def tasks(self, X: ArrayLike) -> TaskBatch:
        """Return the task with these rows as its queries, for `ebmeta.predict`."""
        query = self._check_query(X)
        known = None if self.concentration is None else torch.full((1,), min(float(self.concentration), LARGEST))
        return TaskBatch(
            self.support_X_[None],
            self.support_y_[None],
            query[None],
            way_mask=torch.ones(1, self.n_ways_, dtype=torch.bool),
            concentration=known,
        )

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest label of each row, shape `(Q,)`; all rows are used together."""
        probs = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probs.argmax(-1)]
        return labels
