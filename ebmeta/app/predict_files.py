"""Predictions of the rows of a file from those of another: what `ebmeta predict` does."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ebmeta.app.sources import Tasks, agree, naming, refuse_numbers, roles_of_encoder
from ebmeta.app.tables import Table, read_table, write_table
from ebmeta.estimators import FewShotClassifier, FewShotRegressor
from ebmeta.foundation.writing import write_tree
from ebmeta.likelihood import ScalarLikelihood
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.storage import load_with_encoder
from ebmeta.prediction.trees import predict
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import read_column
from ebmeta.tasks.episodes import class_codes
from ebmeta.tasks.frame_files import as_ids, read_frame
from ebmeta.tasks.frames import FrameEncoder

__all__ = ["predict_files"]

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
WRITES = (".nc", ".npz", ".csv", ".parquet")

Columns = dict[str, np.ndarray]


@dataclass
class _Answer:
    """Predictions of the rows of a query file.

    Args:
        ids: the column that numbers or names the rows, by its name; empty where the file has none.
        group: group of each row, by the name of its column; empty where there is none to show.
        columns: predictions by name.
        batch: the tasks behind them.
        place: number of the row behind each query, shape `(T, Q)`; -1 for padding.
        result: a summary for a machine.
    """

    ids: Columns
    group: Columns
    columns: Columns
    batch: TaskBatch
    place: np.ndarray
    result: dict[str, Any]

    def table(self) -> Columns:
        """Return all columns: row ids, groups, predictions; one whose name is taken is called `predicted_...`."""
        name, values = next(iter(self.ids.items()), ("row", np.arange(len(next(iter(self.columns.values()))))))
        name = name or "row"
        while name in self.group:
            name = f"{name}_number"
        out = {name: values, **self.group}
        for called, predictions in self.columns.items():
            while called in out:
                called = f"predicted_{called}"
            out[called] = predictions
        return out


def predict_files(
    folder: Path,
    support: Path,
    query: Path,
    output: Path,
    *,
    label: str = "y",
    groups: str | None = None,
    num_steps: int | None = None,
    concentration: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predict the rows of a query file from a labelled support file, and write the predictions.

    Args:
        folder: folder of the model.
        support: labelled file.
        query: file of rows to predict; labels in it are ignored.
        output: npz, CSV or parquet for a table, or nc for the whole tree.
        label: name of the labels.
        groups: name of the groups, or None; a model of groups in named columns knows both.
        num_steps: refinement steps; those of training by default.
        concentration: of the classes of the queries, see `ebmeta.FewShotClassifier`.
        overwrite: replace also a file that ebmeta did not write.

    Returns:
        A summary for a machine.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file does not fit the model, or the output is of an unknown type.
    """
    if output.suffix not in WRITES:
        raise ValueError(f"{output}: expected a file of type {', '.join(WRITES)}, got {output.suffix or 'none'}")
    model, encoder = load_with_encoder(folder)
    if concentration is not None and not model.likelihood.categorical:
        raise ValueError(f"--concentration: expected a model of classes, got one of numbers and {concentration}")
    if model.likelihood.categorical:
        if groups is not None:
            raise ValueError(f"--groups: expected a model of groups, got one of classes and {groups!r}")
        labelled, rows = _tables(model, support, query, label, groups)
        refuse_numbers(support, label, labelled.y)
        with naming(support, y=label):
            answer = _classes(model, labelled, rows, num_steps, concentration)
    elif encoder is None:
        labelled, rows = _tables(model, support, query, label, groups)
        with naming(support, y=label):
            y = read_column("y", labelled.y)
            known = None if labelled.groups is None else as_ids(labelled.groups)
            reg = FewShotRegressor(model, num_steps).fit(labelled.X, y, groups=known)
        new = None if rows.groups is None else as_ids(rows.groups)
        shown = {} if groups is None or rows.groups is None else {groups: rows.groups}
        answer = _numbers(reg, rows.X, new, None, shown, rows.ids)
    else:
        with naming(folder):
            agree(Tasks(label=label, groups=groups), encoder)
        answer = _frames(model, encoder, support, query, num_steps)
    if output.suffix == ".nc":
        quantiles = list(QUANTILES.values()) if "q50" in answer.columns else None
        tree = predict(model, answer.batch, num_steps=num_steps, quantiles=quantiles)
        tree["predictive/row"] = xr.DataArray(answer.place, dims=("task", "query"))  # -1 for padding
        write_tree(output, tree, overwrite)
    else:
        write_table(output, answer.table(), overwrite)
    return {"output": str(output), **answer.result}


def _tables(model: EmpiricalBayes, support: Path, query: Path, label: str, groups: str | None) -> tuple[Table, Table]:
    classes, known = model.likelihood.categorical, model.feature_names
    named = {path: None if path.suffix == ".npz" else known for path in (support, query)}
    labelled = read_table(support, label, groups, features=named[support], classes=classes)
    rows = read_table(query, label, groups, labelled=False, features=named[query], classes=classes)
    if labelled.X.shape[1:] != (model.predictor.num_features,):
        raise ValueError(
            f"{support}: expected {model.predictor.num_features} features, as the model was trained on, "
            f"got {labelled.X.shape[1:]}: {labelled.features}"
        )
    if labelled.features is not None and rows.features is not None:
        if set(labelled.features) != set(rows.features):
            raise ValueError(f"{query}: expected the columns of {support}, {labelled.features}, got {rows.features}")
        order = [rows.features.index(name) for name in labelled.features]
        rows = replace(rows, X=rows.X[:, order], features=labelled.features)
    if not len(rows.X):
        raise ValueError(f"{query}: expected at least one row to predict, got none")
    print(f"{support}: {labelled.roles}")
    return labelled, rows


