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
from ebmeta.model.base import PredictiveModel
from ebmeta.scoring.roles import Roles
from ebmeta.scoring.whole_groups import check_sizes, hashes
from ebmeta.tasks.columns import check_names, read_column, read_keys
from ebmeta.tasks.frames import FrameEncoder

__all__ = ["LEVELS", "Scorer"]

#: Levels of the predictive quantiles, by the columns that they come in.
LEVELS = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
Columns = dict[str, Any]  # arrays, or series of pandas


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
        asked = frame[~labelled]
        out = {name: asked[name].reset_index(drop=True) for name in (self.roles.groups, *self.roles.keep)}
        own = np.empty(len(groups), dtype=object)
        own[:] = groups
        sides = (frame[labelled], own[labelled].tolist()), (asked, own[~labelled].tolist())
        found = self._of_classes(*sides) if self.model.likelihood.categorical else self._of_numbers(*sides)
        if twice := sorted(set(found) & set(out)):
            raise ValueError(f"keep: expected columns of names other than those of predictions, got {twice[0]!r}")
        return out | found

    def _x(self, frame: pd.DataFrame) -> Any:
        if self.encoder is not None:
            return self.encoder.transform(frame)
        known = self.model.feature_names or (None if self.names is None else list(self.names))
        return frame[self.roles.features(frame, known)]

    def _of_numbers(self, labelled: tuple[pd.DataFrame, list[Any]], asked: tuple[pd.DataFrame, list[Any]]) -> Columns:
        levels = list(LEVELS.values()) if self.model.likelihood.has_cdf else []
        names = ["mean", "std", *(LEVELS if levels else ())]
        draws = [f"draw_{n}" for n in range(self.num_draws)]
        if not len(asked[0]):
            return {name: np.zeros(0) for name in names + draws}
        sizes: list[np.ndarray | None] = [None, None]
        covariates = None
        if self.encoder is not None:
            if self.encoder.size is not None:
                sizes = [self.encoder.numbers(frame, self.encoder.size) for frame, _ in (labelled, asked)]
            covariates = self.encoder.group_x(pd.concat([labelled[0], asked[0]], ignore_index=True))
        reg = FewShotRegressor(self.model, self.num_steps)
        y: Any = labelled[0][self.roles.label] if len(labelled[0]) else []
        reg.fit(self._x(labelled[0]), y, groups=labelled[1], size=sizes[0], group_x=covariates)
        x = self._x(asked[0])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "groups: none of the", UserWarning)  # groups without a label are in order
            found = reg.summaries(x, levels or None, groups=asked[1], size=sizes[1])
            out = dict(zip(names, found, strict=True))
            return out | (self._draws(reg, x, asked[1], sizes[1]) if draws else {})

    def _draws(self, reg: FewShotRegressor, x: Any, groups: list[Any], size: np.ndarray | None) -> Columns:
        """Draw the labels of one group after the other, each from a generator of its own."""
        out, names = np.empty((self.num_draws, len(groups))), list(dict.fromkeys(groups))
        x = np.asarray(x) if self.encoder is not None else x.reset_index(drop=True)
        for name, key, rows in zip(names, hashes(names), by_group(groups, names, len(groups)), strict=True):
            at = rows.numpy()
            own = int(np.random.SeedSequence([self.seed, int(key)]).generate_state(1)[0])
            part = x[at] if self.encoder is not None else x.iloc[at]
            out[:, at] = reg.sample(
                part, self.num_draws, own, groups=[name] * len(at), size=None if size is None else size[at]
            )
        return {f"draw_{n}": row for n, row in enumerate(out)}

    def _of_classes(self, labelled: tuple[pd.DataFrame, list[Any]], asked: tuple[pd.DataFrame, list[Any]]) -> Columns:
        """Classify one group after the other, each among the classes of its own labels."""
        names = list(dict.fromkeys(asked[1]))
        labels = np.empty(len(asked[0]), dtype=object)
        probability = np.empty(len(asked[0]))
        known, rows = (by_group(groups, names, len(groups)) for _, groups in (labelled, asked))
        for name, own, at in zip(names, known, rows, strict=True):
            if not len(own):
                raise ValueError(f"group {name!r}: expected labelled rows of its classes, got none")
            support = labelled[0].iloc[own.numpy()]
            clf = FewShotClassifier(self.model, self.num_steps)
            clf.fit(self._x(support), support[self.roles.label].to_numpy())
            probs = clf.predict_proba(self._x(asked[0].iloc[at.numpy()]))
            labels[at.numpy()] = clf.classes_[probs.argmax(1)]
            probability[at.numpy()] = probs.max(1)
        kind = labelled[0][self.roles.label].dtype
        return {"prediction": pd.Series(labels, dtype=kind), "probability": probability}
