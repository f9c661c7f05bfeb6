"""Predictions of one frame, which holds all rows of its groups: those with a label, and those without one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ebmeta.estimators.classifier import FewShotClassifier
from ebmeta.estimators.regressor import FewShotRegressor
from ebmeta.foundation.buckets import by_group
from ebmeta.foundation.checks import at_least, checked
from ebmeta.likelihood.base import Likelihood
from ebmeta.model.base import PredictiveModel
from ebmeta.scoring.roles import Roles
from ebmeta.scoring.whole_groups import check_sizes, hashes
from ebmeta.tasks.columns import check_names, read_column, read_keys, read_rows
from ebmeta.tasks.frames import FrameEncoder

__all__ = ["LEVELS", "Scorer", "columns_of"]

#: Levels of the predictive quantiles, by the columns that they come in.
LEVELS = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
Columns = dict[str, Any]  # arrays, or series of pandas


def columns_of(likelihood: Likelihood) -> list[str]:
    """Return the columns of predictions of numbers: moments, quantiles, and probabilities of ordered categories.

    Examples:
        >>> from ebmeta.likelihood import Ordinal
        >>> columns_of(Ordinal(3))
        ['mean', 'std', 'q05', 'q50', 'q95', 'p_0', 'p_1', 'p_2']
    """
    quantiles = LEVELS if likelihood.has_cdf else ()
    return ["mean", "std", *quantiles, *(f"p_{c}" for c in range(likelihood.num_labels or 0))]


@checked(num_steps=at_least(0), num_draws=at_least(0))
@dataclass(frozen=True)
class Scorer:
    """A model, and what it is asked of every frame.

    Args:
        model: of classes or of numbers.
        encoder: what the columns of a frame become, where the model was saved with one.
        roles: of the columns.
        num_steps: refinement steps; those of training by default.
        num_draws: draws of the labels of each row; of numbers alone.
        seed: of the draws. Those of a group depend on it and on the name of the group.
        names: features of the first frame, where the model knows none by name.
    """

    model: PredictiveModel
    encoder: FrameEncoder | None
    roles: Roles
    num_steps: int | None = None
    num_draws: int = 0
    seed: int = 0
    names: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_draws and self.model.likelihood.categorical:
            raise ValueError(f"num_draws: expected 0 for a model of classes, got {self.num_draws}")

    def groups(self, frame: pd.DataFrame) -> list[Any]:
        """Return the group of each row of a frame, all of whose groups are whole as far as the frame tells.

        Raises:
            ValueError: if a column is absent, a group has no name, or it has other than the stated number of rows.
        """
        self.roles.check(frame)
        found = read_keys(f"column {self.roles.groups!r}", frame[self.roles.groups])
        if self.roles.group_rows is not None:
            check_sizes(found, frame[self.roles.group_rows].to_numpy(), self.roles.group_rows)
        return found

    def after(self, frame: pd.DataFrame) -> Scorer:
        """Return what reads a frame and those after it: all by the names of the first, in whatever order they stand.

        Raises:
            ValueError: if a frame has other features than the first one.
        """
        if self.encoder is not None or self.model.feature_names is not None:
            return self
        own = self.roles.features(frame, None)
        if self.names is None:
            return replace(self, names=tuple(own))
        known, found = (sorted(map(str, names)) for names in (self.names, own))
        check_names(known, found, "in the first frame")
        return self

    def columns(self, frame: pd.DataFrame, groups: list[Any]) -> Columns:
        """Return the predictions of the rows that have no label, in their order, by the names of the columns.

        Args:
            frame: all rows of its groups.
            groups: group of each row.

        Raises:
            ValueError: if the rows do not fit the model.
        """
        label = self.roles.label
        labelled = frame[label].notna().to_numpy()
        (read_keys if self.model.likelihood.categorical else read_column)(f"column {label!r}", frame[label][labelled])
        out = {n: frame[n][~labelled].reset_index(drop=True) for n in (self.roles.groups, *self.roles.keep)}
        own = np.empty(len(groups), dtype=object)
        own[:] = groups
        found = (self._of_classes if self.model.likelihood.categorical else self._of_numbers)(frame, own, labelled)
        if twice := sorted(set(found) & set(out)):
            raise ValueError(f"keep: expected columns of names other than those of predictions, got {twice[0]!r}")
        return out | found

    def _x(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the features of all rows, so that what is refused is named by its place in the frame."""
        if self.encoder is not None:
            return np.asarray(self.encoder.transform(frame))
        known = self.model.feature_names or (None if self.names is None else list(self.names))
        return read_rows("frame", frame[self.roles.features(frame, known)])[0]

    def _of_numbers(self, frame: pd.DataFrame, groups: np.ndarray, labelled: np.ndarray) -> Columns:
        levels = list(LEVELS.values()) if self.model.likelihood.has_cdf else []
        names = columns_of(self.model.likelihood)
        draws = [f"draw_{n}" for n in range(self.num_draws)]
        if labelled.all():
            return {name: np.zeros(0) for name in names + draws}
        (known, asked), x = (groups[rows].tolist() for rows in (labelled, ~labelled)), self._x(frame)
        size = of_known = of_asked = covariates = None
        if self.encoder is not None:
            covariates = self.encoder.group_x(frame)
            size = None if self.encoder.size is None else self.encoder.numbers(frame, self.encoder.size)
        if size is not None:
            of_known, of_asked = size[labelled], size[~labelled]
        y: Any = frame[self.roles.label][labelled] if labelled.any() else []
        reg = FewShotRegressor(self.model, self.num_steps)
        reg.fit(x[labelled], y, groups=known, size=of_known, group_x=covariates)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "groups: none of the", UserWarning)  # groups without a label are in order
            ordered = self.model.likelihood.num_labels is not None
            found = reg.summaries(x[~labelled], levels or None, groups=asked, size=of_asked, probs=ordered)
            out = dict(zip(names, found, strict=True))
            return out | (self._draws(reg, x[~labelled], asked, of_asked) if draws else {})

    def _draws(self, reg: FewShotRegressor, x: np.ndarray, groups: list[Any], size: np.ndarray | None) -> Columns:
        """Draw the labels of one group after the other, each from a generator of its own."""
        out, names = np.empty((self.num_draws, len(groups))), list(dict.fromkeys(groups))
        for name, key, rows in zip(names, hashes(names), by_group(groups, names, len(groups)), strict=True):
            at = rows.numpy()
            own = int(np.random.SeedSequence([self.seed, int(key)]).generate_state(1)[0])
            out[:, at] = reg.sample(
                x[at], self.num_draws, own, groups=[name] * len(at), size=None if size is None else size[at]
            )
        return {f"draw_{n}": row for n, row in enumerate(out)}

    def _of_classes(self, frame: pd.DataFrame, groups: np.ndarray, labelled: np.ndarray) -> Columns:
        """Classify one group after the other, each among the classes of its own labels."""
        sides = [groups[rows].tolist() for rows in (labelled, ~labelled)]
        names = list(dict.fromkeys(sides[1]))
        labels, probability = np.empty(len(sides[1]), dtype=object), np.empty(len(sides[1]))
        x, y = self._x(frame), frame[self.roles.label][labelled]
        x_known, x_asked, y_known = x[labelled], x[~labelled], y.to_numpy()
        known, rows = (by_group(side, names, len(side)) for side in sides)
        for name, own, at in zip(names, known, rows, strict=True):
            if not len(own):
                raise ValueError(f"group {name!r}: expected labelled rows of its classes, got none")
            clf = FewShotClassifier(self.model, self.num_steps)
            clf.fit(x_known[own.numpy()], y_known[own.numpy()])
            probs = clf.predict_proba(x_asked[at.numpy()])
            labels[at.numpy()] = clf.classes_[probs.argmax(1)]
            probability[at.numpy()] = probs.max(1)
        return {"prediction": pd.Series(labels, dtype=y.dtype), "probability": probability}
