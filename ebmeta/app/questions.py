"""What is asked of a fitted estimator: the rows of a file, as a table or as a tree."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ebmeta.app.tables import Roles
from ebmeta.estimators.classifier import FewShotClassifier
from ebmeta.estimators.regressor import FewShotRegressor
from ebmeta.estimators.rows import among, distinct, groups_of, sizes_of, staying
from ebmeta.prediction.trees import predict
from ebmeta.scoring.chunks import answer, chunks
from ebmeta.scoring.engines import Engine, sharing
from ebmeta.scoring.frame import LEVELS, columns_of
from ebmeta.tasks.columns import read_rows

__all__ = ["SEPARATOR", "Columns", "OfClasses", "OfNumbers", "Question", "Shared", "joined"]

Columns = dict[str, np.ndarray]
SEPARATOR = "|"  # between the names of a set of classes


@dataclass
class Question:
    """Rows to predict, and an estimator fitted to the labelled rows; table and tree take one inference each.

    Args:
        estimator: fitted to the support file.
        rows: the query file.
        ids: the column that numbers or names the rows, by its name; empty where the file has none.
        roles: what the columns of the support file are.
        shown: group of each row, by the name of its column; empty where there is none to show.
    """

    estimator: FewShotClassifier | FewShotRegressor
    rows: np.ndarray
    ids: Columns
    roles: Roles
    shown: Columns

    def columns(self) -> Columns:
        """Return the predictions of the rows by name."""
        raise NotImplementedError

    def tree(self) -> xr.DataTree:
        """Return the predictions of the tasks, with the row behind each query, -1 for padding."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return facts of the files, for the machine-readable result."""
        raise NotImplementedError

    def certainty(self, found: xr.DataTree | Columns) -> dict[str, float]:
        """Return the mean confidence or width of the predictions by name."""
        raise NotImplementedError

    def table(self, columns: Columns) -> Columns:
        """Return all columns: row ids, groups, predictions; one whose name is taken is called `predicted_...`."""
        name, values = next(iter(self.ids.items()), ("row", np.arange(len(self.rows))))
        return joined((name or "row", values), self.shown, columns)


def joined(ids: tuple[str, np.ndarray], shown: Columns, columns: Columns) -> Columns:
    """Return the columns of a table of rows; see `Question.table`.

    Examples:
        >>> list(joined(("row", np.arange(1)), {"row": np.zeros(1), "mean": np.ones(1)}, {"mean": np.zeros(1)}))
        ['row_number', 'row', 'mean', 'predicted_mean']
    """
    name, values = ids
    while name in shown:
        name = f"{name}_number"
    out = {name: values, **shown}
    for called, predictions in columns.items():
        while called in out:
            called = f"predicted_{called}"
        out[called] = predictions
    return out


@dataclass
class OfClasses(Question):
    """The question of the classes of rows; `sets` is the level of sets of them, or None, and `size` their mean size."""

    estimator: FewShotClassifier
    rows: Any  # an array or a frame
    sets: float | None = None
    size: float | None = None

    def columns(self) -> Columns:
        probs = self.estimator.predict_proba(self.rows)
        names = [f"p_{c}" for c in self.estimator.classes_]
        out = {"prediction": self.estimator.classes_[probs.argmax(1)], **dict(zip(names, probs.T, strict=True))}
        if self.estimator.outliers:
            out["outlier"] = self.estimator.outlier_proba(self.rows)
        if self.sets is not None:
            held = self.estimator.predict_sets(self.rows, self.sets)
            self.size = float(held.sum(1).mean())
            out["set"] = np.array([SEPARATOR.join(map(str, self.estimator.classes_[row])) for row in held])
        return out

    def tree(self) -> xr.DataTree:
        """Return the predictions of all rows as one task, in which each counts as in `columns`: at most once."""
        clf, query = self.estimator, torch.from_numpy(read_rows("X", self.rows)[0].astype(np.float64))
        first, which = distinct(query)
        fresh = ~among(query[first], clf.support_X_)
        tree, place = self._predicted(first), np.arange(len(first))
        if fresh.any() and not fresh.all():  # a labelled row changes no answer for others
            stays = staying(query[first], clf.support_X_).numpy()
            own, known = np.flatnonzero(fresh[stays]), np.flatnonzero(~fresh)
            tree = _side_by_side((self._predicted(first[stays]), own), (tree, known))
            place = np.argsort(np.concatenate([np.flatnonzero(fresh), known]))
        if len(first) < len(which) or not fresh.all():
            tree = _side_by_side((tree, place[which]))
        tree["predictive/row"] = xr.DataArray(np.arange(len(self.rows))[None], dims=("task", "query"))
        return tree

    def _predicted(self, numbers: np.ndarray) -> xr.DataTree:
        """Return the predictions of the task that has some of the rows."""
        rows = self.rows.iloc[numbers] if isinstance(self.rows, pd.DataFrame) else self.rows[numbers]
        return predict(self.estimator.model_, self.estimator.tasks(rows), num_steps=self.estimator.num_steps)

    def facts(self) -> dict[str, Any]:
        return {"rows": len(self.rows), "classes": [str(c) for c in self.estimator.classes_]}

    def certainty(self, found: xr.DataTree | Columns) -> dict[str, float]:
        if isinstance(found, xr.DataTree):
            probs = np.asarray(found["predictive/probs"].isel(step=-1, task=0))
        else:
            probs = np.stack([found[f"p_{c}"] for c in self.estimator.classes_], 1)
        return {"mean_confidence": float(probs.max(1).mean())}


