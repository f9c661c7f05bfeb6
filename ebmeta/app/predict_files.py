"""Predictions of the rows of one file from the labelled rows of another, for `ebmeta predict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ebmeta.app.flags import Tasks
from ebmeta.app.questions import Columns, OfClasses, OfNumbers, Question, Shared
from ebmeta.app.sources import check_roles, column_errors, refuse_numbers, roles_of_encoder
from ebmeta.app.tables import READS, Table, read_table, write_table
from ebmeta.estimators.classifier import FewShotClassifier
from ebmeta.estimators.regressor import FewShotRegressor
from ebmeta.foundation.telling import named
from ebmeta.foundation.writing import write_tree
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.storage import load_with_encoder
from ebmeta.scoring.engines import Engine
from ebmeta.tasks.columns import read_column
from ebmeta.tasks.frame_files import as_ids, read_frame
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.keys import values_of

__all__ = ["answer", "check_output", "predict_files", "tables_of"]

ROLES = ("--label", "--groups")  # flags that tell the roles of columns
WRITES = (".nc", *READS)


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
    engine: Engine | None = None,
    workers: int = 1,
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
        engine: what shares groups among processes; None for this one alone.
        workers: how many.
        overwrite: replace also a file that ebmeta did not write.

    Returns:
        A summary for a machine.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if a file does not fit the model, or the output is of an unknown type.
    """
    check_output(output)
    model, encoder = load_with_encoder(folder)
    if engine is not None and (model.likelihood.categorical or output.suffix == ".nc"):
        got = "one of classes" if model.likelihood.categorical else f"a tree, {output}"
        raise ValueError(f"--engine: expected a model of groups and a table for an output, got {got}")
    shared = Shared(folder, engine, workers)
    if concentration is not None and not model.likelihood.categorical:
        raise ValueError(f"--concentration: expected a model of classes, got one of numbers and {concentration}")
    if model.likelihood.categorical:
        if groups is not None:
            raise ValueError(f"--groups: expected a model of groups, got one of classes and {groups!r}")
        labelled, rows = tables_of(model, support, query, label, groups)
        refuse_numbers(support, label, labelled.y)
        with column_errors(support, y=label):
            clf = FewShotClassifier(model, num_steps, concentration).fit(labelled.X, np.asarray(labelled.y))
        question: Question = OfClasses(clf, rows.X, rows.ids, labelled.roles, {})
    elif encoder is None:
        labelled, rows = tables_of(model, support, query, label, groups)
        with column_errors(support, y=label, groups=groups):
            y = read_column("y", labelled.y)
            known = None if labelled.groups is None else as_ids(labelled.groups)
            reg = FewShotRegressor(model, num_steps).fit(labelled.X, y, groups=known)
        with column_errors(query, groups=groups):
            new = None if rows.groups is None else as_ids(rows.groups)
        shown = {} if groups is None or rows.groups is None else {groups: rows.groups}
        question = OfNumbers(reg, rows.X, rows.ids, labelled.roles, shown, new, shared)
    else:
        with column_errors(folder):
            check_roles(Tasks(label=label, groups=groups), encoder)
        question = _frames(model, encoder, support, query, num_steps, shared)
    return answer(question, output, overwrite)[1]


def check_output(output: Path, kinds: tuple[str, ...] = WRITES) -> None:
    """Raise `ValueError` where predictions cannot be written to a file of this type."""
    if output.suffix not in kinds:
        raise ValueError(f"{output}: expected a file of type {', '.join(kinds)}, got {output.suffix or 'none'}")


def answer(question: Question, output: Path, overwrite: bool) -> tuple[xr.DataTree | Columns, dict[str, Any]]:
    """Answer a question once and write the answer.

    Args:
        question: rows and a fitted estimator.
        output: npz, CSV or parquet for a table, or nc for the whole tree.
        overwrite: replace also a file that ebmeta did not write.

    Returns:
        The tree, or the columns of the table, and a summary for a machine.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if the rows do not fit the labelled ones.
    """
    found: xr.DataTree | Columns
    if output.suffix == ".nc":
        found = question.tree()
        write_tree(output, found, overwrite)
    else:
        found = question.columns()
        write_table(output, question.table(found), overwrite)
    certainty = {name: round(value, 5) for name, value in question.certainty(found).items()}
    return found, {"output": str(output), **question.facts(), **certainty, "columns": asdict(question.roles)}


