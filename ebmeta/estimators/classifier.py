"""A meta-trained classifier for one new task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from torch import Tensor

from ebmeta.estimators.base import FewShot, whole
from ebmeta.estimators.calibration_rows import calibration_split
from ebmeta.estimators.doubts import tell_of_anchors, tell_of_copies, tell_of_labels, tell_of_lengths, tell_of_rows
from ebmeta.estimators.rows import among, distinct, matched, read_anchors, staying, unlike
from ebmeta.foundation.checks import above, at_least, between, check
from ebmeta.model.base import PredictiveModel
from ebmeta.model.general import general_classifier
from ebmeta.model.posterior import Mixture
from ebmeta.prediction.conformal import ConformalSets
from ebmeta.prediction.suggestion import suggest
from ebmeta.prediction.trees import ask
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.classes import class_codes
from ebmeta.tasks.columns import read_column, read_keys
from ebmeta.tasks.keys import kind_of_keys
from ebmeta.tasks.row_order import check_order
from ebmeta.tasks.spellings import tell_of_near

__all__ = ["FewShotClassifier"]

UNLABELLED = "give rows without a label as pool=, or to predict_proba"
SMALLEST, LARGEST = 1e-30, 1e30  # concentrations: queries of one class, and balanced ones


class FewShotClassifier(ClassifierMixin, FewShot):  # type: ignore[misc]
    """Classify the rows of one new task from a few labelled ones.

    Args:
        model: a meta-trained `EmpiricalBayes.classifier`; by default the one that ships with the package, which
            takes features of any encoder and needs no training (`ebmeta.general_classifier`).
        num_steps: refinement steps, $K$; those of training by default.
        concentration: what is known of the class proportions of the queries: that they come from a Dirichlet
            distribution of this concentration, infinity for equal ones, that is as many queries of every class
            where their number allows; nothing by default.
        outliers: whether rows may be of none of the classes, but of up to three unknown ones and rows alone;
            `outlier_proba` then says how likely each is, and `predict_proba` what it is if it is of a known class. For
            a joint model.
        anchor_size: how many labelled rows an anchor of a class is worth.

    All rows of a call are used together, and with them the pool of `fit`, where there is one. A row that is given
    several times counts once, among labelled rows and among others (`ebmeta.estimators.rows.distinct`). A scaler
    before it in a `Pipeline` learns from labelled rows alone, too few to tell units: scale all rows together first.

    Attributes:
        classes_: the distinct labels of the support set and the anchors, sorted; columns of `predict_proba`.

    Examples:
        >>> clf = FewShotClassifier().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> clf.predict([[0.9, 0.1], [0.2, 0.8]]).tolist()
        ['cat', 'dog']
        >>> from ebmeta import EmpiricalBayes
        >>> own = FewShotClassifier(EmpiricalBayes.classifier(num_features=2))  # meta-trained on classes of one's own
    """

    def __init__(
        self,
        model: PredictiveModel | None = None,
        num_steps: int | None = None,
        concentration: float | None = None,
        outliers: bool = False,
        anchor_size: float = 1.0,
    ) -> None:
        super().__init__(model, num_steps)
        self.concentration = concentration
        self.outliers = outliers
        self.anchor_size = anchor_size

    @property
    def model_(self) -> PredictiveModel:
        if self.model is not None:
            return super().model_
        if "_general" not in vars(self):
            self._general = general_classifier()
        return self._general

    @whole
    def fit(
        self,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        anchors: Mapping[Any, ArrayLike] | None = None,
        pool: ArrayLike | None = None,
    ) -> FewShotClassifier:
        """Remember the support set, and unlabelled rows of the same task where there are some.

        Args:
            X: labelled inputs, shape `(S, ...)`; there may be none where classes have anchors. Inputs without a label
                go to `pool` or `predict_proba`.
            y: their class labels, texts, whole numbers or truth values, shape `(S,)`; -1 is a label like any other.
            anchors: for some classes, or all, an input that stands for the class, such as its name in the space of the
                inputs or its mean elsewhere, each of the shape of an input. A class that has one needs no labelled row.
            pool: unlabelled inputs of the task, shape `(N, ...)`. They count at every later call beside its own rows,
                so that it knows as much of one row as of the whole pile. Labelled rows in it count once, and so do
                rows that a call asks of. A `Pipeline` of scikit-learn does not transform it.

        Returns:
            The estimator.

        Raises:
            ValueError: if the model is no classifier, the concentration is not above 0, there are anchors or outliers
                and the model is not a joint one, or the arrays are malformed.
        """
        self._read(X, y, anchors)
        self.pool_ = None
        tell_of_labels(self.support_X_, self.support_y_, self.classes_.tolist(), self.outliers)
        first = distinct(self.support_X_, self.support_y_)[0]
        self.support_X_, self.support_y_ = self.support_X_[first], self.support_y_[first]
        if pool is not None:
            rows = self._check_query(pool, "pool")
            tell_of_lengths(self.support_X_, rows, name="pool")  # which a pipeline does not scale
            self.pool_ = (rows := rows[distinct(rows)[0]])[staying(rows, self.support_X_)]
        return self

    def _read(self, X: ArrayLike | None, y: ArrayLike | None, anchors: Mapping[Any, ArrayLike] | None) -> None:
        """Remember labelled rows and anchors."""
        if not isinstance(anchors, Mapping | None):
            raise ValueError(f"anchors: expected a mapping from labels to inputs, got {type(anchors).__name__}")
        self._check_settings(bool(anchors))
        check_order(X, y=y)
        if not anchors:
            self.classes_, codes = class_codes(self._labelled(y), "y", UNLABELLED)
            self.anchors_ = None
            self._remember(np.empty((0, 0)) if X is None else X, codes.astype(np.int64), len(self.classes_))
            return
        classes, stands, columns = read_anchors(anchors)
        if (X is None) != (y is None):
            raise ValueError("X and y: expected both, or neither with anchors of all classes, got one of them")
        rows = (stands[:0] if columns is None else pd.DataFrame(stands[:0], columns=columns)) if X is None else X
        labels = [] if y is None else read_keys("y", y, hint=f"; {UNLABELLED}")
        self.classes_, codes = class_codes([*labels, *classes], "y and anchors", UNLABELLED)
        name = "anchors" if X is None else "X"
        self._remember(rows, codes[: len(labels)].astype(np.int64), len(self.classes_), name)
        shape = tuple(self.support_X_.shape[1:])
        if stands.shape[1:] != shape:
            raise ValueError(f"anchors: expected each of the shape {shape} of an input, got {stands.shape[1:]}")
        if columns is not None:
            self._columns(stands, columns, reset=False)
        own, size = torch.zeros(len(self.classes_), *shape, dtype=torch.float64), torch.zeros(len(self.classes_))
        where = torch.from_numpy(codes[len(labels) :])
        own[where], size[where] = torch.from_numpy(stands), 1.0
        self.anchors_ = own, size

    def _check_settings(self, anchors: bool) -> None:
        """Refuse what the constructor or `set_params` was given, at each call that uses it."""
        self._check_model(categorical=True)
        check("concentration", self.concentration, float | None, above(0, finite=False))
        check("outliers", self.outliers, bool)
        check("anchor_size", self.anchor_size, float, above(0))
        for name, given in (("anchors", anchors), ("outliers", self.outliers)):
            if given and not self.model_.joint:
                raise ValueError(f"{name}: expected none but for a joint model of inputs and labels, got some")

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, shape `(Q, C)`; all rows are used together.

        Args:
            X: unlabelled inputs of the task, shape `(Q, ...)`. A labelled row among them changes no answer for others,
                as in the pool, also where it was rounded or computed anew (`ebmeta.tasks.alike`). Its own answer is
                that for a new row of the same values.

        Raises:
            ValueError: if the rows do not fit the support set, are empty, or are not finite.
        """
        return self._probs(self._check_query(X))

    def _probs(self, query: Tensor) -> NDArray[np.float64]:
        probs = self._of_rows(query, lambda inferred: inferred.predict(-1)["probs"].movedim(-1, 0)).T
        probs /= probs.sum(-1, keepdims=True)
        return probs

    def predict_sets(self, X: ArrayLike, level: float = 0.9, seed: int = 0) -> NDArray[np.bool_]:
        r"""Return sets of classes that hold the true one with a stated probability, shape `(Q, C)`.

        Half of the labelled rows calibrate, drawn at random: they are classified beside the rows, from the other half
        (split conformal). One row of each class always stays to learn from. Over rows that are drawn like the $n$
        labelled ones, a class of these $C$ is left out of its set with a probability of at most
        $1 - \text{level} + C / (n + 1)$, whatever the model. The likeliest class of `predict_proba` is always in its
        set. Derivation: `theory/conformal.md`.

        Args:
            X: as of `predict_proba`; a labelled row among them changes no set of others.
            level: probability that a set must hold the true class.
            seed: seed of the draw.

        Raises:
            ValueError: if the level is not between 0 and 1, there are too few labelled rows for it, or as of
                `predict_proba`.
        """
        check("level", level, float, between(0, 1))
        check("seed", seed, int, at_least(0))
        query = self._check_query(X)
        alone = torch.zeros(self.n_ways_, dtype=torch.bool) if self.anchors_ is None else self.anchors_[1] > 0
        learned, held = calibration_split(self.support_y_, alone, level, seed)
        half, calibrating = copy.copy(self), self.support_X_[held]
        half.support_X_, half.support_y_ = self.support_X_[learned], self.support_y_[learned]
        place = matched(query, calibrating)  # a row that calibrates counts once
        stays = place < 0
        probs = half._probs(torch.cat([query[stays], calibrating]))
        of_rows, of_held = probs[np.where(stays, stays.cumsum() - 1, stays.sum() + place)], probs[stays.sum() :]
        conformal = ConformalSets(level=level).calibrate_probs(of_held[:, None], self.support_y_[held].numpy()[:, None])
        sets: NDArray[np.bool_] = conformal.predict_probs(of_rows[None])["sets"].values[0]
        sets[np.arange(len(query)), self._probs(query).argmax(1)] = True
        return sets

    def outlier_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability that each row is of none of the classes, shape `(Q,)`; all rows are used together.

        Args:
            X: as of `predict_proba`.

        Raises:
            ValueError: if the estimator was not built with `outliers=True`, or as of `predict_proba`.
        """
        if not self.outliers:
            raise ValueError("outlier_proba: expected an estimator with outliers=True, got outliers=False")
        return self._of_rows(self._check_query(X), lambda inferred: inferred.predict(-1)["outlier"])

    def suggest(self, X: ArrayLike, n: int = 1) -> NDArray[np.int64]:
        """Return which rows to label next, best first, shape `(n,)`: `X[clf.suggest(X, n)]`.

        They are the rows whose labels tell most of the labels of all other rows (`ebmeta.prediction.suggestion`), those
        of the pool too. Labelled rows are never among them, nor are copies of rows.

        Args:
            X: as of `predict_proba`.
            n: how many rows are labelled together.

        Raises:
            ValueError: if the model is not a joint one, fewer rows are without a label and unlike each other, or as of
                `predict_proba`.
        """
        check("n", n, int, at_least(1))
        if not self.model_.joint:
            raise ValueError("suggest: expected a joint model of inputs and labels, got one of labels alone")
        query = self._check_query(X)
        stays, new = staying(query, self.support_X_), unlike(query, self.support_X_)
        stays[np.setdiff1d(np.arange(len(query)), distinct(query)[0])] = False
        if n > int(new.sum()):
            raise ValueError(
                f"n: expected at most the number of rows that are new and unlike, {int(new.sum())}, got {n}"
            )
        batch = self._task(query[stays])
        mine = torch.zeros(1, batch.query_mask.shape[1], dtype=torch.bool)
        mine[0, : int(stays.sum())] = new[stays]
        chosen = ask(self.model_, [batch], lambda inferred, _: suggest(inferred, mine, n).cpu(), self.num_steps)
        found: NDArray[np.int64] = stays.nonzero()[chosen[0][0], 0].numpy()
        return found

    def _of_rows(self, query: Tensor, question: Callable[[Mixture], Tensor]) -> NDArray[np.float64]:
        """Return the answers of inference for these rows, shape `(..., Q)`, in which every row counts but once.

        Rows that are a labelled one are asked beside all; the others, beside those that are left without it.
        """
        first, which = distinct(query)
        query = query[first]
        answers = self._asked(self._task(query), len(query), question)
        fresh = ~among(query, self.support_X_)
        if fresh.any() and not fresh.all():
            stays = staying(query, self.support_X_).numpy()
            others = self._asked(self._batch(query[stays]), int(stays.sum()), question)
            answers[..., fresh] = others[..., fresh[stays]]
        return answers[..., which]

    def _asked(self, batch: TaskBatch, number: int, question: Callable[[Mixture], Tensor]) -> NDArray[np.float64]:
        """Return the answers for the first queries of a task; those for the pool are left out."""
        asked = [(batch, torch.arange(batch.query_mask.shape[1]))]
        return self._answers(asked, lambda inferred, _: question(inferred))[..., :number]

    def tasks(self, X: ArrayLike) -> TaskBatch:
        """Return the task with these rows as its first queries, and those of the pool next, for `ebmeta.predict`.

        All rows are queries of it, also labelled ones and copies, which then count twice.
        """
        query = self._check_query(X)
        tell_of_copies(query)
        return self._task(query)

    def _task(self, query: Tensor) -> TaskBatch:
        """Return the task of some rows, and warn of what makes its answers doubtful."""
        batch = self._batch(query)
        rows = batch.support_x[0], batch.query_x[0]
        if self.model_.predictor.any_features:
            tell_of_rows(*rows, self.n_ways_, getattr(self, "feature_names_in_", None))
        else:  # a trained model has units of its own
            tell_of_lengths(*rows)
        if self.anchors_ is not None:
            tell_of_anchors(self.anchors_[0][self.anchors_[1] > 0], rows[1])
        return batch

    def _batch(self, query: Tensor) -> TaskBatch:
        self._check_settings(self.anchors_ is not None)
        if self.pool_ is not None:
            query = torch.cat([query, self.pool_[staying(self.pool_, query)]])
        known = self.concentration
        anchor, size = (None, None) if self.anchors_ is None else (v[None] for v in self.anchors_)
        return TaskBatch(
            self.support_X_[None],
            self.support_y_[None],
            query[None],
            way_mask=torch.ones(1, self.n_ways_, dtype=torch.bool),
            concentration=None if known is None else torch.full((1,), min(max(float(known), SMALLEST), LARGEST)),
            anchor=anchor,
            anchor_size=None if size is None else self.anchor_size * size,
            outliers=torch.ones(1, dtype=torch.bool) if self.outliers else None,
        )

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest label of each row, shape `(Q,)`; all rows are used together."""
        probs = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probs.argmax(-1)]
        return labels

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the share of rows whose predicted label is right; arguments as of `predict`.

        Args:
            X: as of `predict_proba`.
            y: their labels, shape `(Q,)`.
            sample_weight: how much each row counts, shape `(Q,)`.

        Raises:
            ValueError: if labels are of another kind than those of `fit`, or have the rows in another order by their
                index, or as of `predict`.
        """
        query = self._check_query(X)
        check_order(X, y=y, sample_weight=sample_weight)
        labels = read_keys("y", y, len(query))
        known = self.classes_.tolist()
        if (kind := kind_of_keys(labels)) != (wanted := kind_of_keys(known)):
            raise ValueError(
                f"y: expected labels as those of fit, the {wanted} {known[0]!r}, got the {kind} {labels[0]!r}"
            )
        weight = None if sample_weight is None else read_column("sample_weight", sample_weight, len(query))
        tell_of_near(labels, known, "y", "classes")
        return float(super().score(X, labels, weight))
