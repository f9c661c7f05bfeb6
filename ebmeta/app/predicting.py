"""The commands that predict rows: `ebmeta classify` and `ebmeta predict`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ebmeta.app.files import Targets, finish
from ebmeta.app.mixed_files import COVERAGE, predict_rows
from ebmeta.app.parser import Whole, app, check_files

if TYPE_CHECKING:
    from ebmeta.foundation.writing import Kind

__all__ = ["classify", "predict"]


@app.command
def classify(
    labelled: Path,
    rows: Path | None = None,
    *,
    output: Path,
    label: str = "y",
    id: str | None = None,
    exclude: str | None = None,
    scale: bool = False,
    concentration: float | None = None,
    outliers: bool = False,
    sets: float | None = None,
    num_steps: Whole | None = None,
    report: Path | None = None,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Classify rows from a few labelled ones, with the classifier that ships with ebmeta; no training.

    Args:
        labelled: file of labelled rows (npz, CSV or parquet): features of any encoder, and a few labels of each class.
            Without a second file, the file of all rows; those whose label is empty are classified.
        rows: file of the unlabelled rows, all together; a label column in it is ignored.
        output: npz, CSV or parquet for predicted labels with class probabilities, after the row's number or its id;
            nc for the whole tree of draws and summaries.
        label: name of the label column or array.
        id: name of the column or array that names the rows, such as a file name.
        exclude: columns that are no features, such as note,source.
        scale: give all features the same mean and standard deviation first, for columns of different units.
        concentration: what is known of the class proportions among the rows: that they come from a Dirichlet
            distribution of this concentration, inf for equal ones.
        outliers: rows may be of none of the classes; a column says how likely each is.
        sets: also write sets of classes that hold the true one so often, such as 0.9; half of the labelled rows
            calibrate them.
        num_steps: refinement steps; those of training by default.
        report: also write a page of one screen, HTML: numbers of rows, the surest and the least sure ones, a picture.
        json: also write a summary to this file.
        overwrite: replace also files that ebmeta did not write; never those that it reads.
    """
    from ebmeta.app.classify_files import classify_files
    from ebmeta.app.sources import listed

    targets: Targets = [("--output", output, "tree" if output.suffix == ".nc" else "table")]
    if report is not None:
        if report.suffix != ".html":
            raise ValueError(f"{report}: expected a file of type .html, got {report.suffix or 'none'}")
        targets.append(("--report", report, "page"))
    check_files(targets, json, overwrite, LABELLED=labelled, ROWS=rows)
    options: dict[str, Any] = {"concentration": concentration, "outliers": outliers, "num_steps": num_steps}
    columns: dict[str, Any] = {"label": label, "ids": id, "exclude": listed(exclude), "scale": scale}
    found = classify_files(labelled, rows, output, sets=sets, overwrite=overwrite, **columns, **options)
    print(f"used: {found.used}")
    print(f"{output}: {found.said}")
    if report is not None:
        from ebmeta.app.classify_page import write_page

        write_page(found, report, overwrite)
        print(f"{report}: how many of each class, the surest and the least sure rows, and a picture")
    finish(found.result, json, overwrite)


@app.command
def predict(
    model: Path,
    support: Path,
    query: Path | None = None,
    *,
    output: Path,
    label: str = "y",
    groups: str | None = None,
    coverage: float | None = None,
    num_steps: Whole | None = None,
    concentration: float | None = None,
    engine: Literal["joblib", "dask"] | None = None,
    workers: Whole | None = None,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Predict the rows of one new task, or of many groups, from a labelled support file.

    Args:
        model: folder of the model; of a mixed model, model/ in the folder of `ebmeta mixed`.
        support: labelled file (npz, CSV or parquet); it may hold any number of classes, or of groups. A group
            of the query file that it lacks is predicted without labels. For a mixed model, the one file of rows: those
            with a label say something of new groups, and all are predicted.
        query: file of rows to predict, those of a task all together; a label column in it is ignored.
        output: npz, CSV or parquet for predicted labels with class probabilities (or group, mean, standard
            deviation, quantiles q05, q50, q95 and probabilities of ordered categories), after the row's number or its
            id in the query file; nc for the whole tree of draws and summaries. For a mixed model mean, sd and both
            ends of an interval.
        label: name of the label column or array; a model of groups in named columns knows it.
        groups: name of the group column or array; a model of groups in named columns knows it.
        coverage: for a mixed model, probability that a label is in its interval, 0.9 by default.
        num_steps: refinement steps; those of training by default.
        concentration: for classes, what is known of their proportions among the rows to predict: that they come
            from a Dirichlet distribution of this concentration, inf for as many rows of every class.
        engine: share groups among processes by joblib or dask, which change no number.
        workers: processes of the engine; all processors by default.
        json: also write a summary to this file.
        overwrite: replace also files that ebmeta did not write; never those that it reads.
    """
    from ebmeta.app.classify_files import counted
    from ebmeta.app.predict_files import predict_files
    from ebmeta.foundation.folders import kind_in
    from ebmeta.mixed.content import KIND

    if workers is not None and (engine is None or workers < 1):
        raise ValueError(f"--workers: expected 1 or more, beside --engine, got {workers} and {engine}")
    kind: Kind = "tree" if output.suffix == ".nc" else "table"
    check_files([("--output", output, kind)], json, overwrite, MODEL=model, SUPPORT=support, QUERY=query)
    if kind_in(model) == KIND:
        others = {"QUERY": query, "--groups": groups, "--num-steps": num_steps, "--concentration": concentration}
        for name, value in (others | {"--engine": engine}).items():
            if value is not None:
                raise ValueError(f"{name}: expected none for a mixed model, which knows its columns, got {value}")
        result = predict_rows(model, support, output, COVERAGE if coverage is None else coverage, overwrite)
        finish(result, json, overwrite)
        return
    if coverage is not None:
        raise ValueError(f"--coverage: expected a mixed model, got another one and {coverage:g}")
    if query is None:
        raise ValueError("QUERY: expected a file of rows to predict, got none")
    result = predict_files(
        model,
        support,
        query,
        output,
        label=label,
        groups=groups,
        num_steps=num_steps,
        concentration=concentration,
        engine=engine,
        workers=workers or os.cpu_count() or 1,
        overwrite=overwrite,
    )
    known = result.get("groups_with_labels")
    of = "" if known is None else f" of {counted(result['groups'], 'group')}, {known} of them with labelled rows"
    print(f"{output}: predictions of {counted(result['rows'], 'row')}{of}")
    if known == 0 and result["labelled_rows"]:
        unknown = f"no group of {query} is among those of {support}; all are predicted from the prior"
        print(f"ebmeta: warning: {unknown}", file=sys.stderr)
    finish(result, json, overwrite)