def tables_of(
    model: EmpiricalBayes, support: Path, query: Path, label: str, groups: str | None = None, **columns: Any
) -> tuple[Table, Table]:
    """Return the labelled rows of one file, and the rows of another one in the same columns, for a model.

    Args:
        model: the model.
        support: labelled file.
        query: file of rows to predict.
        label: name of the labels.
        groups: name of the groups, or None.
        **columns: `exclude`, `ids` and `flags`, of `read_table`.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if it does not fit the model or the other file.
    """
    classes, known = model.likelihood.categorical, model.feature_names
    columns = {"flags": ROLES, **columns}
    named = {path: None if path.suffix == ".npz" else known for path in (support, query)}
    spare = [*columns.get("exclude", ()), columns.get("ids")]  # one file may lack them
    labelled = read_table(support, label, groups, features=named[support], classes=classes, spare=spare, **columns)
    spare = [*labelled.roles.ignored, *labelled.roles.ids]
    spare = [name for name in columns.get("exclude", ()) if name in spare]
    rows = read_table(
        query, label, groups, labelled=False, features=named[query], classes=classes, spare=spare, **columns
    )
    if not model.predictor.any_features and labelled.X.shape[1:] != (model.predictor.num_features,):
        raise ValueError(
            f"{support}: expected {model.predictor.num_features} features, as the model was trained on, "
            f"got {labelled.X.shape[1:]}: {labelled.features}"
        )
    if labelled.features is not None and rows.features is not None:
        _check_same(query, rows.features, support, labelled.features)
        order = [rows.features.index(name) for name in labelled.features]
        rows = replace(rows, X=rows.X[:, order], features=labelled.features)
    if not len(rows.X):
        raise ValueError(f"{query}: expected at least one row to predict, got none")
    print(f"{support}: {labelled.roles}")
    return labelled, rows


def _check_same(query: Path, names: Sequence[str], support: Path, wanted: Sequence[str]) -> None:
    """Raise `ValueError`, by the first column that is in excess or absent, where two files have unequal features."""
    more = [f"{name!r} too" for name in names if name not in wanted]
    if found := more or [f"none called {name!r}" for name in wanted if name not in names]:
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"{query}: expected the features of {support}, {len(wanted)} columns, got {found[0]}{others}")


def _frames(
    model: EmpiricalBayes, encoder: FrameEncoder, support: Path, query: Path, num_steps: int | None, shared: Shared
) -> OfNumbers:
    """Return the predictions of all groups of a query file.

    Where neither file has a group column, their rows are of one group.
    """
    labelled, rows = (read_frame(path, encoder.texts) for path in (support, query))
    shown = {encoder.groups: values_of(rows[encoder.groups])} if encoder.groups in rows else {}
    with column_errors(query):
        if not len(rows):
            raise ValueError("expected at least one row to predict, got none")
        roles = roles_of_encoder(rows, encoder)
    ids = {str(c): values_of(rows[c]) for c in roles.ids[:1]}
    with column_errors(support):
        used = roles_of_encoder(labelled, encoder)
    if encoder.groups not in rows and encoder.groups not in labelled:
        labelled, rows = (f.assign(**{encoder.groups: "the group"}) for f in (labelled, rows))
    for path, frame in ((support, labelled), (query, rows)):
        with column_errors(path, groups=encoder.groups):
            if encoder.groups in frame:
                frame[encoder.groups] = as_ids(frame[encoder.groups])
    with column_errors(support):
        known = encoder.labels(labelled)
        x, y = encoder.transform(labelled), encoder.numbers(labelled, encoder.y)
        size = None if encoder.size is None else encoder.numbers(labelled, encoder.size)
    with column_errors(query):
        new = encoder.labels(rows)
        query_x = encoder.transform(rows)
        query_size = None if encoder.size is None else encoder.numbers(rows, encoder.size)
        columns = [encoder.groups, *encoder.group_features]
        lacking, unseen = [c for c in columns if c not in rows], sorted(set(new) - set(known))
        if lacking and unseen:
            raise ValueError(
                f"expected a column {lacking[0]!r}, because {support} has no row of group {unseen[0]!r}, got "
                f"{named(rows.columns)}"
            )
        both = [f[columns] for f in (labelled, rows) if len(f) and set(columns) <= set(f.columns)]
        group_x = encoder.group_x(pd.concat(both, ignore_index=True) if both else rows)
    with column_errors(support, y=encoder.y, size=encoder.size, groups=encoder.groups):
        reg = FewShotRegressor(model, num_steps).fit(x, y, groups=known, size=size, group_x=group_x)
    print(f"{support}: {used}")
    return OfNumbers(reg, query_x, ids, used, shown, new, shared, query_size)