@dataclass(frozen=True)
class Shared:
    """Who predicts groups: processes that read the model from its folder; this one alone where there is no engine."""

    folder: Path
    engine: Engine | None = None
    workers: int = 1


@dataclass
class OfNumbers(Question):
    """The question of the numbers of rows of one group or of many; `groups` and `size` are of the rows to predict."""

    estimator: FewShotRegressor
    groups: list[Any] | None
    shared: Shared
    size: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.levels = list(LEVELS.values()) if self.estimator.model_.likelihood.has_cdf else None

    def columns(self) -> Columns:
        sizes_of(self.size, len(self.rows))
        parts = list(chunks(self.shared.folder, self.estimator, self.rows, self.groups, self.size, self.levels))
        names = columns_of(self.estimator.model_.likelihood)
        found = np.empty((len(names), len(self.rows)))
        with sharing(self.shared.engine, self.shared.workers) as mapped:
            for part, values in zip(parts, mapped(answer, parts), strict=True):
                found[:, part.at] = values
        return dict(zip(names, found, strict=True))

    def tree(self) -> xr.DataTree:
        with _silent():
            batch, numbers = self.estimator.placed(self.rows, groups=self.groups, size=self.size)
        tree = predict(self.estimator.model_, batch, num_steps=self.estimator.num_steps, quantiles=self.levels)
        row = np.full(batch.query_mask.shape, -1)
        row[batch.query_mask.numpy()] = numbers.numpy()
        tree["predictive/row"] = xr.DataArray(row, dims=("task", "query"))
        return tree

    def facts(self) -> dict[str, Any]:
        known, labelled = self.estimator.groups_, len(self.estimator.support_y_)
        asked = set(groups_of(self.groups, len(self.rows)) or [None])
        labelled_groups = asked & set(known) if known is not None else asked if labelled else set()
        return {
            "rows": len(self.rows),
            "groups": len(asked),
            "groups_with_labels": len(labelled_groups),
            "labelled_rows": labelled,
        }

    def certainty(self, found: xr.DataTree | Columns) -> dict[str, float]:
        std = found["predictive/std"].isel(step=-1) if isinstance(found, xr.DataTree) else found["std"]
        return {"mean_std": float(std.mean())}


def _side_by_side(*parts: tuple[xr.DataTree, np.ndarray]) -> xr.DataTree:
    """Return some queries of each of some trees as those of one; what is of no query is that of the first tree."""
    out = {}
    for node in parts[0][0].subtree:
        sets = [tree[node.path].to_dataset() for tree, _ in parts]
        if "query" in sets[0].dims:
            chosen = [data.isel(query=numbers) for data, (_, numbers) in zip(sets, parts, strict=True)]
            of_rows = xr.concat(
                [data.drop_vars([n for n, v in data.items() if "query" not in v.dims]) for data in chosen], "query"
            )
            sets[0] = of_rows.assign({n: v for n, v in sets[0].items() if "query" not in v.dims})
            sets[0] = sets[0].assign_coords(query=np.arange(sets[0].sizes["query"]))
        out[node.path] = sets[0]
    return xr.DataTree.from_dict(out)


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the warning that no group has labels, because the result says how many have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "groups: none of the", UserWarning)
        yield
