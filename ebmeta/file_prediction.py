"""Predictions of the rows of a file from those of another: what `ebmeta predict` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ebmeta.estimators import FewShotClassifier, FewShotRegressor
from ebmeta.frames import FrameEncoder
from ebmeta.likelihood import ScalarLikelihood
from ebmeta.model import EmpiricalBayes
from ebmeta.persist import load_with_encoder
from ebmeta.predict import predict
from ebmeta.sampling import class_codes
from ebmeta.sources import agree, naming
from ebmeta.tabular import Table, read_frame, read_table, write_table
from ebmeta.tasks import TaskBatch
from ebmeta.writing import write_tree

__all__ = ["predict_files"]

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
WRITES = (".nc", ".npz", ".csv", ".parquet")

Columns = dict[str, np.ndarray]


def predict_files(
    folder: Path,
    support: Path,
    query: Path,
    output: Path,
    label: str = "y",
    groups: str | None = None,
    num_steps: int | None = None,
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
    if model.likelihood.categorical:
        columns, batch, result = _classes(model, *_tables(model, support, query, label, groups), num_steps)
    elif encoder is None:
        labelled, rows = _tables(model, support, query, label, groups)
        reg = FewShotRegressor(model, num_steps).fit(labelled.X, np.asarray(labelled.y), groups=labelled.groups)
        columns, batch, result = _numbers(reg, rows.X, rows.groups, None, groups)
    else:
        with naming(folder):
            agree(label, groups, encoder)
        reg, x, named, size, shown = _frames(model, encoder, support, query, num_steps)
        columns, batch, result = _numbers(reg, x, named, size, shown)
    if output.suffix == ".nc":
        quantiles = list(QUANTILES.values()) if "q50" in columns else None
        write_tree(output, predict(model, batch, num_steps=num_steps, quantiles=quantiles), overwrite)
    else:
        write_table(output, columns, overwrite)
    return {"output": str(output), **result}


def _tables(model: EmpiricalBayes, support: Path, query: Path, label: str, groups: str | None) -> tuple[Table, Table]:
    labelled, rows = read_table(support, label, groups), read_table(query, label, groups, labelled=False)
    if labelled.X.shape[1:] != (model.predictor.num_features,):
        raise ValueError(
            f"{support}: expected {model.predictor.num_features} features, as the model was trained on, "
            f"got {labelled.X.shape[1:]}: {labelled.features}"
        )
    if labelled.features != rows.features:
        raise ValueError(f"{query}: expected the columns of {support}, {labelled.features}, got {rows.features}")
    return labelled, rows


def _classes(
    model: EmpiricalBayes, labelled: Table, rows: Table, num_steps: int | None
) -> tuple[Columns, TaskBatch, dict[str, Any]]:
    y = np.asarray(labelled.y)
    clf = FewShotClassifier(model, num_steps).fit(labelled.X, y)
    probs = clf.predict_proba(rows.X)
    names = [str(c) for c in clf.classes_]
    columns: Columns = {"prediction": clf.classes_[probs.argmax(1)]}
    columns |= {f"p_{name}": probs[:, c] for c, name in enumerate(names)}
    x, q = (torch.tensor(v, dtype=torch.float32)[None] for v in (labelled.X, rows.X))
    batch = TaskBatch(x, torch.tensor(class_codes(y)[1])[None], q)
    result = {"rows": len(rows.X), "classes": names, "mean_confidence": round(float(probs.max(1).mean()), 5)}
    return columns, batch, result


def _numbers(
    reg: FewShotRegressor, x: np.ndarray, groups: np.ndarray | None, size: np.ndarray | None, shown: str | None
) -> tuple[Columns, TaskBatch, dict[str, Any]]:
    """Return mean, standard deviation and, where there is a cdf, quantiles of each row."""
    mean, std = reg.predict(x, return_std=True, groups=groups, size=size)
    columns: Columns = {} if groups is None or shown is None else {shown: groups}
    columns |= {"mean": mean, "std": std}
    if type(reg.model.likelihood).cdf is not ScalarLikelihood.cdf:  # type: ignore[attr-defined]
        values = reg.quantiles(x, list(QUANTILES.values()), groups=groups, size=size)
        columns |= dict(zip(QUANTILES, values.T, strict=True))
    batch = reg.tasks(x, groups=groups, size=size)
    result = {"rows": len(x), "groups": batch.num_tasks, "mean_std": round(float(std.mean()), 5)}
    return columns, batch, result


def _frames(
    model: EmpiricalBayes, encoder: FrameEncoder, support: Path, query: Path, num_steps: int | None
) -> tuple[FewShotRegressor, np.ndarray, np.ndarray, np.ndarray | None, str | None]:
    """Return an estimator of all groups of a support file, and features, groups and sizes of the query file.

    Where neither file has a group column, their rows are of one group.
    """
    labelled, rows = read_frame(support), read_frame(query)
    shown = encoder.groups if encoder.groups in rows else None
    if encoder.groups not in rows and encoder.groups not in labelled:
        labelled, rows = (f.assign(**{encoder.groups: "the group"}) for f in (labelled, rows))
    with naming(support):
        known = np.array(encoder.labels(labelled), dtype=object)
        x, y = encoder.transform(labelled), encoder.numbers(labelled, encoder.y)
        size = None if encoder.size is None else encoder.numbers(labelled, encoder.size)
    with naming(query):
        new = np.array(encoder.labels(rows), dtype=object)
        query_x = encoder.transform(rows)
        query_size = None if encoder.size is None else encoder.numbers(rows, encoder.size)
        columns = [encoder.groups, *encoder.group_features]
        both = [f[columns] for f in (labelled, rows) if len(f)] if encoder.group_features else [rows]
        group_x = encoder.group_x(pd.concat(both, ignore_index=True))
    with naming(support, y=encoder.y, size=encoder.size, groups=encoder.groups):
        reg = FewShotRegressor(model, num_steps).fit(x, y, groups=known, size=size, group_x=group_x)
    return reg, query_x, new, query_size, shown