def _classes(
    model: EmpiricalBayes, labelled: Table, rows: Table, num_steps: int | None, concentration: float | None
) -> _Answer:
    y = np.asarray(labelled.y)
    clf = FewShotClassifier(model, num_steps, concentration).fit(labelled.X, y)
    probs = clf.predict_proba(rows.X)
    names = [str(c) for c in clf.classes_]
    columns: Columns = {"prediction": clf.classes_[probs.argmax(1)]}
    columns |= {f"p_{name}": probs[:, c] for c, name in enumerate(names)}
    x, q = (torch.tensor(v, dtype=torch.float64)[None] for v in (labelled.X, rows.X))
    known = None if concentration is None else torch.tensor([float(concentration)])
    batch = TaskBatch(x, torch.tensor(class_codes(y)[1])[None], q, concentration=known)
    result = {
        "rows": len(rows.X),
        "classes": names,
        "mean_confidence": round(float(probs.max(1).mean()), 5),
        "columns": asdict(labelled.roles),
    }
    return _Answer(rows.ids, {}, columns, batch, np.arange(len(rows.X))[None], result)


def _numbers(
    reg: FewShotRegressor,
    x: np.ndarray,
    groups: list[Any] | None,
    size: np.ndarray | None,
    shown: Columns,
    ids: Columns,
) -> _Answer:
    """Return mean, standard deviation and, where there is a cdf, quantiles of each row."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "groups: none of the", UserWarning)  # the result says it
        mean, std = reg.predict(x, return_std=True, groups=groups, size=size)
        columns: Columns = {"mean": mean, "std": std}
        if type(reg.model.likelihood).cdf is not ScalarLikelihood.cdf:  # type: ignore[attr-defined]
            values = reg.quantiles(x, list(QUANTILES.values()), groups=groups, size=size)
            columns |= dict(zip(QUANTILES, values.T, strict=True))
        batch, numbers = reg.placed(x, groups=groups, size=size)
    place = np.full(batch.query_mask.shape, -1)
    place[batch.query_mask.numpy()] = numbers.numpy()
    result = {
        "rows": len(x),
        "groups": batch.num_tasks,
        "groups_with_labels": int(batch.support_mask.any(1).sum()),
        "labelled_rows": len(reg.support_y_),
        "mean_std": round(float(std.mean()), 5),
    }
    return _Answer(ids, shown, columns, batch, place, result)


def _frames(model: EmpiricalBayes, encoder: FrameEncoder, support: Path, query: Path, num_steps: int | None) -> _Answer:
    """Return the predictions of all groups of a query file.

    Where neither file has a group column, their rows are of one group.
    """
    labelled, rows = (read_frame(path, encoder.texts) for path in (support, query))
    shown = {encoder.groups: rows[encoder.groups].to_numpy()} if encoder.groups in rows else {}
    with naming(query):
        if not len(rows):
            raise ValueError("expected at least one row to predict, got none")
        roles = roles_of_encoder(rows, encoder)
    ids = {str(c): rows[c].to_numpy() for c in roles.ids[:1]}
    with naming(support):
        used = roles_of_encoder(labelled, encoder)
    if encoder.groups not in rows and encoder.groups not in labelled:
        labelled, rows = (f.assign(**{encoder.groups: "the group"}) for f in (labelled, rows))
    for frame in (labelled, rows):
        if encoder.groups in frame:
            frame[encoder.groups] = as_ids(frame[encoder.groups])
    with naming(support):
        known = encoder.labels(labelled)
        x, y = encoder.transform(labelled), encoder.numbers(labelled, encoder.y)
        size = None if encoder.size is None else encoder.numbers(labelled, encoder.size)
    with naming(query):
        new = encoder.labels(rows)
        query_x = encoder.transform(rows)
        query_size = None if encoder.size is None else encoder.numbers(rows, encoder.size)
        columns = [encoder.groups, *encoder.group_features]
        lacking, unseen = [c for c in columns if c not in rows], sorted(set(new) - set(known))
        if lacking and unseen:
            raise ValueError(
                f"expected a column {lacking[0]!r}, because {support} has no row of group {unseen[0]!r}, got "
                f"{', '.join(map(str, rows.columns))}"
            )
        both = [f[columns] for f in (labelled, rows) if len(f) and set(columns) <= set(f.columns)]
        group_x = encoder.group_x(pd.concat(both, ignore_index=True) if both else rows)
    with naming(support, y=encoder.y, size=encoder.size, groups=encoder.groups):
        reg = FewShotRegressor(model, num_steps).fit(x, y, groups=known, size=size, group_x=group_x)
    print(f"{support}: {used}")
    answer = _numbers(reg, query_x, new, query_size, shown, ids)
    answer.result["columns"] = asdict(used)
    return answer
